//! One GET to the hub: redirects followed by hand, so that the token never goes to another host.

use super::{HubError, HubOptions};
use std::{io::Read, time::Duration};
use ureq::{Agent, Body, http::Response};

/// The most redirects of one request.
const MAX_REDIRECTS: usize = 5;
/// The most bytes of the list of a repository's files.
const MAX_LISTING_BYTES: u64 = 16 << 20;

/// A connection to one endpoint.
pub(super) struct Client<'a> {
    agent: Agent,
    options: &'a HubOptions,
    endpoint: &'a str,
}

impl<'a> Client<'a> {
    pub(super) fn new(options: &'a HubOptions) -> Result<Self, HubError> {
        let endpoint = options.endpoint.trim_end_matches('/');
        origin(endpoint).ok_or(HubError::BadEndpoint)?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(options.stall.min(Duration::from_secs(20))))
            .timeout_recv_response(Some(options.stall))
            .timeout_per_read(Some(options.stall))
            .user_agent(concat!("sd-worker/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self { agent: config.into(), options, endpoint })
    }

    /// The list of files at a revision, as text.
    pub(super) fn listing(&self, repo: &str, revision: &str) -> Result<String, HubError> {
        let revision = revision.replace('/', "%2F");
        let url = format!("{}/api/models/{repo}/revision/{revision}?blobs=true", self.endpoint);
        let mut response = self.get(&url, repo, None)?;
        let mut text = String::new();
        let mut body = response.body_mut().as_reader().take(MAX_LISTING_BYTES + 1);
        body.read_to_string(&mut text).map_err(|error| self.broken(repo, &error))?;
        if text.len() as u64 > MAX_LISTING_BYTES {
            return Err(HubError::BadAnswer { what: repo.into(), reason: "its list of files has no end".into() });
        }
        Ok(text)
    }

    /// A file from a byte on. The status is 200 (the whole file) or 206 (from that byte on).
    pub(super) fn file(&self, repo: &str, commit: &str, name: &str, from: u64) -> Result<Response<Body>, HubError> {
        self.get(&format!("{}/{repo}/resolve/{commit}/{name}", self.endpoint), name, Some(from))
    }

    fn get(&self, url: &str, what: &str, from: Option<u64>) -> Result<Response<Body>, HubError> {
        let mut url = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.agent.get(&url).header("Accept-Encoding", "identity");
            if let Some(token) = self.options.token.as_ref().filter(|_| origin(&url) == origin(self.endpoint)) {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            if let Some(from @ 1..) = from {
                request = request.header("Range", format!("bytes={from}-"));
            }
            let response = request.call().map_err(|error| self.transport(what, error))?;
            match response.status().as_u16() {
                200 | 206 => return Ok(response),
                301 | 302 | 303 | 307 | 308 => {
                    let location = response.headers().get("location").and_then(|value| value.to_str().ok());
                    url = redirect(&url, location.unwrap_or_default(), what)?;
                }
                status => return Err(refusal(status, what)),
            }
        }
        Err(HubError::BadRedirect { what: what.into(), reason: "in a circle".into() })
    }

    fn transport(&self, what: &str, error: ureq::Error) -> HubError {
        let what = what.to_owned();
        match error {
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
                HubError::Unreachable { what, reason: "no answer to the connection".into() }
            }
            ureq::Error::Timeout(_) => HubError::Timeout { what, seconds: self.options.stall.as_secs() },
            ureq::Error::HostNotFound => HubError::Unreachable { what, reason: "the host name is not known".into() },
            ureq::Error::Io(error) => self.broken(&what, &error),
            error => HubError::Unreachable { what, reason: error.to_string() },
        }
    }

    /// A connection that broke: timeouts keep their own kind.
    pub(super) fn broken(&self, what: &str, error: &std::io::Error) -> HubError {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
        let timeout = matches!(inner, Some(ureq::Error::Timeout(_)))
            || matches!(error.kind(), std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock);
        if timeout {
            return HubError::Timeout { what: what.into(), seconds: self.options.stall.as_secs() };
        }
        HubError::Unreachable { what: what.into(), reason: error.kind().to_string() }
    }
}

fn refusal(status: u16, what: &str) -> HubError {
    let what = what.to_owned();
    match status {
        401 => HubError::Unauthorized { what },
        403 => HubError::Forbidden { what },
        404 => HubError::NotFound { what },
        429 => HubError::RateLimited { what },
        500..=599 => HubError::Server { what, status, attempts: 1 },
        _ => HubError::Status { what, status },
    }
}

/// `https://host:port` of a URL; `None` if it is not an http(s) URL, or carries a password.
fn origin(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let host =
        rest.split(['/', '?', '#']).next().filter(|host| !host.is_empty() && !host.contains(['@', '\\', ' ']))?;
    matches!(scheme.as_str(), "http" | "https").then(|| format!("{scheme}://{}", host.to_ascii_lowercase()))
}

fn redirect(from: &str, location: &str, what: &str) -> Result<String, HubError> {
    let bad = |reason: &str| HubError::BadRedirect { what: what.into(), reason: reason.into() };
    let base = origin(from).ok_or_else(|| bad("from nowhere"))?;
    let to = if location.starts_with("//") {
        let scheme = base.split(':').next().unwrap_or("https");
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{base}{location}")
    } else {
        location.to_owned()
    };
    let target = origin(&to).ok_or_else(|| bad("to something that is not a web address"))?;
    if base.starts_with("https:") && target.starts_with("http:") {
        return Err(bad("from https to plain http, which is not followed"));
    }
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects() {
        #[track_caller]
        fn check(from: &str, location: &str, expect: Option<&str>) {
            assert_eq!(redirect(from, location, "x").ok().as_deref(), expect, "{from} → {location}");
        }
        check("https://hub/a/b?c", "/d", Some("https://hub/d"));
        check("https://hub/a", "https://cdn:8/d", Some("https://cdn:8/d"));
        check("https://hub/a", "//cdn/d", Some("https://cdn/d"));
        check("http://hub/a", "https://cdn/d", Some("https://cdn/d"));
        check("https://hub/a", "http://cdn/d", None);
        check("https://hub/a", "file:///etc/passwd", None);
        check("https://hub/a", "", None);
        check("https://hub/a", "https://user:pass@cdn/", None);
    }
}
