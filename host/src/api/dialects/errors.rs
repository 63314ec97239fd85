//! The shapes in which the dialects tell errors.

use crate::api::http::ApiError;
use serde_json::{Value, json};

impl ApiError {
    /// OpenAI's: `{"error":{message, type, param, code}}`.
    pub(crate) fn openai(&self) -> Value {
        let status = self.status().as_u16();
        let kind = match status {
            401 | 403 => "authentication_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        };
        json!({ "error": {
            "message": self.message(), "type": kind, "param": self.faults.first().and_then(|f| f.field.clone()), "code": self.code().as_str(),
        } })
    }

    /// A1111's: `{error, detail, body, errors}`.
    pub(crate) fn sdapi(&self) -> Value {
        json!({ "error": self.code().as_str(), "detail": self.message(), "body": "", "errors": self.message() })
    }
}
