//! The dialects that existing clients speak: OpenAI's images and A1111's `/sdapi/v1`. Each turns its own words into the
//! fields of a native job, so that checks, queue and engine are the same for everybody.

pub(crate) mod errors;
mod multipart;
pub(crate) mod openai;
pub(crate) mod openai_fields;
mod openai_stream;
pub(crate) mod sdapi;
mod sdapi_edit;
pub(crate) mod sdapi_extras;
pub(crate) mod sdapi_fields;
pub(crate) mod sdapi_lists;
pub(crate) mod sdapi_options;
pub(crate) mod sdapi_state;

use super::{App, http::ApiError, idempotency::Turn, jobs};
use crate::jobs::{Follower, Origin};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Sends a job whose answer the client waits for. When the client goes away nobody will fetch the result: unless it said
/// otherwise, the job goes too. `turn`: the request's idempotency key finds the job again.
pub(crate) async fn submit(
    app: &Arc<App>,
    mut fields: Map<String, Value>,
    caller: String,
    turn: Option<Turn>,
    origin: &Origin,
) -> Result<Follower, ApiError> {
    fields.entry("on_disconnect").or_insert_with(|| "cancel".into());
    jobs::submit(app, fields, caller, turn, origin).await.map(|job| Follower::new(job, 0))
}

/// Tells faults in the client's words: `words` are ours and theirs, `ours_is_free` says whether our own name was not sent.
pub(crate) fn in_words(mut error: ApiError, words: &[(&str, &str)], ours_is_free: impl Fn(&str) -> bool) -> ApiError {
    for field in error.faults.iter_mut().filter_map(|fault| fault.field.as_mut()) {
        if let Some((_, theirs)) = words.iter().find(|(ours, _)| ours == field && ours_is_free(ours)) {
            (*theirs).clone_into(field);
        }
    }
    error
}

/// Moves a value under another name, if it is there and not null.
pub(crate) fn carry(from: &Map<String, Value>, name: &str, to: &mut Map<String, Value>, new: &str) {
    if let Some(value) = from.get(name).filter(|v| !v.is_null()) {
        to.insert(new.to_owned(), value.clone());
    }
}
