//! The HTTP client of the heartbeat: one kept connection, one short deadline.

use std::time::Duration;

use super::HiveError;

/// How an address answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// 2xx.
    Taken,
    /// It is there and has no such route.
    NoRoute,
    /// Anything else, in a word for the log.
    Failed(String),
}

pub(super) struct Client {
    agent: ureq::Agent,
}

/// Settings for addresses that the operator has named: the client goes there and nowhere else, neither by a redirect nor through a proxy.
pub(crate) fn agent_config(timeout: Duration) -> ureq::config::Config {
    ureq::Agent::config_builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .max_idle_connections(1)
        .user_agent(concat!("sd-worker/", env!("CARGO_PKG_VERSION")))
        .build()
}

impl Client {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { agent: agent_config(timeout).new_agent() }
    }

    pub(super) fn post(&self, url: &str, body: &str) -> Answer {
        match self.agent.post(url).header("content-type", "application/json").send(body) {
            Ok(mut answer) => {
                // Read, though not used, so that the connection can be kept.
                let _ = answer.body_mut().with_config().limit(64 * 1024).read_to_vec();
                match answer.status().as_u16() {
                    200..300 => Answer::Taken,
                    404 | 405 => Answer::NoRoute,
                    status => Answer::Failed(format!("status {status}")),
                }
            }
            Err(e) => Answer::Failed(e.to_string()),
        }
    }
}

/// Checks an address given by the operator and returns it without a slash at its end.
///
/// # Errors
/// [`HiveError::Url`].
pub fn check_url(url: &str) -> Result<String, HiveError> {
    let bad = |reason: &str| HiveError::Url { url: url.to_owned(), reason: reason.to_owned() };
    let parsed: http::Uri = url.parse().map_err(|_| bad("it is not a URL"))?;
    match parsed.scheme_str() {
        Some("http" | "https") => {}
        _ => return Err(bad("it does not start with http:// or https://")),
    }
    if parsed.host().is_none_or(str::is_empty) {
        return Err(bad("it names no host"));
    }
    if parsed.query().is_some() {
        return Err(bad("it has a query"));
    }
    Ok(url.trim_end_matches('/').to_owned())
}
