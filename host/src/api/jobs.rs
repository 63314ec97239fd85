//! Jobs over HTTP: send, show, list, cancel, fetch pictures.

use super::http::{ApiError, Request, Response, bytes_reply, json_ok, set};
use super::{
    App, body, build,
    idempotency::{self, Claim, Turn},
    restore,
    rooms::off_runtime,
};
use crate::{
    fault::{Fault, FaultCode},
    jobs::{Job, JobId, JobSpec, JobState, Lookup, Origin, Outcome, Place, QueueError, view},
    ledger::{Found, Kept, Ledger},
    pulls::Wanted,
    store::StoreError,
    telemetry::prompt_hash,
};
use http::StatusCode;
use serde_json::{Map, Value, json};
use std::{sync::Arc, time::Duration};
use tracing::Instrument;

/// Jobs on one page of the list.
const PAGE: usize = 100;

/// `POST /v1/jobs`
pub(crate) async fn create(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let key = idempotency::key_of(&request)?;
    let (caller, origin) = (request.caller.clone(), request.id.clone());
    // Read in any case: an unread body would cost the client its connection.
    let body::Sent { object, share: _share } = body::json_object(request, &app.config.limits).await?;
    let job = match idempotency::claim(&app, &caller, key, "job", &object).await? {
        Claim::Known(Named::Live(job)) => job,
        Claim::Known(Named::Kept(kept)) => return Ok(accepted(kept.summary())),
        Claim::New(turn) => submit(&app, object, caller, turn, &origin).await?,
    };
    Ok(accepted(view::summary(&job, app.line().before(&job))))
}

/// Checks a job's fields and puts it into the queue. The door of every dialect.
pub(crate) async fn submit(
    app: &Arc<App>,
    fields: Map<String, Value>,
    caller: String,
    turn: Option<Turn>,
    origin: &Origin,
) -> Result<Arc<Job>, ApiError> {
    app.accepting()?;
    // Before any picture is decoded: a job that finds no place costs no more than its body.
    let place = app.queue.reserve().map_err(|reason| refused(app, reason))?;
    let origin = origin.clone();
    let (job, request, pull) = off_runtime(app, move |app| {
        let (spec, wanted) = read(app, &fields)?;
        let fields = restore::pinned(fields, &spec);
        let job = Job::new(caller, spec, origin);
        let request = app.ledger.is_some().then(|| restore::written(&fields, &job));
        let pull = (!wanted.is_empty()).then_some((wanted, fields));
        Ok::<_, Vec<Fault>>((job, request, pull))
    })
    .await??;
    let app = app.clone();
    // To its end even if the client goes away: a job is accepted whole or not at all.
    tokio::spawn(take(app, job, place, request, turn, pull).in_current_span())
        .await
        .map_err(|_| Fault::internal("the job could not be taken"))?
}

/// A job's checked request, and the models that are to be fetched for it first, those that are not here.
pub(crate) fn read(app: &App, fields: &Map<String, Value>) -> Result<(JobSpec, Vec<Wanted>), Vec<Fault>> {
    match build::pending_spec(app, fields)? {
        Some(pending) => Ok(pending),
        None => Ok((build::job_spec(app, fields)?, Vec::new())),
    }
}

/// Puts a job at its place in the queue and, before that, into the store.
async fn take(
    app: Arc<App>,
    job: Arc<Job>,
    place: Place,
    request: Option<String>,
    turn: Option<Turn>,
    pull: Option<(Vec<Wanted>, Map<String, Value>)>,
) -> Result<Arc<Job>, ApiError> {
    let idempotency = turn.as_ref().map(|turn| &turn.idempotency);
    job.keep_with(app.clerk.clone());
    if let (Some(ledger), Some(request)) = (&app.ledger, request) {
        let fault = match ledger.accept(&job, request, idempotency.cloned()).await {
            Ok(None) => None,
            Ok(Some(_)) => {
                Some(Fault::new(FaultCode::Conflict, "a job with this idempotency key was just sent; ask again"))
            }
            Err(e) => Some(e.into()),
        };
        if let Some(fault) = fault {
            return Err(ApiError { retry_after: Some(Duration::from_secs(10)), ..fault.into() });
        }
    }
    // Not before it is written down: nobody is to find, end or be told of a job that may not come to be.
    if let Err(known) = app.registry.insert(&job, idempotency) {
        if let Some(ledger) = &app.ledger {
            ledger.withdraw(&job).await;
        }
        return Ok(known);
    }
    let prompt_hash = prompt_hash(&job.spec.prompt);
    if let Some((wanted, fields)) = pull {
        let models = wanted.iter().map(|w| w.id.to_string()).collect::<Vec<_>>().join(", ");
        tracing::info!(job_id = %job.id, models, prompt_hash, "job accepted; what is not here is fetched first");
        app.metrics.job_accepted(job.spec.operation.into());
        job.announce(app.queue.len());
        fetch_then_queue(&app, &job, wanted, fields, Some(place));
        return Ok(job);
    }
    match place.fill(&job, app.engine.at_hand(), |before| job.announce(before)) {
        Ok(position) => {
            tracing::info!(job_id = %job.id, operation = job.spec.operation.as_str(), model = %job.spec.model, position,
                steps = job.spec.steps, width = job.spec.width, height = job.spec.height, prompt_hash, "job accepted");
            app.metrics.job_accepted(job.spec.operation.into());
            Ok(job)
        }
        Err(reason) => {
            app.registry.withdraw(&job.id);
            if let Some(ledger) = &app.ledger {
                ledger.withdraw(&job).await;
            }
            Err(refused(&app, reason))
        }
    }
}

/// A job ends with one fault, whatever else is wrong.
fn first_of(faults: Vec<Fault>) -> Fault {
    faults.into_iter().next().unwrap_or_else(|| Fault::internal("the request was refused without a reason"))
}

/// Fetches a job's models on a thread of its own, completes the job's request with what they say, and queues it: at
/// the place that is held for it, or without one if it had its place before a restart.
pub(crate) fn fetch_then_queue(
    app: &Arc<App>,
    job: &Arc<Job>,
    wanted: Vec<Wanted>,
    fields: Map<String, Value>,
    place: Option<Place>,
) {
    let (theirs, waiting) = (app.clone(), job.clone());
    let work = move || {
        let (app, job) = (theirs, waiting);
        let outcome = app.pulls.fetch_for(&job, &wanted, &app.models).and_then(|()| {
            let spec = build::job_spec(&app, &fields).map_err(first_of)?;
            job.settle(spec);
            let queued = match place {
                Some(place) => place.fill(&job, app.engine.at_hand(), |_| ()),
                None => app.queue.push_again(&job, app.engine.at_hand(), |_| ()),
            };
            queued.map_err(|reason| first_of(refused(&app, reason).faults))
        });
        match outcome {
            Ok(_) => {}
            // The next program goes on with it.
            Err(_) if app.shutdown.is_draining() && app.keeps(&job) => {}
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

/// The answer to a job that was taken: where it stands, and where to look.
fn accepted(mut body: Value) -> Response {
    let id = body["job_id"].as_str().unwrap_or_default().to_owned();
    body["sse_url"] = format!("/v1/jobs/{id}/stream").into();
    body["url"] = format!("/v1/jobs/{id}").into();
    json_ok(&body)
}

/// The job that an idempotency key has made already, and the fingerprint of its request, if that was kept.
pub(crate) async fn known(app: &App, caller: &str, key: &str) -> Result<Option<(Named, Option<[u8; 32]>)>, Fault> {
    if let Some((job, fingerprint)) = app.registry.by_key(caller, key) {
        return Ok(Some((Named::Live(job), Some(fingerprint))));
    }
    let Some(ledger) = &app.ledger else { return Ok(None) };
    let Some(kept) = ledger.by_key(caller, key).await? else { return Ok(None) };
    let fingerprint = kept.record.fingerprint;
    // A job of the last run that goes on is known by its id.
    if let Some(Lookup::Found(job)) = JobId::parse(&kept.record.id).map(|id| app.registry.find(&id)) {
        return Ok(Some((Named::Live(job), fingerprint)));
    }
    Ok(Some((Named::Kept(Box::new(kept)), fingerprint)))
}

/// A job that is only in the store, as one in memory.
pub(crate) async fn revive(app: &App, kept: Kept) -> Result<Arc<Job>, Fault> {
    match &app.ledger {
        Some(ledger) => Ok(ledger.revive(kept).await?),
        None => Err(Fault::internal("there is no store")),
    }
}

/// A job that a path names: in memory, or only in the store.
pub(crate) enum Named {
    Live(Arc<Job>),
    Kept(Box<Kept>),
}

/// The job that a path segment names.
pub(crate) async fn find(app: &App, id: &str, caller: &str) -> Result<Named, ApiError> {
    let unknown = || ApiError::from(Fault::new(FaultCode::NotFound, "there is no job with this id"));
    let gone = || ApiError::from(Fault::new(FaultCode::Gone, "this job ended and its time to be kept is over"));
    let id = JobId::parse(id).ok_or_else(unknown)?;
    // A key sees its own jobs only.
    let lookup = app.registry.find(&id);
    if let Lookup::Found(job) = lookup {
        return if job.owner == caller { Ok(Named::Live(job)) } else { Err(unknown()) };
    }
    if let Some(ledger) = &app.ledger {
        return match ledger.find(id.as_str()).await.map_err(Fault::from)? {
            Found::Kept(kept) if kept.record.owner == caller => Ok(Named::Kept(kept)),
            Found::Gone => Err(gone()),
            Found::Kept(_) | Found::Unknown => Err(unknown()),
        };
    }
    Err(if matches!(lookup, Lookup::Gone) { gone() } else { unknown() })
}

/// `GET /v1/jobs/{}`
pub(crate) async fn show(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    Ok(json_ok(&match find(&app, request.capture(0), &request.caller).await? {
        Named::Live(job) => view::details(&job, app.line().before(&job)),
        Named::Kept(kept) => kept.details(),
    }))
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
    let (data, more) = match &app.ledger {
        Some(ledger) => list_kept(&app, ledger, &request.caller, status, after, limit).await?,
        None => list_live(&app, &request.caller, status, after, limit)?,
    };
    let next = data.last().filter(|_| more).map(|job| job["job_id"].clone());
    Ok(json_ok(&json!({ "object": "list", "data": data, "next": next })))
}

fn no_such_page() -> Fault {
    Fault::field("after", "must be the id of a job on the page before")
}

fn list_live(
    app: &App,
    caller: &str,
    status: Option<JobState>,
    after: Option<String>,
    limit: usize,
) -> Result<(Vec<Value>, bool), Fault> {
    let mut jobs: Vec<Arc<Job>> = app
        .registry
        .list()
        .into_iter()
        .filter(|j| j.owner == caller && status.is_none_or(|s| j.state() == s))
        .collect();
    if let Some(after) = after {
        let at = jobs.iter().position(|j| j.id.as_str() == after).ok_or_else(no_such_page)?;
        jobs.drain(..=at);
    }
    let more = jobs.len() > limit;
    jobs.truncate(limit);
    let line = app.line();
    Ok((jobs.iter().map(|j| view::summary(j, line.before(j))).collect(), more))
}

/// From the store, which knows them all; those in memory say for themselves how they are.
async fn list_kept(
    app: &App,
    ledger: &Ledger,
    caller: &str,
    status: Option<JobState>,
    after: Option<String>,
    limit: usize,
) -> Result<(Vec<Value>, bool), Fault> {
    let before = match after {
        None => None,
        Some(id) => match ledger.find(&id).await? {
            Found::Kept(kept) if kept.record.owner == caller => Some(kept.record.seq),
            _ => return Err(no_such_page()),
        },
    };
    let (jobs, more) = ledger.list(caller, status, before, u32::try_from(limit).unwrap_or(1)).await?;
    let line = app.line();
    let show = |kept: &Kept| match JobId::parse(&kept.record.id).map(|id| app.registry.find(&id)) {
        Some(Lookup::Found(job)) => view::summary(&job, line.before(&job)),
        _ => kept.summary(),
    };
    Ok((jobs.iter().map(show).collect(), more))
}

fn cancelled(job: &Job) -> Response {
    tracing::info!(job_id = %job.id, "cancel requested");
    json_ok(&json!({ "job_id": job.id.as_str(), "status": "cancelled" }))
}

/// Asks a job to stop, and waits until this is written down. `false` when it had ended.
async fn stop(app: &App, job: &Job) -> bool {
    let stopped = job.request_cancel();
    if stopped {
        app.queue.sweep();
        if let Some(ledger) = &app.ledger {
            ledger.settled().await;
        }
    }
    stopped
}

/// `POST /v1/jobs/{}/cancel`
pub(crate) async fn cancel(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let state = match find(&app, request.capture(0), &request.caller).await? {
        Named::Live(job) if stop(&app, &job).await => return Ok(cancelled(&job)),
        Named::Live(job) => job.state(),
        Named::Kept(kept) => kept.state(),
    };
    let message = format!("the job is {} and cannot be cancelled any more", state.as_str());
    Err(Fault::new(FaultCode::Conflict, message).into())
}

/// `DELETE /v1/jobs/{}`
pub(crate) async fn delete(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let id = match find(&app, request.capture(0), &request.caller).await? {
        Named::Live(job) if stop(&app, &job).await => return Ok(cancelled(&job)),
        Named::Live(job) if !job.state().is_terminal() => {
            return Err(Fault::new(FaultCode::Conflict, "the job is just ending; ask again").into());
        }
        Named::Live(job) => job.id.to_string(),
        Named::Kept(kept) => kept.record.id,
    };
    if let Some(ledger) = &app.ledger {
        match ledger.forget(&id).await {
            // One whose end could not be written is in memory only.
            Ok(()) | Err(StoreError::Unknown | StoreError::Conflict { .. }) => {}
            Err(e) => return Err(Fault::from(e).into()),
        }
    }
    if let Some(id) = JobId::parse(&id) {
        app.registry.forget(&id);
    }
    Ok(json_ok(&json!({ "job_id": id, "status": "deleted" })))
}

/// `GET /v1/jobs/{}/images/{}`
pub(crate) async fn image(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let named = find(&app, request.capture(0), &request.caller).await?;
    let index = request.capture(1).parse::<u32>().ok();
    let (state, picture) = match &named {
        Named::Live(job) => {
            let mut now = job.snapshot();
            let picture =
                index.map(|i| i as usize).filter(|i| *i < now.pictures.len()).map(|i| now.pictures.swap_remove(i));
            (now.state, picture.map(|p| (p.media_type.to_owned(), p.shared())))
        }
        Named::Kept(kept) => {
            let picture = match (&app.ledger, index) {
                (Some(ledger), Some(i)) => ledger.picture(&kept.record.id, i).await.map_err(Fault::from)?,
                _ => None,
            };
            (kept.state(), picture.map(|(media_type, bytes)| (media_type, bytes::Bytes::copy_from_slice(&bytes))))
        }
    };
    let Some((media_type, bytes)) = picture else {
        let fault = match state {
            JobState::Queued | JobState::Running => Fault::new(FaultCode::Conflict, "the picture is not finished yet"),
            _ => Fault::new(FaultCode::NotFound, "the job has no picture with this number"),
        };
        return Err(fault.into());
    };
    let etag = format!("\"{}-{}\"", request.capture(0), request.capture(1));
    if request.header("if-none-match").is_some_and(|tags| tags.split(',').any(|t| t.trim() == etag || t.trim() == "*"))
    {
        let mut response = bytes_reply(StatusCode::NOT_MODIFIED, &media_type, Vec::new());
        set(&mut response, "etag", &etag);
        return Ok(response);
    }
    let mut response = bytes_reply(StatusCode::OK, &media_type, bytes);
    set(&mut response, "etag", &etag);
    set(&mut response, "cache-control", "private, max-age=31536000, immutable");
    Ok(response)
}

/// `POST /v1/png-info`
pub(crate) async fn png_info(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let body::Sent { object, share: _share } = body::json_object(request, &app.config.limits).await?;
    let text = object
        .get("image")
        .and_then(Value::as_str)
        .ok_or_else(|| Fault::field("image", "must be a picture as base64 or as a data URL"))?
        .to_owned();
    off_runtime(&app, move |_| Ok(json_ok(&build::recipe_of(&text)?))).await?
}
