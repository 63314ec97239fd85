//! The shapes in which the dialects tell errors.

use crate::{
    api::http::{ApiError, Response, set},
    fault::FaultCode,
};
use http::StatusCode;
use serde_json::{Value, json};

impl ApiError {
    /// OpenAI's: `{"error":{message, type, param, code}}`.
    pub(crate) fn openai(&self) -> Value {
        let kind = match self.openai_status().as_u16() {
            401 | 403 => "authentication_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        };
        json!({ "error": {
            "message": self.message(), "type": kind, "param": self.faults.first().and_then(|f| f.field.clone()), "code": self.code().as_str(),
        } })
    }

    /// What is wrong with a request is 400 there, not 422: clients choose their exceptions by it. A key sent with another
    /// request is 422 wherever such keys are known.
    fn openai_status(&self) -> StatusCode {
        match self.status() {
            StatusCode::UNPROCESSABLE_ENTITY if self.code() != FaultCode::IdempotencyMismatch => {
                StatusCode::BAD_REQUEST
            }
            status => status,
        }
    }

    /// The answer to an OpenAI client. Its clients would send a request again after 409 and any 5xx; they are told
    /// whether that helps, so that a job cancelled on request does not come back by itself.
    pub(crate) fn openai_reply(&self) -> Response {
        let mut response = self.reply(self.openai_status(), &self.openai());
        set(&mut response, "x-should-retry", if self.code().retriable() { "true" } else { "false" });
        response
    }

    /// A1111's: `{error, detail, body, errors}`.
    pub(crate) fn sdapi(&self) -> Value {
        json!({ "error": self.code().as_str(), "detail": self.message(), "body": "", "errors": self.message() })
    }

    /// The answer to an A1111 client. An unknown sampler is 400 there.
    pub(crate) fn sdapi_reply(&self) -> Response {
        let sampler = self.faults.iter().any(|f| {
            f.code == FaultCode::InvalidRequest && f.field.as_deref().is_some_and(|field| field.starts_with("sampler"))
        });
        self.reply(if sampler { StatusCode::BAD_REQUEST } else { self.status() }, &self.sdapi())
    }
}
