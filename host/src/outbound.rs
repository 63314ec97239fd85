//! Requests that the worker sends by itself, to a hive or a webhook: one way to check an address, one to go there.

use std::time::Duration;

/// Not an address to send to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{url:?} is no address to send to: {reason}; write for example http://queen:7833")]
pub struct BadUrl {
    /// What was given.
    pub url: String,
    /// What is wrong.
    pub reason: &'static str,
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

/// Checks an address given by the operator and returns it without a slash at its end.
///
/// # Errors
/// [`BadUrl`].
pub fn check_url(url: &str) -> Result<String, BadUrl> {
    let bad = |reason| BadUrl { url: url.to_owned(), reason };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_are_taken() {
        for (url, expected) in [
            ("http://queen:7833", Some("http://queen:7833")),
            ("https://queen/hive/", Some("https://queen/hive")),
            ("queen:7833", None),
            ("ftp://queen", None),
            ("http://", None),
            ("http://queen/?a=b", None),
            ("", None),
        ] {
            assert_eq!(check_url(url).ok().as_deref(), expected, "{url}");
        }
    }
}
