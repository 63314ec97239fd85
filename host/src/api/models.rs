//! Models over HTTP: list, load, unload.

use super::App;
use super::http::{ApiError, Request, Response, json_ok};
use crate::fault::{Fault, FaultCode};
use serde_json::{Value, json};
use std::sync::Arc;

/// `GET /v1/models`
pub(crate) async fn list(app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    let places = app.engine.places();
    let mut data: Vec<Value> = {
        let app = app.clone();
        // The folders are read anew, so that a model copied in is seen at once.
        tokio::task::spawn_blocking(move || app.models.list_json(&app.default_model(), &app.engine.loaded_models()))
            .await
            .map_err(|_| Fault::internal("the models could not be listed"))?
    };
    for entry in &mut data {
        let here = places.iter().filter(|p| p.models.iter().any(|m| entry["id"] == m.as_str()));
        entry["devices"] = here.map(|p| p.device.as_str()).collect();
    }
    Ok(json_ok(&json!({ "object": "list", "data": data })))
}

/// `GET /v1/models/{}`
pub(crate) async fn show(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let name = request.capture(0).to_owned();
    let entry = tokio::task::spawn_blocking(move || {
        let list = app.models.list_json(&app.default_model(), &app.engine.loaded_models());
        list.into_iter().find(|entry| entry["id"] == name.as_str())
    })
    .await
    .map_err(|_| Fault::internal("the models could not be listed"))?;
    let unknown = || Fault::new(FaultCode::ModelNotFound, "there is no model of this name; see GET /v1/models");
    Ok(json_ok(&entry.ok_or_else(|| unknown().about("model"))?))
}

/// `POST /v1/models/{}/load`
pub(crate) async fn load(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    app.accepting()?;
    let name = request.capture(0).to_owned();
    let loaded = {
        let app = app.clone();
        tokio::task::spawn_blocking(move || app.load_model(&name))
            .await
            .map_err(|_| Fault::internal("the model could not be loaded"))??
    };
    app.set_default_model(&loaded.key);
    Ok(json_ok(&json!({ "model": loaded.key, "status": "loaded", "weights_bytes": loaded.memory.weights })))
}

/// `POST /v1/models/{}/unload`
pub(crate) async fn unload(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let name = request.capture(0).to_owned();
    let was = {
        let app = app.clone();
        tokio::task::spawn_blocking(move || app.engine.unload_model(&name))
            .await
            .map_err(|_| Fault::internal("the model could not be unloaded"))??
    };
    Ok(json_ok(&json!({ "model": request.capture(0), "status": if was { "unloaded" } else { "not_loaded" } })))
}
