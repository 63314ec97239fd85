//! Multipart forms, bounded while they are read.

use crate::{
    api::{
        body::Sent,
        http::{ApiError, Request},
    },
    config::Limits,
    fault::{Fault, FaultCode},
    server::body::{self, BodyRules},
};
use base64::Engine as _;
use bytes::Bytes;
use multer::Multipart;
use serde_json::{Map, Value, json};
use std::convert::Infallible;

/// Most parts of a form.
const MAX_PARTS: usize = 64;

/// Reads a form into the JSON that would say the same: files become base64, `name[]` becomes a list.
pub(crate) async fn read(request: Request, limits: &Limits) -> Result<Sent, ApiError> {
    let boundary = request.header("content-type").and_then(|t| multer::parse_boundary(t).ok()).ok_or_else(|| {
        Fault::new(
            FaultCode::UnsupportedMediaType,
            "the body must be multipart/form-data with a boundary, or application/json",
        )
    })?;
    // Read whole by the same rules as every body (size, time, the memory of all together), then taken apart.
    let rules = BodyRules { types: &["multipart/form-data"], ..BodyRules::json(limits.body_bytes, &limits.budget) };
    let body = body::read(&request.headers, request.body, &rules).await?;
    Ok(Sent { object: parse(boundary, body.bytes()).await?, share: body.into_share() })
}

/// Takes a whole form apart.
pub(crate) async fn parse(boundary: String, body: Bytes) -> Result<Map<String, Value>, Fault> {
    let whole = futures_util::stream::once(async { Ok::<_, Infallible>(body) });
    let mut form = Multipart::new(whole, boundary);
    let mut fields = Map::new();
    let mut parts = 0;
    while let Some(field) = form.next_field().await.map_err(|_| malformed())? {
        parts += 1;
        if parts > MAX_PARTS {
            return Err(Fault::new(FaultCode::InvalidRequest, format!("a form may have at most {MAX_PARTS} parts")));
        }
        let name = field.name().unwrap_or_default().to_owned();
        let is_file = field.file_name().is_some();
        let bytes = field.bytes().await.map_err(|_| malformed())?;
        let value = if is_file {
            json!(base64::engine::general_purpose::STANDARD.encode(&bytes))
        } else {
            let text = String::from_utf8(bytes.to_vec()).map_err(|_| Fault::field(&name, "must be UTF-8 text"))?;
            json!(text)
        };
        match name.strip_suffix("[]") {
            Some(list) => {
                if let Value::Array(items) = fields.entry(list.to_owned()).or_insert_with(|| json!([])) {
                    items.push(value);
                }
            }
            None => match fields.get_mut(&name) {
                // The same name again: a list, as clients send several pictures.
                Some(Value::Array(items)) => items.push(value),
                Some(first) => *first = json!([first.take(), value]),
                None => {
                    fields.insert(name, value);
                }
            },
        }
    }
    Ok(fields)
}

fn malformed() -> Fault {
    Fault::new(FaultCode::InvalidRequest, "the form is not well formed")
}
