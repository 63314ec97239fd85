//! What the worker says about itself: health, readiness, figures, backends, samplers.

use super::http::{ApiError, Request, Response, bytes_reply, json_ok, json_status, set};
use super::{
    App, openapi,
    rooms::{off_runtime, on_device},
};
use crate::fault::{Fault, FaultCode};
use crate::jobs::Operation;
use http::StatusCode;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

/// `GET /health`
pub(crate) async fn health(_app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    Ok(json_ok(&json!({ "status": "healthy" })))
}

/// `GET /ready`
pub(crate) async fn ready(app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    let state = app.readiness();
    let body = json!({ "ready": state.ready, "state": state.state, "reason": state.reason,
        "model": app.engine.loaded_model(), "models": app.engine.loaded_models() });
    if state.ready {
        return Ok(json_ok(&body));
    }
    let mut response = json_status(StatusCode::SERVICE_UNAVAILABLE, &body);
    set(&mut response, "retry-after", "2");
    Ok(response)
}

/// `GET /info`
pub(crate) async fn info(app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    let state = app.readiness();
    let devices: Vec<Value> = app
        .engine
        .places()
        .iter()
        .map(|p| {
            json!({ "device": p.device, "backend": p.backend, "version": p.version, "model": p.models.first(), "models": p.models,
            "state": if p.trouble.is_none() { "ready" } else { "broken" }, "reason": p.trouble })
        })
        .collect();
    Ok(json_ok(&json!({
        "id": app.config.worker_id, "implementation": "sd-worker", "version": env!("CARGO_PKG_VERSION"),
        "status": state.state, "capabilities": ["image-gen"], "protocol": "sd-worker/1",
        "operations": Operation::ALL.map(Operation::as_str),
        "model_id": app.default_model(), "device": devices.first().map(|d| d["device"].clone()), "devices": devices,
        "limits": {
            "queue_jobs": app.queue.capacity(), "body_bytes": app.config.limits.body_bytes,
            "pixels": app.config.limits.pixels, "steps": 150, "n": 16,
        },
    })))
}

/// `GET /openapi.json`
pub(crate) async fn openapi(_app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    Ok(json_ok(&openapi::document()))
}

/// `GET /metrics`
pub(crate) async fn metrics(app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    app.metrics.queue_jobs.set(gauge(app.queue.len()));
    app.metrics.queue_capacity_jobs.set(gauge(app.queue.capacity()));
    let text = app.metrics.render();
    Ok(bytes_reply(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text.into_bytes()))
}

/// `GET /v1/backends`
pub(crate) async fn backends(app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    let mut serving = Vec::new();
    for p in app.engine.places() {
        serving.push(json!({ "device": p.device, "backend": p.backend, "version": p.version, "file": p.file }));
        for other in p.stand_ins {
            let models: Vec<Value> =
                other.models.iter().map(|m| json!({ "model": m.model, "reason": m.reason })).collect();
            serving.push(json!({
                "device": p.device, "backend": &*other.tag.backend, "version": &*other.tag.version,
                "file": &*other.tag.file, "stands_in_for": models,
            }));
        }
    }
    Ok(json_ok(&json!({ "object": "list", "data": app.plugins.report().as_ref(), "serving": serving })))
}

/// `POST /v1/backends/reload`
pub(crate) async fn reload_backends(app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    let changes = on_device(&app, |app| app.reload_backends()).await??;
    Ok(json_ok(&json!({ "object": "list", "data": changes })))
}

/// `GET /v1/upscalers`
pub(crate) async fn upscalers(app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    let list = off_runtime(&app, |app| crate::upscalers::list_json(&app.models)).await?;
    Ok(json_ok(&json!({ "upscalers": list })))
}

/// `GET /v1/samplers`
pub(crate) async fn samplers(_app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    Ok(json_ok(&crate::names::samplers_json()))
}

/// `GET /v1/queue`
pub(crate) async fn queue(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let line = app.line();
    let own = line.jobs().iter().enumerate().filter(|(_, j)| j.owner == request.caller);
    let waiting: Vec<Value> = own
        .map(|(at, j)| json!({ "job_id": j.id.as_str(), "model": j.spec.model, "priority": j.spec.priority, "position": at }))
        .collect();
    Ok(json_ok(&json!({ "waiting": line.jobs().len(), "capacity": app.queue.capacity(), "data": waiting })))
}

/// `POST /v1/shutdown`
pub(crate) async fn shutdown(app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    if !app.may_shut_down {
        return Err(
            Fault::new(FaultCode::Forbidden, "shutting down over HTTP needs a token or a loopback address").into()
        );
    }
    let (shutdown, patience) = (app.shutdown.clone(), app.patience + crate::app::LAST_WORDS);
    // The answer goes out first.
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        shutdown.drain(patience);
    });
    Ok(json_ok(&json!({ "status": "draining" })))
}
