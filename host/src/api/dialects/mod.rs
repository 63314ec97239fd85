//! The dialects that existing clients speak: OpenAI's images and A1111's `/sdapi/v1`. Each turns its own words into the
//! fields of a native job, so that checks, queue and engine are the same for everybody.

pub(crate) mod errors;
mod multipart;
pub(crate) mod openai;
mod openai_stream;
pub(crate) mod sdapi;
mod sdapi_edit;
pub(crate) mod sdapi_lists;
pub(crate) mod sdapi_state;

use super::{App, http::ApiError, jobs};
use crate::jobs::Follower;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Sends a job whose answer the client waits for. When the client goes away nobody will fetch the result: the job goes too.
pub(crate) async fn submit(
    app: &Arc<App>,
    mut fields: Map<String, Value>,
    caller: String,
    request_id: &str,
) -> Result<Follower, ApiError> {
    fields.insert("on_disconnect".to_owned(), "cancel".into());
    jobs::submit(app, fields, caller, None, request_id).await.map(|job| Follower::new(job, 0))
}

/// Moves a value under another name, if it is there and not null.
pub(crate) fn carry(from: &Map<String, Value>, name: &str, to: &mut Map<String, Value>, new: &str) {
    if let Some(value) = from.get(name).filter(|v| !v.is_null()) {
        to.insert(new.to_owned(), value.clone());
    }
}
