//! The ids of a request: ours, the caller's, and the W3C trace it belongs to (<https://www.w3.org/TR/trace-context/>).

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The longest id taken from a client.
const MAX_ID: usize = 128;

/// The place of a request in a distributed trace: 16 bytes of trace, 8 bytes of span, flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The whole trace.
    pub trace_id: u128,
    /// The span that this request is.
    pub span_id: u64,
    /// Bit 0: the caller records this trace.
    pub flags: u8,
}

impl TraceContext {
    /// A trace that begins here.
    #[must_use]
    pub fn new() -> Self {
        Self { trace_id: Uuid::new_v4().as_u128(), span_id: Self::new_span(), flags: 0 }
    }

    /// Our own span within the caller's trace.
    #[must_use]
    pub fn child(self) -> Self {
        Self { span_id: Self::new_span(), ..self }
    }

    fn new_span() -> u64 {
        // The low half of a random UUID has 62 random bits, and its variant bits make it differ from zero.
        Uuid::new_v4().as_u64_pair().1
    }

    /// Reads `version-traceid-parentid-flags` in lower-case hexadecimal. Later versions may append fields; `ff` and ids of zero are invalid.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        fn hex(text: &str, digits: usize) -> Option<u128> {
            let fits = text.len() == digits && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
            fits.then(|| u128::from_str_radix(text, 16).ok()).flatten()
        }
        let mut fields = text.split('-');
        let version = hex(fields.next()?, 2)?;
        let trace_id = hex(fields.next()?, 32)?;
        let span_id = u64::try_from(hex(fields.next()?, 16)?).ok()?;
        let flags = u8::try_from(hex(fields.next()?, 2)?).ok()?;
        let tail = fields.next().is_some();
        let valid = version != 0xff && !(version == 0 && tail) && trace_id != 0 && span_id != 0;
        valid.then_some(Self { trace_id, span_id, flags })
    }
}

impl Default for TraceContext {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

/// The ids of one request, for logs, answers and streams: `warp::ext::get::<RequestIds>()`. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestIds {
    /// `X-Request-Id`: the client's if it is acceptable, else a new UUID.
    pub request: Arc<str>,
    /// `X-Correlation-ID`: the client's if it is acceptable, else the request id.
    pub correlation: Arc<str>,
    /// `traceparent`: our span in the client's trace, or in a new one.
    pub trace: TraceContext,
}

impl RequestIds {
    /// Takes the ids of a request from its headers and makes up what is missing. An id that is too long, or has other than letters, digits and `-_.:`,
    /// is replaced: it is going to be written into logs and headers.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let id = |name: HeaderName| -> Option<Arc<str>> {
            let id = headers.get(name)?.to_str().ok()?;
            let good = |c: u8| c.is_ascii_alphanumeric() || b"-_.:".contains(&c);
            ((1..=MAX_ID).contains(&id.len()) && id.bytes().all(good)).then(|| id.into())
        };
        let request = id(REQUEST_ID).unwrap_or_else(|| Uuid::new_v4().to_string().into());
        let correlation = id(CORRELATION_ID).unwrap_or_else(|| request.clone());
        let parent = headers.get(TRACEPARENT).and_then(|v| TraceContext::parse(v.to_str().ok()?));
        Self { request, correlation, trace: parent.map_or_else(TraceContext::new, TraceContext::child) }
    }

    /// The ids as a job keeps them.
    #[must_use]
    pub fn origin(&self) -> crate::jobs::Origin {
        crate::jobs::Origin {
            request_id: self.request.to_string(),
            correlation_id: self.correlation.to_string(),
            trace_id: format!("{:032x}", self.trace.trace_id),
        }
    }

    /// Writes the ids into the headers of an answer.
    pub fn apply(&self, headers: &mut HeaderMap) {
        let trace = self.trace.to_string();
        for (name, text) in [(REQUEST_ID, &*self.request), (CORRELATION_ID, &*self.correlation), (TRACEPARENT, &trace)]
        {
            // Both ids passed the check above, so this cannot fail.
            if let Ok(value) = HeaderValue::from_str(text) {
                headers.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn traceparent_is_read_as_the_standard_says() {
        let context = TraceContext::parse(PARENT).unwrap();
        assert_eq!(context.to_string(), PARENT);
        let zeros = "0".repeat(32);
        for (text, good) in [
            (PARENT.to_owned(), true),
            (format!("cc{}-what-ever", &PARENT[2..]), true),
            (format!("{PARENT}-more"), false),
            (format!("ff{}", &PARENT[2..]), false),
            (PARENT.to_uppercase(), false),
            (format!("00-{zeros}-00f067aa0ba902b7-01"), false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01".to_owned(), false),
            (PARENT[..54].to_owned(), false),
            (String::new(), false),
            ("00-é".to_owned(), false),
        ] {
            assert_eq!(TraceContext::parse(&text).is_some(), good, "{text}");
        }
        let child = context.child();
        assert_eq!((child.trace_id, child.flags), (context.trace_id, context.flags));
        assert!(child.span_id != context.span_id && child.span_id != 0);
    }

    #[test]
    fn ids_come_from_the_client_if_they_are_harmless() {
        let check = |name: &'static str, value: &[u8], kept: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_bytes(value).unwrap());
            let ids = RequestIds::from_headers(&headers);
            let got = if name == "x-request-id" { &ids.request } else { &ids.correlation };
            assert_eq!(got.as_bytes() == value, kept, "{name}: {value:?}");
            let mut answer = HeaderMap::new();
            ids.apply(&mut answer);
            assert_eq!(answer[name], **got);
            assert_eq!(answer["traceparent"], ids.trace.to_string());
        };
        for name in ["x-request-id", "x-correlation-id"] {
            check(name, b"abc-DEF_1.2:3", true);
            check(name, &[b'x'; 128], true);
            check(name, &[b'x'; 129], false);
            check(name, b"", false);
            check(name, b"a b", false);
            check(name, b"a\"b", false);
            check(name, b"a\xffb", false);
        }
        let ids = RequestIds::from_headers(&HeaderMap::new());
        assert_eq!(ids.correlation, ids.request);
        assert_ne!(ids.request, RequestIds::from_headers(&HeaderMap::new()).request);
    }
}
