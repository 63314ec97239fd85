//! A job as others see it: the JSON of `GET /v1/jobs/{id}`, and its short form in lists.

use super::{Ending, Job, JobState, Snapshot, timings_json};
use crate::fault::Fault;
use serde_json::{Map, Value, json};

/// What the short form has of the long one.
const SUMMARY: &[&str] =
    &["job_id", "status", "operation", "model", "position", "progress", "created", "seed", "n", "priority"];

/// The short form. `position`: how many jobs stand before this one.
pub(crate) fn summary(job: &Job, position: Option<usize>) -> Value {
    short(job, &job.snapshot(), position)
}

/// The long form.
pub(crate) fn details(job: &Job, position: Option<usize>) -> Value {
    long(job, &job.snapshot(), position)
}

/// The long form that a job will have once its end is told.
pub(crate) fn ended(job: &Job, ending: &Ending) -> Value {
    let (state, pictures, fault) = (ending.state, ending.pictures.clone(), ending.fault.clone());
    long(job, &Snapshot { state, pictures, fault, ..job.snapshot() }, None)
}

fn short(job: &Job, now: &Snapshot, position: Option<usize>) -> Value {
    json!({
        "job_id": job.id.as_str(),
        "status": now.state.as_str(),
        "operation": job.spec.operation.as_str(),
        "model": job.spec.model,
        "position": position.filter(|_| now.state == JobState::Queued),
        "progress": { "step": now.step, "total": now.total },
        "created": job.created_unix(),
        "seed": job.spec.seed,
        "n": job.spec.n,
        "priority": job.spec.priority,
    })
}

fn long(job: &Job, now: &Snapshot, position: Option<usize>) -> Value {
    let mut body = short(job, now, position);
    body["width"] = job.spec.width.into();
    body["height"] = job.spec.height.into();
    body["steps"] = job.spec.steps.into();
    body["guidance_scale"] = job.spec.guidance_scale.into();
    body["sampler"] = job.spec.sampler.clone().into();
    body["schedule"] = job.spec.schedule.clone().into();
    body["request_id"] = job.origin.request_id.clone().into();
    body["correlation_id"] = job.origin.correlation_id.clone().into();
    body["trace_id"] = job.origin.trace_id.clone().into();
    body["run_seconds"] = now.run_seconds.into();
    body["timings"] = timings_json(&now.timings);
    body["seeds"] = now.pictures.iter().map(|p| p.seed).collect::<Vec<_>>().into();
    body["images"] = now
        .pictures
        .iter()
        .enumerate()
        .map(|(i, p)| {
            json!({ "index": i, "seed": p.seed, "width": p.width, "height": p.height, "media_type": p.media_type,
                "bytes": p.bytes.len(), "url": format!("/v1/jobs/{}/images/{i}", job.id) })
        })
        .collect::<Vec<_>>()
        .into();
    if let Some(fault) = &now.fault {
        body["error"] = error(fault);
    }
    body
}

/// The long form of a job of which nothing is known but who it was and why it does not run.
pub(crate) fn lost(id: &str, model: &str, created: f64, priority: i32, fault: &Fault) -> Value {
    json!({
        "job_id": id, "status": JobState::Failed.as_str(), "model": model, "created": created, "priority": priority,
        "error": error(fault),
    })
}

/// Why a job failed, in its long form.
fn error(fault: &Fault) -> Value {
    json!({ "code": fault.code.as_str(), "message": fault.message, "field": fault.field })
}

/// Why a job or a load failed, as its last event says it.
pub(crate) fn failed(fault: &Fault) -> Value {
    let mut fields = error(fault);
    fields["retriable"] = fault.code.retriable().into();
    fields
}

/// The short form of a long one.
pub(crate) fn shorten(details: &Value) -> Value {
    let short: Map<String, Value> =
        SUMMARY.iter().filter_map(|key| Some(((*key).to_owned(), details.get(key)?.clone()))).collect();
    short.into()
}
