//! Jobs over HTTP: send, show, list, cancel, fetch pictures.

use super::http::{ApiError, Request, Response, bytes_reply, json_ok, set};
use super::{App, body, build};
use crate::{
    fault::{Fault, FaultCode},
    jobs::{Job, JobId, JobState, Lookup, Outcome, QueueError},
};
use http::StatusCode;
use sd_models::HubId;
use serde_json::{Map, Value, json};
use std::{sync::Arc, time::Duration};

/// Jobs on one page of the list.
const PAGE: usize = 100;
/// Longest idempotency key.
const MAX_KEY: usize = 256;

/// `POST /v1/jobs`
pub(crate) async fn create(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let key = idempotency_key(&request)?;
    let (caller, request_id) = (request.caller.clone(), request.id.clone());
    if let Some(job) = key.as_deref().and_then(|k| app.registry.by_key(&caller, k)) {
        return Ok(accepted(&app, &job));
    }
    let object = body::json_object(request, &app.config.limits).await?;
    let job = submit(&app, object, caller, key.as_deref(), &request_id).await?;
    Ok(accepted(&app, &job))
}

/// The key by which a client recognises its own request when it sends it again.
pub(crate) fn idempotency_key(request: &Request) -> Result<Option<String>, Fault> {
    let key = request.header("idempotency-key").map(str::to_owned);
    if key.as_ref().is_some_and(|k| k.is_empty() || k.len() > MAX_KEY) {
        return Err(Fault::field("Idempotency-Key", format!("must have 1 to {MAX_KEY} characters")));
    }
    Ok(key)
}

/// Checks a job's fields and puts it into the queue. The door of every dialect.
pub(crate) async fn submit(
    app: &Arc<App>,
    fields: Map<String, Value>,
    caller: String,
    key: Option<&str>,
    request_id: &str,
) -> Result<Arc<Job>, ApiError> {
    app.accepting()?;
    // Pictures are decoded off the runtime.
    let (spec, pull, fields) = {
        let app = app.clone();
        let read = move || match build::pending_spec(&app, &fields)? {
            Some((spec, id)) => Ok((spec, Some(id), fields)),
            None => Ok((build::job_spec(&app, &fields)?, None, Map::new())),
        };
        tokio::task::spawn_blocking(read)
            .await
            .map_err(|_| Fault::internal("the request could not be read"))?
            .map_err(|faults: Vec<Fault>| ApiError::from(faults))?
    };
    let job = Job::new(caller, spec);
    app.registry.insert(&job, key);
    if let Some(id) = pull {
        job.publish("queued", json!({ "position": app.queue.len(), "model": job.spec.model }));
        tracing::info!(job_id = %job.id, request_id, model = %id, "job accepted; its model is fetched first");
        fetch_then_queue(app, &job, id, fields);
        return Ok(job);
    }
    let told = job.clone();
    let position = enqueue(app, &job, move |before| {
        told.publish("queued", json!({ "position": before, "model": told.spec.model }));
    });
    match position {
        Ok(position) => {
            tracing::info!(job_id = %job.id, request_id, operation = job.spec.operation.as_str(), model = %job.spec.model,
                position, steps = job.spec.steps, width = job.spec.width, height = job.spec.height, "job accepted");
            Ok(job)
        }
        Err(reason) => {
            app.registry.withdraw(&job.id);
            Err(refused(app, reason))
        }
    }
}

/// Puts a complete job into the queue.
fn enqueue(app: &App, job: &Arc<Job>, told: impl FnOnce(usize)) -> Result<usize, QueueError> {
    let position = app.queue.push(job, told)?;
    app.metrics.job_accepted(job.spec.operation.into());
    Ok(position)
}

/// A job ends with one fault, whatever else is wrong.
fn first_of(faults: Vec<Fault>) -> Fault {
    faults.into_iter().next().unwrap_or_else(|| Fault::internal("the request was refused without a reason"))
}

/// Fetches a job's model on a thread of its own, completes the job's request with what the model says, and queues it.
fn fetch_then_queue(app: &Arc<App>, job: &Arc<Job>, id: HubId, fields: Map<String, Value>) {
    let (theirs, waiting) = (app.clone(), job.clone());
    let work = move || {
        let (app, job) = (theirs, waiting);
        let outcome = app.pulls.fetch_for(&job, &id, &app.models).map_err(|f| f.about("model")).and_then(|()| {
            let spec = build::job_spec(&app, &fields).map_err(first_of)?;
            job.settle(spec);
            enqueue(&app, &job, |_| ()).map_err(|reason| first_of(refused(&app, reason).faults))
        });
        match outcome {
            Ok(_) => {}
            Err(fault) if fault.code == FaultCode::Cancelled => {
                job.finish(Outcome::Cancelled);
            }
            Err(fault) => {
                tracing::warn!(job_id = %job.id, code = fault.code.as_str(), message = %fault.message, "job failed before it was queued");
                job.finish(Outcome::Failed(fault));
            }
        }
    };
    if let Err(e) = std::thread::Builder::new().name("pull".to_owned()).spawn(work) {
        job.finish(Outcome::Failed(Fault::internal(format!("a thread could not be started: {e}"))));
    }
}

fn refused(app: &App, reason: QueueError) -> ApiError {
    match reason {
        QueueError::Full => ApiError {
            retry_after: Some(Duration::from_secs(app.retry_after_secs())),
            ..Fault::new(
                FaultCode::QueueFull,
                format!("all {} places of the queue are taken; try again later", app.queue.capacity()),
            )
            .into()
        },
        QueueError::Closed => Fault::new(FaultCode::Draining, "the worker is shutting down").into(),
    }
}

fn accepted(app: &App, job: &Job) -> Response {
    let mut body = summary(app, job);
    body["sse_url"] = format!("/v1/jobs/{}/stream", job.id).into();
    body["url"] = format!("/v1/jobs/{}", job.id).into();
    json_ok(&body)
}

/// The job that a path segment names.
pub(crate) fn find(app: &App, request: &Request, capture: usize) -> Result<Arc<Job>, ApiError> {
    let unknown = || Fault::new(FaultCode::NotFound, "there is no job with this id");
    let id = JobId::parse(request.capture(capture)).ok_or_else(unknown)?;
    match app.registry.find(&id) {
        // A key sees its own jobs only.
        Lookup::Found(job) if job.owner == request.caller => Ok(job),
        Lookup::Gone => Err(Fault::new(FaultCode::Gone, "this job ended and its time to be kept is over").into()),
        Lookup::Found(_) | Lookup::Unknown => Err(unknown().into()),
    }
}

fn summary(app: &App, job: &Job) -> Value {
    let now = job.snapshot();
    json!({
        "job_id": job.id.as_str(),
        "status": now.state.as_str(),
        "operation": job.spec.operation.as_str(),
        "model": job.spec.model,
        "position": (now.state == JobState::Queued).then(|| app.queue.position(job)).flatten(),
        "progress": { "step": now.step, "total": now.total },
        "created": job.created_unix(),
        "seed": job.spec.seed,
        "n": job.spec.n,
    })
}

fn details(app: &App, job: &Job) -> Value {
    let now = job.snapshot();
    let mut body = summary(app, job);
    body["width"] = job.spec.width.into();
    body["height"] = job.spec.height.into();
    body["steps"] = job.spec.steps.into();
    body["guidance_scale"] = job.spec.guidance_scale.into();
    body["sampler"] = job.spec.sampler.clone().into();
    body["schedule"] = job.spec.schedule.clone().into();
    body["run_seconds"] = now.run_seconds.into();
    body["timings"] = crate::jobs::timings_json(&now.timings);
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
    if let Some(fault) = now.fault {
        body["error"] = json!({ "code": fault.code.as_str(), "message": fault.message, "field": fault.field });
    }
    body
}

/// `GET /v1/jobs/{}`
pub(crate) async fn show(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let job = find(&app, &request, 0)?;
    Ok(json_ok(&details(&app, &job)))
}

/// `GET /v1/jobs`
pub(crate) async fn list(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let status =
        match request.query("status") {
            None => None,
            Some(text) => Some(JobState::parse(&text).ok_or_else(|| {
                Fault::field("status", "must be one of queued, running, completed, failed, cancelled")
            })?),
        };
    let limit = match request.query("limit") {
        None => PAGE,
        Some(text) => text
            .parse()
            .ok()
            .filter(|n| (1..=PAGE).contains(n))
            .ok_or_else(|| Fault::field("limit", format!("must be a whole number from 1 to {PAGE}")))?,
    };
    let after = request.query("after");
    let mut jobs: Vec<Arc<Job>> = app
        .registry
        .list()
        .into_iter()
        .filter(|j| j.owner == request.caller && status.is_none_or(|s| j.state() == s))
        .collect();
    if let Some(after) = after {
        let at = jobs
            .iter()
            .position(|j| j.id.as_str() == after)
            .ok_or_else(|| Fault::field("after", "must be the id of a job on the page before"))?;
        jobs.drain(..=at);
    }
    let more = jobs.len() > limit;
    jobs.truncate(limit);
    let next = more.then(|| jobs.last().map(|j| j.id.to_string())).flatten();
    let data: Vec<Value> = jobs.iter().map(|j| summary(&app, j)).collect();
    Ok(json_ok(&json!({ "object": "list", "data": data, "next": next })))
}

/// `POST /v1/jobs/{}/cancel`
pub(crate) async fn cancel(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let job = find(&app, &request, 0)?;
    if !job.request_cancel() {
        let state = job.state().as_str();
        return Err(
            Fault::new(FaultCode::Conflict, format!("the job is {state} and cannot be cancelled any more")).into()
        );
    }
    app.queue.sweep();
    tracing::info!(job_id = %job.id, "cancel requested");
    Ok(json_ok(&json!({ "job_id": job.id.as_str(), "status": "cancelled" })))
}

/// `DELETE /v1/jobs/{}`
pub(crate) async fn delete(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let job = find(&app, &request, 0)?;
    if job.request_cancel() {
        app.queue.sweep();
        tracing::info!(job_id = %job.id, "cancel requested");
        return Ok(json_ok(&json!({ "job_id": job.id.as_str(), "status": "cancelled" })));
    }
    app.registry.forget(&job.id);
    Ok(json_ok(&json!({ "job_id": job.id.as_str(), "status": "deleted" })))
}

/// `GET /v1/jobs/{}/images/{}`
pub(crate) async fn image(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let job = find(&app, &request, 0)?;
    let now = job.snapshot();
    let picture = request.capture(1).parse::<usize>().ok().and_then(|i| now.pictures.get(i));
    let Some(picture) = picture else {
        let fault = match now.state {
            JobState::Queued | JobState::Running => Fault::new(FaultCode::Conflict, "the picture is not finished yet"),
            _ => Fault::new(FaultCode::NotFound, "the job has no picture with this number"),
        };
        return Err(fault.into());
    };
    let etag = format!("\"{}-{}\"", job.id, request.capture(1));
    if request.header("if-none-match").is_some_and(|tags| tags.split(',').any(|t| t.trim() == etag || t.trim() == "*"))
    {
        let mut response = bytes_reply(StatusCode::NOT_MODIFIED, picture.media_type, Vec::new());
        set(&mut response, "etag", &etag);
        return Ok(response);
    }
    let mut response = bytes_reply(StatusCode::OK, picture.media_type, picture.bytes.to_vec());
    set(&mut response, "etag", &etag);
    set(&mut response, "cache-control", "private, max-age=31536000, immutable");
    Ok(response)
}

/// `POST /v1/png-info`
pub(crate) async fn png_info(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let object = body::json_object(request, &app.config.limits).await?;
    let text = object
        .get("image")
        .and_then(Value::as_str)
        .ok_or_else(|| Fault::field("image", "must be a picture as base64 or as a data URL"))?
        .to_owned();
    let recipe = tokio::task::spawn_blocking(move || build::recipe_of(&text))
        .await
        .map_err(|_| Fault::internal("the picture could not be read"))??;
    Ok(json_ok(&recipe))
}
