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
use crate::{
    fault::Fault,
    jobs::{Event, Job, JobState, Snapshot},
};
use serde_json::{Map, Value};
use std::sync::Arc;

/// A reader of a job; with the job's own policy, the last one to go takes the job along.
pub(crate) struct Reading(pub(crate) Arc<Job>);

impl Reading {
    pub(crate) fn of(job: Arc<Job>) -> Self {
        job.reader_joined();
        Reading(job)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.reader_left();
    }
}

/// Sends a job whose answer the client waits for. When the client goes away nobody will fetch the result: the job goes too.
pub(crate) async fn submit(
    app: &Arc<App>,
    mut fields: Map<String, Value>,
    caller: String,
    request_id: &str,
) -> Result<Reading, ApiError> {
    fields.insert("on_disconnect".to_owned(), "cancel".into());
    jobs::submit(app, fields, caller, None, request_id).await.map(Reading::of)
}

/// Waits for the end, handing each event to `watch`.
pub(crate) async fn wait(reading: &Reading, mut watch: impl FnMut(&Event)) -> Result<Snapshot, ApiError> {
    let job = &reading.0;
    let mut newest = job.events.subscribe();
    let mut cursor = 0;
    loop {
        newest.borrow_and_update();
        for event in job.events.after(cursor, usize::MAX) {
            cursor = event.id;
            watch(&event);
            if event.terminal {
                let snapshot = job.snapshot();
                return match (snapshot.state, snapshot.fault.clone()) {
                    (JobState::Completed, _) => Ok(snapshot),
                    (JobState::Cancelled, _) => Err(Fault::cancelled().into()),
                    (_, Some(fault)) => Err(fault.into()),
                    _ => Err(Fault::internal("the job ended without a reason").into()),
                };
            }
        }
        if newest.changed().await.is_err() {
            return Err(Fault::internal("the job was lost").into());
        }
    }
}

/// Moves a value under another name, if it is there and not null.
pub(crate) fn carry(from: &Map<String, Value>, name: &str, to: &mut Map<String, Value>, new: &str) {
    if let Some(value) = from.get(name).filter(|v| !v.is_null()) {
        to.insert(new.to_owned(), value.clone());
    }
}
