//! Reading bodies: bounded, and JSON only where JSON is asked for.

use super::http::{ApiError, Request};
use crate::{
    config::Limits,
    fault::{Fault, FaultCode},
    server::body::{self, BodyError, BodyRules},
};
use serde_json::{Map, Value};

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        let code = match &error {
            BodyError::TooLarge { .. } => FaultCode::BodyTooLarge,
            BodyError::TooSlow { .. } => FaultCode::RequestTimeout,
            BodyError::WrongType { .. } | BodyError::Encoded => FaultCode::UnsupportedMediaType,
            BodyError::Busy => FaultCode::NotReady,
            BodyError::Broken => FaultCode::InvalidJson,
        };
        Fault::new(code, error.to_string()).into()
    }
}

/// Reads a JSON object within the worker's limits.
pub(crate) async fn json_object(request: Request, limits: &Limits) -> Result<Map<String, Value>, ApiError> {
    let bytes = body::read(&request.headers, request.body, &BodyRules::json(limits.body_bytes, &limits.budget)).await?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Fault::new(FaultCode::InvalidJson, "the body must be a JSON object").into()),
        Err(e) => {
            // The library's text may quote the body; line and column suffice.
            let text = format!("the body is not JSON: line {}, column {}", e.line(), e.column());
            Err(Fault::new(FaultCode::InvalidJson, text).into())
        }
    }
}
