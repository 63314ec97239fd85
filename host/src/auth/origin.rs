//! The guard against web pages: a page open in somebody's browser can reach a worker on that person's own machine, so the worker looks at the two headers
//! that a page cannot forge.
//!
//! `Host` must be an IP address, `localhost` or a name the operator allowed: this stops DNS rebinding, where a page's own name points here. `Origin` must
//! be the worker's own for everything that changes something: this stops cross-site requests. Programs send no `Origin` and are not concerned.

use std::net::IpAddr;

use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Uri, header};

use super::Refusal;

/// Web pages of other origins that may use the worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origins {
    /// None: the default.
    #[default]
    Same,
    /// These, each written like `https://example.org` or `http://localhost:5173`.
    List(Vec<String>),
    /// All.
    Any,
}

impl Origins {
    /// What the operator wrote, in the form in which browsers send it.
    ///
    /// # Errors
    /// What would never match: the words to follow the flag's name.
    pub fn parse(list: &[String]) -> Result<Self, String> {
        match list {
            [] => return Ok(Self::Same),
            [any] if any.trim() == "*" => return Ok(Self::Any),
            list if list.iter().any(|o| o.trim() == "*") => {
                return Err("* allows every page already: leave out the others".to_owned());
            }
            _ => {}
        }
        list.iter().map(|text| origin(text)).collect::<Result<_, _>>().map(Self::List)
    }
}

fn origin(text: &str) -> Result<String, String> {
    let bad = || format!("{text:?} is no origin; write it like https://example.org or http://localhost:5173");
    let (scheme, rest) = text.trim().split_once("://").ok_or_else(bad)?;
    let authority: Authority = rest.strip_suffix('/').unwrap_or(rest).parse().map_err(|_| bad())?;
    if scheme.is_empty() || authority.as_str().contains('@') || authority.host().is_empty() {
        return Err(bad());
    }
    let (scheme, host) = (scheme.to_ascii_lowercase(), authority.host().to_ascii_lowercase());
    let usual = match scheme.as_str() {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    Ok(match authority.port_u16().filter(|port| Some(*port) != usual) {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    })
}

/// A host name as the operator wrote it, in the form in which requests are compared with it.
///
/// # Errors
/// What is no name alone: the words to follow the flag's name.
pub fn host_name(text: &str) -> Result<String, String> {
    let name = text.trim().trim_end_matches('.').to_ascii_lowercase();
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
    if name.is_empty() || !name.bytes().all(plain) {
        return Err(format!(
            "{text:?} is no host name; write the name alone, without scheme and port: gpu.example.org"
        ));
    }
    Ok(name)
}

/// What the worker answers to as a host name, and which pages may use it.
#[derive(Clone, Debug, Default)]
pub struct OriginPolicy {
    /// Host names besides `localhost` and IP addresses, without a port, in lower case.
    pub hosts: Vec<String>,
    /// Take every host name. Meant for workers that ask for a token: a rebound page has none.
    pub any_host: bool,
    /// Pages allowed besides our own.
    pub origins: Origins,
}

impl OriginPolicy {
    /// Checks a request by its head.
    ///
    /// # Errors
    /// [`Refusal::HostNotAllowed`] or [`Refusal::CrossOrigin`].
    pub fn check(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        let host = host(uri, headers)?;
        if let Some(host) = &host
            && !self.host_allowed(host.host())
        {
            return Err(Refusal::HostNotAllowed);
        }
        if [Method::GET, Method::HEAD, Method::OPTIONS].contains(method) {
            return Ok(());
        }
        let cross_site = match headers.get(header::ORIGIN) {
            Some(origin) => !self.origin_allowed(origin) && !same_origin(origin, host.as_ref()),
            // Browsers leave Origin out in some cases of old, but then say where a request comes from.
            None => headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site" || site == "same-site"),
        };
        if cross_site { Err(Refusal::CrossOrigin) } else { Ok(()) }
    }

    /// The value of `Access-Control-Allow-Origin` for a request, if its page is one of the allowed others.
    #[must_use]
    pub fn cors(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        match self.origins {
            Origins::Any => Some(HeaderValue::from_static("*")),
            _ => self.origin_allowed(origin).then(|| origin.clone()),
        }
    }

    fn host_allowed(&self, host: &str) -> bool {
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        let literal = name.trim_start_matches('[').trim_end_matches(']');
        self.any_host
            || literal.parse::<IpAddr>().is_ok()
            || name == "localhost"
            || name.ends_with(".localhost")
            || self.hosts.contains(&name)
    }

    fn origin_allowed(&self, origin: &HeaderValue) -> bool {
        match &self.origins {
            Origins::Same => false,
            Origins::List(list) => list.iter().any(|o| o.as_bytes().eq_ignore_ascii_case(origin.as_bytes())),
            Origins::Any => true,
        }
    }
}

/// The authority that the client thinks it talks to. Programs of old may send none.
fn host(uri: &Uri, headers: &HeaderMap) -> Result<Option<Authority>, Refusal> {
    if let Some(authority) = uri.authority() {
        return Ok(Some(authority.clone()));
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let Some(host) = hosts.next() else { return Ok(None) };
    if hosts.next().is_some() {
        return Err(Refusal::HostNotAllowed);
    }
    Authority::try_from(host.as_bytes()).map(Some).map_err(|_| Refusal::HostNotAllowed)
}

/// Whether a page at `origin` came from this very worker.
fn same_origin(origin: &HeaderValue, host: Option<&Authority>) -> bool {
    let Some(host) = host else { return false };
    let Some((scheme, rest)) = origin.to_str().ok().and_then(|o| o.split_once("://")) else { return false };
    let default = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    let Ok(from) = rest.parse::<Authority>() else { return false };
    let port = |a: &Authority| a.port_u16().unwrap_or(default);
    from.host().eq_ignore_ascii_case(host.host()) && port(&from) == port(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn hosts_and_origins_are_checked() {
        let default = OriginPolicy::default();
        let named = OriginPolicy { hosts: vec!["gpu.lan".into()], ..OriginPolicy::default() };
        let page =
            OriginPolicy { origins: Origins::List(vec!["https://ui.example".into()]), ..OriginPolicy::default() };
        let open = OriginPolicy { any_host: true, origins: Origins::Any, ..OriginPolicy::default() };
        let check =
            |policy: &OriginPolicy, method: Method, pairs: &[(&'static str, &str)], expected: Result<(), Refusal>| {
                let got = policy.check(&method, &Uri::from_static("/v1/jobs"), &headers(pairs));
                assert_eq!(got, expected, "{method} {pairs:?}");
            };
        let (host, cross) = (Err(Refusal::HostNotAllowed), Err(Refusal::CrossOrigin));
        for good in ["localhost", "LOCALHOST.:8600", "127.0.0.1:8600", "[::1]:8600", "192.168.1.5", "a.localhost"] {
            check(&default, Method::POST, &[("host", good)], Ok(()));
        }
        for bad in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "gpu.lan", "a b", "a@localhost@b"]
        {
            check(&default, Method::GET, &[("host", bad)], host.clone());
        }
        check(&default, Method::GET, &[("host", "localhost"), ("host", "localhost")], host.clone());
        check(&default, Method::POST, &[], Ok(()));
        check(&named, Method::GET, &[("host", "GPU.lan:8600")], Ok(()));
        check(&open, Method::POST, &[("host", "evil.example"), ("origin", "https://evil.example")], Ok(()));

        let at = |origin: &'static str| [("host", "localhost:8600"), ("origin", origin)];
        check(&default, Method::POST, &at("http://localhost:8600"), Ok(()));
        for bad in
            ["http://localhost:3000", "http://evil.example", "null", "http://localhost", "", "file://localhost:8600"]
        {
            check(&default, Method::POST, &at(bad), cross.clone());
            check(&default, Method::DELETE, &at(bad), cross.clone());
            check(&default, Method::GET, &at(bad), Ok(()));
        }
        check(&default, Method::POST, &[("host", "localhost"), ("origin", "http://localhost:80")], Ok(()));
        check(&named, Method::POST, &[("host", "gpu.lan"), ("origin", "https://gpu.lan")], Ok(()));
        check(&page, Method::POST, &at("https://ui.example"), Ok(()));
        check(&page, Method::POST, &at("https://ui.example.evil"), cross.clone());
        check(&default, Method::POST, &[("host", "localhost"), ("sec-fetch-site", "cross-site")], cross);
        check(&default, Method::POST, &[("host", "localhost"), ("sec-fetch-site", "none")], Ok(()));
        let absolute =
            default.check(&Method::GET, &Uri::from_static("http://evil.example/"), &headers(&[("host", "localhost")]));
        assert_eq!(absolute, host);
    }

    #[test]
    fn what_the_operator_allows_is_what_is_sent_or_is_refused() {
        let origins = |list: &[&str]| Origins::parse(&list.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>());
        let list = |origin: &str| Ok(Origins::List(vec![origin.to_owned()]));
        assert_eq!(origins(&[]), Ok(Origins::Same));
        assert_eq!(origins(&["*"]), Ok(Origins::Any));
        assert_eq!(origins(&["https://X.example/"]), list("https://x.example"));
        assert_eq!(origins(&["https://x.example:443"]), list("https://x.example"));
        assert_eq!(origins(&["http://[::1]:5173"]), list("http://[::1]:5173"));
        assert_eq!(origins(&["tauri://localhost"]), list("tauri://localhost"));
        for wrong in [&["https://x", "*"][..], &["x.example"], &["https://x/y"], &["https://"], &["https://a@x"], &[""]]
        {
            assert!(origins(wrong).is_err(), "{wrong:?}");
        }
        for (text, name) in [
            ("GPU.lan", Some("gpu.lan")),
            ("gpu.lan.", Some("gpu.lan")),
            ("gpu.lan:8600", None),
            ("https://gpu.lan", None),
            ("*", None),
            ("", None),
        ] {
            assert_eq!(host_name(text).ok().as_deref(), name, "{text}");
        }
    }

    #[test]
    fn only_allowed_pages_get_a_cors_header() {
        let origin = headers(&[("origin", "https://ui.example")]);
        let cors = |origins: Origins| {
            let policy = OriginPolicy { origins, ..OriginPolicy::default() };
            policy.cors(&origin).map(|v| v.to_str().unwrap().to_owned())
        };
        assert_eq!(cors(Origins::Same), None);
        assert_eq!(cors(Origins::List(vec!["https://other.example".into()])), None);
        assert_eq!(cors(Origins::List(vec!["https://UI.example".into()])).as_deref(), Some("https://ui.example"));
        assert_eq!(cors(Origins::Any).as_deref(), Some("*"));
    }
}
