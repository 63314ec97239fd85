//! A1111's lists.

use crate::{
    api::{
        App,
        http::{ApiError, Request, Response, json_ok},
        rooms::off_runtime,
    },
    names,
    upscalers::BUILT_IN,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// Lists of things that this worker has none of.
pub(crate) async fn empty_list(_app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    Ok(json_ok(&json!([])))
}

/// `GET /sdapi/v1/sd-models`
pub(crate) async fn sd_models(app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    let models = off_runtime(&app, |app| {
        let list = app.models.list_json(&app.default_model(), &[]);
        let complete = list.iter().filter(|m| m["complete"] == true);
        complete
            .map(|m| {
                let hash = app.model_hash(m["id"].as_str().unwrap_or_default());
                json!({ "title": m["id"], "model_name": m["id"], "hash": hash, "sha256": null, "filename": m["id"], "config": null })
            })
            .collect::<Vec<Value>>()
    })
    .await?;
    Ok(json_ok(&models.into()))
}

/// `GET /sdapi/v1/samplers`
pub(crate) async fn samplers(_app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    let list: Vec<Value> = entries("samplers")
        .iter()
        .map(|s| json!({ "name": s["label"], "aliases": aliases(s), "options": {} }))
        .collect();
    Ok(json_ok(&list.into()))
}

/// `GET /sdapi/v1/schedulers`
pub(crate) async fn schedulers(_app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    let list: Vec<Value> = entries("schedules")
        .iter()
        .map(|s| json!({ "name": s["name"], "label": s["label"], "aliases": s["aliases"], "default_rho": -1, "need_inner_model": false }))
        .collect();
    Ok(json_ok(&list.into()))
}

fn entries(key: &str) -> Vec<Value> {
    names::samplers_json()[key].as_array().cloned().unwrap_or_default()
}

fn aliases(entry: &Value) -> Value {
    let mut all = entry["aliases"].as_array().cloned().unwrap_or_default();
    all.insert(0, entry["name"].clone());
    all.into()
}

/// `GET /sdapi/v1/upscalers`
pub(crate) async fn upscalers(app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    let files = off_runtime(&app, |app| app.models.upscalers()).await?;
    let entry = |name: &str, model: Option<&str>, scale: u32| json!({ "name": name, "model_name": model, "model_path": null, "model_url": null, "scale": scale });
    let built_in = BUILT_IN.iter().filter(|e| !e.is_latent()).map(|e| entry(e.label, None, 4));
    let models = files.iter().filter_map(|f| Some(entry(&f.name, Some(&f.name), f.upscaler.as_ref().ok()?.factor)));
    Ok(json_ok(&std::iter::once(entry("None", None, 4)).chain(built_in).chain(models).collect::<Vec<_>>().into()))
}

/// `GET /sdapi/v1/latent-upscale-modes`
pub(crate) async fn latent_upscale_modes(_app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    let modes = BUILT_IN.iter().filter(|e| e.is_latent()).map(|e| json!({ "name": e.label }));
    Ok(json_ok(&modes.collect::<Vec<_>>().into()))
}

/// `GET /sdapi/v1/embeddings`
pub(crate) async fn embeddings(app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    let list = off_runtime(&app, |app| {
        app.models.lookup(&app.default_model()).map(|model| app.models.embeddings(&model).json())
    })
    .await??;
    Ok(json_ok(&list))
}

/// `GET /sdapi/v1/scripts`
pub(crate) async fn scripts(_app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    Ok(json_ok(&json!({ "txt2img": [], "img2img": [] })))
}
