//! A request as handlers see it, and the few kinds of answers they give.

use crate::fault::{Fault, FaultCode};
use crate::jobs::Origin;
use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::{Map, Value, json};
use std::{pin::Pin, time::Duration};

/// The pieces of a body as they arrive.
pub(crate) type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, warp::Error>> + Send>>;

/// An answer.
pub(crate) type Response = warp::reply::Response;

/// A request after routing.
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: BodyStream,
    /// What the route's `{}` segments held, percent-decoded.
    pub(crate) captures: Vec<String>,
    /// Who sent it: see [`crate::auth::Identity::key`].
    pub(crate) caller: String,
    /// The request's ids, for logs, answers and streams.
    pub(crate) id: Origin,
}

impl Request {
    /// What the route's first `{}` held.
    pub(crate) fn capture(&self, index: usize) -> &str {
        self.captures.get(index).map_or("", String::as_str)
    }

    /// A header as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// A parameter of the query string.
    pub(crate) fn query(&self, name: &str) -> Option<String> {
        self.query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then(|| percent_decode(&value.replace('+', " ")))
        })
    }
}

/// A failed request: one or several faults.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) faults: Vec<Fault>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) allow: Option<String>,
}

impl From<Fault> for ApiError {
    fn from(fault: Fault) -> Self {
        ApiError { faults: vec![fault], retry_after: None, allow: None }
    }
}

impl From<Vec<Fault>> for ApiError {
    fn from(faults: Vec<Fault>) -> Self {
        ApiError { faults, retry_after: None, allow: None }
    }
}

impl ApiError {
    /// The code that decides the status.
    pub(crate) fn code(&self) -> FaultCode {
        self.faults.first().map_or(FaultCode::Internal, |f| f.code)
    }

    /// The status.
    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.code().status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// One sentence for all faults.
    pub(crate) fn message(&self) -> String {
        let sentence = |f: &Fault| match &f.field {
            Some(field) => format!("{field}: {}", f.message),
            None => f.message.clone(),
        };
        self.faults.iter().map(sentence).collect::<Vec<_>>().join("; ")
    }

    /// The body of our own routes: `{"error":{code, message, field?, errors}}`.
    pub(crate) fn native(&self, request_id: &str) -> Value {
        let mut error = Map::new();
        error.insert("code".into(), self.code().as_str().into());
        error.insert("message".into(), self.message().into());
        if let Some(field) = self.faults.first().and_then(|f| f.field.clone()) {
            error.insert("field".into(), field.into());
        }
        error.insert("retriable".into(), self.code().retriable().into());
        error.insert("request_id".into(), request_id.into());
        if self.faults.len() > 1 {
            let all: Vec<Value> = self
                .faults
                .iter()
                .map(|f| json!({ "code": f.code.as_str(), "field": f.field, "message": f.message }))
                .collect();
            error.insert("errors".into(), all.into());
        }
        json!({ "error": error })
    }

    /// The answer with the given status and body.
    pub(crate) fn reply(&self, status: StatusCode, body: &Value) -> Response {
        let mut response = json_status(status, body);
        if let Some(wait) = self.retry_after {
            set(&mut response, "retry-after", &wait.as_secs().clamp(1, 300).to_string());
        }
        if let Some(allow) = &self.allow {
            set(&mut response, "allow", allow);
        }
        response
    }
}

/// A JSON answer with status 200.
pub(crate) fn json_ok(body: &Value) -> Response {
    json_status(StatusCode::OK, body)
}

/// A JSON answer.
pub(crate) fn json_status(status: StatusCode, body: &Value) -> Response {
    bytes_reply(status, "application/json", body.to_string().into_bytes())
}

/// An answer of any media type.
pub(crate) fn bytes_reply(status: StatusCode, media_type: &str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(body.into().into());
    *response.status_mut() = status;
    set(&mut response, "content-type", media_type);
    set(&mut response, "x-content-type-options", "nosniff");
    response
}

/// Sets a header; a value that HTTP does not allow is left out.
pub(crate) fn set(response: &mut Response, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
}

/// Undoes percent encoding; broken sequences stay as they are.
pub(crate) fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = |i: usize| bytes.get(i).and_then(|b| (*b as char).to_digit(16));
        match (byte, hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
