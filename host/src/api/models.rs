//! Models over HTTP: list, load, unload. A load can be followed as it goes on.

use super::App;
use super::http::{ApiError, Request, Response, json_ok};
use super::rooms::{self, begin_on_device, off_runtime, on_device};
use super::stream::{COMMENT, KEEP_ALIVE, event_stream};
use crate::{
    engine::{LoadProgress, LoadedModel},
    fault::{Fault, FaultCode},
    jobs::{line, view},
};
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Map, Value, json};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::{sync::watch, task::JoinHandle};

/// Progress is told at most this often.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// `GET /v1/models`
pub(crate) async fn list(app: Arc<App>, _request: Request) -> Result<Response, ApiError> {
    Ok(json_ok(&json!({ "object": "list", "data": entries(app).await? })))
}

/// All models, each with the devices that it is on.
async fn entries(app: Arc<App>) -> Result<Vec<Value>, Fault> {
    let places = app.engine.places();
    let mut data: Vec<Value> =
        off_runtime(&app, |app| app.models.list_json(&app.default_model(), &app.engine.loaded_models())).await?;
    for entry in &mut data {
        let here = places.iter().filter(|p| p.models.iter().any(|m| entry["id"] == m.as_str()));
        entry["devices"] = here.map(|p| p.device.as_str()).collect();
    }
    Ok(data)
}

/// `GET /v1/models/{}`
pub(crate) async fn show(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let entry = entries(app).await?.into_iter().find(|entry| entry["id"] == request.capture(0));
    let unknown = || Fault::new(FaultCode::ModelNotFound, "there is no model of this name; see GET /v1/models");
    Ok(json_ok(&entry.ok_or_else(|| unknown().about("model"))?))
}

/// `POST /v1/models/{}/load`. With `Accept: text/event-stream` the answer is a stream: `started`, `progress`, and at the
/// end `complete` or `error`. With `?default=false` the default model stays what it is.
pub(crate) async fn load(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    if app.shutdown.is_draining() {
        return Err(Fault::new(FaultCode::Draining, "the worker is shutting down").into());
    }
    let name = request.capture(0).to_owned();
    let as_default = match request.query("default").as_deref() {
        None | Some("true") => true,
        Some("false") => false,
        Some(_) => return Err(Fault::field("default", "must be true or false").into()),
    };
    let streamed = request.header("accept").is_some_and(|accept| accept.contains("text/event-stream"));
    let (told, progress) = watch::channel((0, 0));
    // The work goes on when the client does not.
    let work = {
        let name = name.clone();
        let tell: LoadProgress = Arc::new(move |done, total| {
            // Nobody may be listening.
            let _ = told.send((done, total));
        });
        begin_on_device(&app, move |app| {
            let loaded = app.load_model_watched(&name, &tell)?;
            if as_default {
                app.set_default_model(&loaded.key);
            }
            Ok(loaded)
        })
        .await
    };
    if streamed {
        return Ok(follow(&app, Load { name, work, progress, id: 0, over: false }));
    }
    Ok(json_ok(&loaded(&outcome(work.await)?)))
}

fn outcome(joined: Result<Result<LoadedModel, Fault>, tokio::task::JoinError>) -> Result<LoadedModel, Fault> {
    rooms::ended(joined)?
}

fn loaded(model: &LoadedModel) -> Value {
    json!({ "model": model.key, "status": "loaded", "weights_bytes": model.memory.weights })
}

/// A load that somebody follows.
struct Load {
    name: String,
    work: JoinHandle<Result<LoadedModel, Fault>>,
    progress: watch::Receiver<(u64, u64)>,
    id: u64,
    over: bool,
}

impl Load {
    fn event(&mut self, name: &str, fields: Value) -> String {
        self.id += 1;
        let mut all = Map::new();
        all.insert("model".to_owned(), self.name.as_str().into());
        if let Value::Object(fields) = fields {
            all.extend(fields);
        }
        format!("id: {}\ndata: {}\n\n", self.id, line(None, name, all))
    }

    fn end(&mut self, outcome: Result<LoadedModel, Fault>) -> String {
        self.over = true;
        let last = match outcome {
            Ok(model) => self.event("complete", loaded(&model)),
            Err(fault) => self.event("error", view::failed(&fault)),
        };
        last + "data: [DONE]\n\n"
    }

    /// The next piece of the stream; `None` after the last.
    async fn next(&mut self) -> Option<String> {
        if self.over {
            return None;
        }
        if self.id == 0 {
            return Some(self.event("started", json!({})));
        }
        let Load { work, progress, .. } = self;
        tokio::select! {
            done = work => {
                let outcome = outcome(done);
                Some(self.end(outcome))
            }
            Ok(()) = progress.changed() => {
                let (done, total) = *progress.borrow_and_update();
                let percent = (done as f64 * 100.0 / total.max(1) as f64).round();
                let human = format!("loading the model: {percent} %");
                let text = self.event("progress", json!({ "done": done, "total": total, "percent": percent, "human": human }));
                tokio::time::sleep(TELL_EVERY).await;
                Some(text)
            }
            () = tokio::time::sleep(KEEP_ALIVE) => Some(COMMENT.to_owned()),
        }
    }
}

fn follow(app: &App, load: Load) -> Response {
    let pieces = stream::unfold(load, |mut load| async move {
        let text = load.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(text)), load))
    });
    event_stream(app, pieces)
}

/// `POST /v1/models/{}/unload`
pub(crate) async fn unload(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let name = request.capture(0).to_owned();
    let was = on_device(&app, move |app| app.engine.unload_model(&name)).await??;
    Ok(json_ok(&json!({ "model": request.capture(0), "status": if was { "unloaded" } else { "not_loaded" } })))
}
