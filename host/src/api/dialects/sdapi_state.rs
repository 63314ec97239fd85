//! A1111's state: progress, interrupt, options, memory, checkpoints.

use super::sdapi::checkpoint_name;
use crate::{
    api::{
        App, body, build,
        http::{ApiError, Request, Response, json_ok},
    },
    fault::Fault,
    jobs::{Job, JobState},
};
use serde_json::{Value, json};
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
            "progress": 0.0, "eta_relative": 0.0, "state": state("", 0, 0, 0), "current_image": null, "textinfo": null, "current_task": null,
        })));
    };
    let now = job.snapshot();
    let done = f64::from(now.step) / f64::from(now.total.max(1));
    let spent = now.run_seconds.unwrap_or(0.0);
    let eta = if done > 0.0 { spent / done - spent } else { 0.0 };
    let image = if request.query("skip_current_image").as_deref() == Some("true") { Value::Null } else { preview(job) };
    Ok(json_ok(&json!({
        "progress": done, "eta_relative": eta, "state": state(job.id.as_str(), jobs.len(), now.step, now.total),
        "current_image": image, "textinfo": null, "current_task": job.id.as_str(),
    })))
}

fn state(job: &str, count: usize, step: u32, total: u32) -> Value {
    json!({
        "skipped": false, "interrupted": false, "stopping_generation": false, "job": job, "job_count": count, "job_timestamp": "0",
        "job_no": 0, "sampling_step": step, "sampling_steps": total,
    })
}

/// `POST /internal/progress`
pub(crate) async fn internal_progress(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let caller = request.caller.clone();
    let given = body::json_object(request, &app.config.limits).await?;
    let wanted = given.get("id_task").and_then(Value::as_str).unwrap_or_default();
    let jobs = unfinished(&app, &caller);
    let job = jobs.iter().find(|j| j.id.as_str() == wanted);
    let queued = job.is_some_and(|j| j.state() == JobState::Queued);
    let snapshot = job.map(|j| j.snapshot());
    let progress = snapshot.as_ref().map(|s| f64::from(s.step) / f64::from(s.total.max(1)));
    let live = job.map(|j| preview(j)).and_then(|p| p.as_str().map(|p| format!("data:image/jpeg;base64,{p}")));
    Ok(json_ok(&json!({
        "active": job.is_some() && !queued, "queued": queued, "completed": job.is_none(), "progress": progress, "eta": null,
        "live_preview": live, "id_live_preview": snapshot.map_or(-1, |s| i64::from(s.step)),
        "textinfo": queued.then(|| format!("In queue: {}/{}", job.and_then(|j| app.queue.position(j)).unwrap_or(0) + 1, app.queue.len())),
    })))
}

/// `POST /sdapi/v1/interrupt`
pub(crate) async fn interrupt(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    if let Some(job) = unfinished(&app, &request.caller).first() {
        job.request_cancel();
        app.queue.sweep();
    }
    Ok(json_ok(&json!({})))
}

/// `GET /sdapi/v1/options`
pub(crate) async fn options(app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    Ok(json_ok(&json!({
        "sd_model_checkpoint": app.default_model(), "sd_checkpoint_hash": null, "sd_vae": "Automatic", "CLIP_stop_at_last_layers": 1,
        "samples_format": "png", "randn_source": "CPU",
    })))
}

/// `POST /sdapi/v1/options`
pub(crate) async fn set_options(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let given = body::json_object(request, &app.config.limits).await?;
    if let Some(title) = given.get("sd_model_checkpoint").and_then(Value::as_str) {
        let name = checkpoint_name(title);
        let work = app.clone();
        // As in A1111 the answer comes when the model is there.
        let loaded = tokio::task::spawn_blocking(move || work.engine.load_model(&name))
            .await
            .map_err(|_| Fault::internal("the model could not be loaded"))??;
        app.set_default_model(&loaded.key);
    }
    Ok(json_ok(&Value::Null))
}

/// `GET /sdapi/v1/memory`
pub(crate) async fn memory(app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    let report = tokio::task::spawn_blocking(move || app.engine.devices().first().and_then(|d| d.memory().ok()))
        .await
        .map_err(|_| Fault::internal("the memory could not be read"))?
        .unwrap_or_default();
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
    let given = body::json_object(request, &app.config.limits).await?;
    let text = given.get("image").and_then(Value::as_str).unwrap_or_default().to_owned();
    let recipe = tokio::task::spawn_blocking(move || build::recipe_of(&text))
        .await
        .map_err(|_| Fault::internal("the picture could not be read"))??;
    let info = recipe["parameters"].as_str().unwrap_or_default();
    Ok(json_ok(&json!({ "info": info, "items": { "parameters": info }, "parameters": recipe["items"] })))
}

/// `POST /sdapi/v1/unload-checkpoint`
pub(crate) async fn unload_checkpoint(app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    tokio::task::spawn_blocking(move || {
        app.engine.loaded_models().iter().try_for_each(|m| app.engine.unload_model(m).map(|_| ()))
    })
    .await
    .map_err(|_| Fault::internal("the model could not be unloaded"))??;
    Ok(json_ok(&json!({})))
}

/// `POST /sdapi/v1/reload-checkpoint`
pub(crate) async fn reload_checkpoint(app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    tokio::task::spawn_blocking(move || app.engine.load_model(&app.default_model()))
        .await
        .map_err(|_| Fault::internal("the model could not be loaded"))??;
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
