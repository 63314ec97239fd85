//! Multipart forms, bounded while they are read.

use crate::{
    api::http::{ApiError, Request},
    fault::{Fault, FaultCode},
};
use base64::Engine as _;
use multer::{Constraints, Multipart, SizeLimit};
use serde_json::{Map, Value, json};

/// Most parts of a form.
const MAX_PARTS: usize = 64;

/// Reads a form into the JSON that would say the same: files become base64, `name[]` becomes a list.
pub(crate) async fn read(request: Request, limit: usize) -> Result<Map<String, Value>, ApiError> {
    let boundary = request.header("content-type").and_then(|t| multer::parse_boundary(t).ok()).ok_or_else(|| {
        Fault::new(
            FaultCode::UnsupportedMediaType,
            "the body must be multipart/form-data with a boundary, or application/json",
        )
    })?;
    let constraints =
        Constraints::new().size_limit(SizeLimit::new().whole_stream(limit as u64).per_field(limit as u64));
    let mut form = Multipart::with_constraints(request.body, boundary, constraints);
    let mut fields = Map::new();
    let mut parts = 0;
    while let Some(field) = form.next_field().await.map_err(|e| fault(&e, limit))? {
        parts += 1;
        if parts > MAX_PARTS {
            return Err(
                Fault::new(FaultCode::InvalidRequest, format!("a form may have at most {MAX_PARTS} parts")).into()
            );
        }
        let name = field.name().unwrap_or_default().to_owned();
        let is_file = field.file_name().is_some();
        let bytes = field.bytes().await.map_err(|e| fault(&e, limit))?;
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

fn fault(error: &multer::Error, limit: usize) -> Fault {
    match error {
        multer::Error::FieldSizeExceeded { .. } | multer::Error::StreamSizeExceeded { .. } => {
            Fault::new(FaultCode::BodyTooLarge, format!("the body is larger than the limit of {limit} bytes"))
        }
        _ => Fault::new(FaultCode::InvalidRequest, "the form is not well formed"),
    }
}
