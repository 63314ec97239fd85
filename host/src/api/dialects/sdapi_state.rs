//! A1111's state: progress, interrupt, options, memory, checkpoints.

use super::{sdapi::timestamp, sdapi_options as options};
use crate::{
    api::{
        App, body, build,
        http::{ApiError, Request, Response, json_ok},
        rooms::{off_runtime, on_device},
    },
    jobs::{Job, JobId, JobState, Snapshot},
};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The caller's jobs that have not ended, the running one first.
fn unfinished(app: &App, caller: &str) -> Vec<Arc<Job>> {
    let mut jobs: Vec<Arc<Job>> =
        app.registry.list().into_iter().filter(|j| j.owner == caller && !j.state().is_terminal()).collect();
    jobs.sort_by_key(|j| (j.state() != JobState::Running, j.created_at));
    jobs
}

/// The newest preview of a job, as base64.
fn preview(job: &Job) -> Value {
    let last = job.events.after(0, usize::MAX).into_iter().rev().find(|e| e.name == "preview");
    last.and_then(|e| serde_json::from_str::<Value>(&e.json).ok()).map_or(Value::Null, |e| e["image_base64"].clone())
}

/// `GET /sdapi/v1/progress`
pub(crate) async fn progress(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let jobs = unfinished(&app, &request.caller);
    let Some(job) = jobs.first() else {
        return Ok(json_ok(&json!({
            "progress": 0.0, "eta_relative": 0.0, "state": state(None, 0), "current_image": null, "textinfo": null, "current_task": null,
        })));
    };
    let now = job.snapshot();
    let (done, eta) = part(&now);
    let image = if request.query("skip_current_image").as_deref() == Some("true") { Value::Null } else { preview(job) };
    Ok(json_ok(&json!({
        "progress": done, "eta_relative": eta, "state": state(Some((job, &now)), jobs.len()),
        "current_image": image, "textinfo": null, "current_task": job.id.as_str(),
    })))
}

/// How much of a job is done, 0–1, and the seconds that are left at this speed.
fn part(now: &Snapshot) -> (f64, f64) {
    let done = f64::from(now.step) / f64::from(now.total.max(1));
    let spent = now.run_seconds.unwrap_or(0.0);
    (done, if done > 0.0 { spent / done - spent } else { 0.0 })
}

/// Idle is a `job_count` of 0: clients wait for it after a change of models.
fn state(job: Option<(&Arc<Job>, &Snapshot)>, count: usize) -> Value {
    let stopping = job.is_some_and(|(j, _)| j.wraps_up() || j.cancel_requested());
    json!({
        "skipped": false, "interrupted": stopping, "stopping_generation": false, "job": job.map_or("", |(j, _)| j.id.as_str()),
        "job_count": count, "job_timestamp": job.map_or_else(|| "0".to_owned(), |(j, _)| timestamp(j)), "job_no": 0,
        "sampling_step": job.map_or(0, |(_, now)| now.step), "sampling_steps": job.map_or(0, |(_, now)| now.total),
    })
}

/// `POST /internal/progress`
pub(crate) async fn internal_progress(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let caller = request.caller.clone();
    let given = body::json_object(request, &app.config.limits).await?.object;
    let wanted = given.get("id_task").and_then(Value::as_str).unwrap_or_default();
    let own = || JobId::parse(wanted).and_then(|id| app.registry.find(&id).found()).filter(|j| j.owner == caller);
    let Some(job) = app.registry.by_name(&caller, wanted).or_else(own) else {
        return Ok(json_ok(&json!({
            "active": false, "queued": false, "completed": false, "progress": null, "eta": null,
            "live_preview": null, "id_live_preview": -1, "textinfo": "Waiting...",
        })));
    };
    let now = job.snapshot();
    let (done, eta) = part(&now);
    let (queued, running) = (now.state == JobState::Queued, now.state == JobState::Running);
    let wants_picture = running && given.get("live_preview") != Some(&Value::Bool(false));
    let live = if wants_picture { preview(&job).as_str().map(|p| format!("data:image/jpeg;base64,{p}")) } else { None };
    let line = app.line();
    let text = line.before(&job).map(|at| format!("In queue: {}/{}", at + 1, line.jobs().len()));
    Ok(json_ok(&json!({
        "active": running, "queued": queued, "completed": now.state.is_terminal(), "progress": running.then_some(done),
        "eta": running.then_some(eta), "live_preview": live, "id_live_preview": if live_is_new(&given, &now) { i64::from(now.step) } else { -1 },
        "textinfo": text,
    })))
}

/// Whether there is another step than the client has seen.
fn live_is_new(given: &Map<String, Value>, now: &Snapshot) -> bool {
    given.get("id_live_preview").and_then(Value::as_i64).unwrap_or(-1) != i64::from(now.step)
}

/// `GET /internal/pending-tasks`
pub(crate) async fn pending_tasks(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let line = app.line();
    let tasks: Vec<&str> = line.jobs().iter().filter(|j| j.owner == request.caller).map(|j| j.id.as_str()).collect();
    Ok(json_ok(&json!({ "size": tasks.len(), "tasks": tasks })))
}

/// `POST /sdapi/v1/interrupt` and `skip`: the running request ends with the pictures as they are now; one that only
/// waits is cancelled. All pictures of a request are drawn together, so there is no next one to skip to.
pub(crate) async fn interrupt(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    if let Some(job) = unfinished(&app, &request.caller).first()
        && !job.request_wrap_up()
    {
        job.request_cancel();
        app.queue.sweep();
    }
    Ok(json_ok(&json!({})))
}

/// `GET /sdapi/v1/options`
pub(crate) async fn options(app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    Ok(json_ok(&options::all(&app).into()))
}

/// `POST /sdapi/v1/options`
pub(crate) async fn set_options(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let given = body::json_object(request, &app.config.limits).await?.object;
    let known = options::read(&given)?;
    if let Some(name) = options::checkpoint(&given) {
        // As in A1111 the answer comes when the model is there.
        let loaded = on_device(&app, move |app| app.load_model(&name)).await?;
        let loaded = loaded.map_err(|fault| fault.about("sd_model_checkpoint"))?;
        app.set_default_model(&loaded.key);
    }
    app.sdapi_options.change(known);
    Ok(json_ok(&Value::Null))
}

/// `GET /sdapi/v1/memory`
pub(crate) async fn memory(app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    let report = on_device(&app, |app| app.engine.devices().first().and_then(|d| d.memory().ok())).await?;
    let report = report.unwrap_or_default();
    let used = report.device_total.saturating_sub(report.device_free);
    Ok(json_ok(
        &json!({ "ram": { "free": report.device_free, "used": used, "total": report.device_total }, "cuda": { "error": "unavailable" } }),
    ))
}

/// `GET /sdapi/v1/cmd-flags`
pub(crate) async fn cmd_flags(_app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    Ok(json_ok(&json!({ "api": true, "nowebui": true })))
}

/// `POST /sdapi/v1/png-info`
pub(crate) async fn png_info(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let body::Sent { object, share: _share } = body::json_object(request, &app.config.limits).await?;
    let text = object.get("image").and_then(Value::as_str).unwrap_or_default().to_owned();
    let recipe = off_runtime(&app, move |_| build::recipe_of(&text)).await??;
    let Some(info) = recipe["parameters"].as_str() else {
        return Ok(json_ok(&json!({ "info": "", "items": recipe["texts"], "parameters": {} })));
    };
    let mut items = recipe["texts"].clone();
    items["parameters"] = info.into();
    Ok(json_ok(&json!({ "info": info, "items": items, "parameters": recipe["items"] })))
}

/// `POST /sdapi/v1/unload-checkpoint`
pub(crate) async fn unload_checkpoint(app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    on_device(&app, |app| app.engine.loaded_models().iter().try_for_each(|m| app.engine.unload_model(m).map(|_| ())))
        .await??;
    Ok(json_ok(&json!({})))
}

/// `POST /sdapi/v1/reload-checkpoint`
pub(crate) async fn reload_checkpoint(app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    on_device(&app, |app| app.load_model(&app.default_model())).await??;
    Ok(json_ok(&json!({})))
}

/// `POST /sdapi/v1/refresh-checkpoints`: the folders are read anew at every list, so there is nothing to do.
pub(crate) async fn refresh_checkpoints(_app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    Ok(json_ok(&Value::Null))
}

/// `GET /internal/ping`
pub(crate) async fn ping(_app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    Ok(json_ok(&json!({})))
}
