//! OpenAI's images: `/v1/images/generations`, `edits`, `variations`. Our own fields are taken at top level too.

use super::{in_words, multipart, openai_fields as fields, openai_stream, submit};
use crate::{
    api::{
        App,
        body::{self, Sent},
        fields::{Values, check},
        http::{ApiError, Request, Response, json_ok},
        idempotency::{self, Claim},
        jobs::{self, Named},
        rooms::off_runtime,
    },
    fault::{Fault, FaultCode},
    jobs::{Follower, Job, Origin, Snapshot},
};
use base64::Engine as _;
use serde_json::{Map, Value, json};
use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// Which route was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Generation,
    Edit,
    Variation,
}

impl Route {
    /// What is asked for.
    fn name(self) -> &'static str {
        match self {
            Route::Generation => "openai generation",
            Route::Edit => "openai edit",
            Route::Variation => "openai variation",
        }
    }

    /// Where the names of its stream's events begin.
    pub(crate) fn events(self) -> &'static str {
        if self == Route::Generation { "image_generation" } else { "image_edit" }
    }
}

/// What the answer looks like.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) route: Route,
    /// Links instead of base64.
    url: bool,
    stream: bool,
    pub(crate) partial_images: u32,
    pub(crate) quality: String,
    /// Where links begin.
    base: String,
}

/// `POST /v1/images/generations`
pub(crate) async fn generations(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let call = Call::of(&request)?;
    let given = body::json_object(request, &app.config.limits).await?;
    run(app, call, given, Route::Generation).await
}

/// `POST /v1/images/edits`
pub(crate) async fn edits(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let call = Call::of(&request)?;
    let given = form_or_json(&app, request).await?;
    run(app, call, given, Route::Edit).await
}

/// `POST /v1/images/variations`
pub(crate) async fn variations(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let call = Call::of(&request)?;
    let mut given = form_or_json(&app, request).await?;
    // A variation has no prompt of its own: the picture speaks.
    given.object.entry("prompt").or_insert_with(|| json!(""));
    run(app, call, given, Route::Variation).await
}

struct Call {
    caller: String,
    id: Origin,
    key: Option<String>,
    base: String,
}

impl Call {
    fn of(request: &Request) -> Result<Call, Fault> {
        let scheme = request.header("x-forwarded-proto").filter(|p| *p == "https").unwrap_or("http");
        Ok(Call {
            caller: request.caller.clone(),
            id: request.id.clone(),
            key: idempotency::key_of(request)?,
            base: request.header("host").map(|host| format!("{scheme}://{host}")).unwrap_or_default(),
        })
    }
}

async fn form_or_json(app: &App, request: Request) -> Result<Sent, ApiError> {
    let limits = &app.config.limits;
    let is_form =
        request.header("content-type").is_some_and(|t| t.trim_start().to_ascii_lowercase().starts_with("multipart/"));
    if !is_form {
        return body::json_object(request, limits).await;
    }
    let mut form = multipart::read(request, limits).await?;
    fields::typed(&mut form.object);
    Ok(form)
}

async fn run(app: Arc<App>, call: Call, sent: Sent, route: Route) -> Result<Response, ApiError> {
    let Sent { object: given, share } = sent;
    let claim = idempotency::claim(&app, &call.caller, call.key, route.name(), &given).await?;
    let sent: Vec<String> = given.keys().cloned().collect();
    let told = |error| in_words(error, fields::WORDS, |name| !sent.iter().any(|s| s == name));
    let (theirs, ours): (Map<_, _>, Map<_, _>) =
        given.into_iter().partition(|(name, _)| fields::FIELDS.iter().any(|f| f.name == name));
    let values = check(fields::FIELDS, &theirs)?;
    let shape = shape(&values, route, call.base)?;
    let mut reading = match claim {
        // The client sends its request again: it gets the job that the first one made.
        Claim::Known(Named::Live(job)) => Follower::new(job, 0),
        Claim::Known(Named::Kept(kept)) => Follower::new(jobs::revive(&app, *kept).await?, 0),
        Claim::New(turn) => {
            let look = shape.clone();
            let mut job = off_runtime(&app, move |app| native(app, &values, ours, &look)).await??;
            if turn.is_some() {
                job.entry("on_disconnect").or_insert_with(|| "keep".into());
            }
            submit(&app, job, call.caller, turn, &call.id).await.map_err(told)?
        }
    };
    // The job has what it needs of the request.
    drop(share);
    if shape.stream {
        return Ok(openai_stream::reply(&app, reading, shape));
    }
    let done = reading.outcome(|_| ()).await.map_err(|fault| told(fault.into()))?;
    let job = reading.job().clone();
    Ok(off_runtime(&app, move |_| json_ok(&answer(&job, &done, &shape))).await?)
}

fn shape(values: &Values, route: Route, base: String) -> Result<Shape, Fault> {
    if values.text("background") == Some("transparent") {
        return Err(Fault::new(FaultCode::Unsupported, "pictures have no transparent parts here; send opaque or auto")
            .about("background"));
    }
    // Links are the default of the models that knew nothing else, and of the route that only they had.
    let links = match values.text("model") {
        Some(model) => model.starts_with("dall-e"),
        None => route == Route::Variation,
    };
    Ok(Shape {
        route,
        url: values.text("response_format").map_or(links, |format| format == "url"),
        stream: values.bool("stream").unwrap_or(false),
        partial_images: values.u32("partial_images").unwrap_or(0),
        quality: values.text("quality").unwrap_or("auto").to_owned(),
        base,
    })
}

/// Whether a name is one of OpenAI's own models, which clients send without being asked.
fn is_openais(model: &str) -> bool {
    model.is_empty() || ["dall-e", "gpt-image", "chatgpt-image"].iter().any(|own| model.starts_with(own))
}

/// The native job that says the same.
fn native(
    app: &App,
    values: &Values,
    mut ours: Map<String, Value>,
    shape: &Shape,
) -> Result<Map<String, Value>, ApiError> {
    let mut job = Map::new();
    if let Some(prompt) = values.text("prompt") {
        job.insert("prompt".into(), prompt.into());
    }
    if let Some(size) = values.text("size").filter(|s| *s != "auto" && !s.is_empty()) {
        let (width, height) = size
            .split_once('x')
            .and_then(|(w, h)| Some((w.parse::<u32>().ok()?, h.parse::<u32>().ok()?)))
            .ok_or_else(|| Fault::field("size", "must be WIDTHxHEIGHT, such as 512x512, or auto"))?;
        job.insert("width".into(), width.into());
        job.insert("height".into(), height.into());
    }
    let model = values.text("model").filter(|m| !is_openais(m)).map_or_else(|| app.default_model(), str::to_owned);
    if let Some(n) = values.u32("n") {
        job.insert("n".into(), n.into());
    }
    if let Some(quality) = values.u32("output_compression") {
        // The encoders count from 1.
        job.insert("quality".into(), quality.max(1).into());
    }
    pictures(&mut ours, &mut job, shape.route)?;
    if shape.stream && shape.partial_images > 0 {
        let number = |names: [&str; 2]| names.iter().find_map(|n| ours.get(*n)).and_then(Value::as_f64);
        let steps = number(["steps", "num_inference_steps"])
            .unwrap_or_else(|| app.models.lookup(&model).map_or(20.0, |m| f64::from(m.model.defaults.steps)));
        let part = match (job.contains_key("init_image"), job.contains_key("mask_image")) {
            (true, false) => number(["strength", "denoising_strength"]).unwrap_or(0.75),
            _ => 1.0,
        };
        let every = (steps * part) as u32 / (shape.partial_images + 1);
        job.insert("preview_every".into(), every.clamp(1, 150).into());
    }
    job.insert("model".into(), model.into());
    for (name, value) in ours {
        job.entry(name).or_insert(value);
    }
    Ok(job)
}

/// Moves the pictures from the client's fields to the job's.
fn pictures(from: &mut Map<String, Value>, job: &mut Map<String, Value>, route: Route) -> Result<(), Fault> {
    let mut found = Vec::new();
    for name in ["image", "images"] {
        if let Some(value) = from.remove(name) {
            collect(name, value, &mut found)?;
        }
    }
    let mut mask = Vec::new();
    if let Some(value) = from.remove("mask") {
        collect("mask", value, &mut mask)?;
    }
    match found.len() {
        0 if route != Route::Generation => return Err(Fault::field("image", "is required: the picture to work on")),
        0 | 1 => {}
        n => {
            let message = format!("one picture can be worked on at a time; {n} were sent");
            return Err(Fault::new(FaultCode::Unsupported, message).about("image"));
        }
    }
    if let Some(picture) = found.pop() {
        job.insert("init_image".into(), picture);
    }
    if let Some(mask) = mask.pop() {
        job.insert("mask_image".into(), mask);
        // Here the transparent part is what is painted.
        job.insert("mask_mode".into(), "alpha".into());
    }
    Ok(())
}

/// Pictures as text: a form's file, base64, a list of them, or objects with `image_url`.
fn collect(name: &str, value: Value, found: &mut Vec<Value>) -> Result<(), Fault> {
    match value {
        Value::Null => Ok(()),
        Value::String(_) => {
            found.push(value);
            Ok(())
        }
        Value::Array(items) => items.into_iter().try_for_each(|item| collect(name, item, found)),
        Value::Object(mut object) => match object.remove("image_url") {
            // Chat's form of the same: an object with the address inside.
            Some(Value::Object(mut inner)) => collect(name, inner.remove("url").unwrap_or_default(), found),
            Some(url) => collect(name, url, found),
            None if object.contains_key("file_id") => Err(Fault::new(
                FaultCode::Unsupported,
                "files are not kept here; send the picture as image_url with a data URL",
            )
            .about(name)),
            None => Err(Fault::field(name, "must have an image_url with a data URL")),
        },
        _ => Err(Fault::field(name, "must be a picture as a file, as base64 or as a data URL")),
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn answer(job: &Job, done: &Snapshot, shape: &Shape) -> Value {
    let data: Vec<Value> = done
        .pictures
        .iter()
        .enumerate()
        .map(|(i, p)| {
            let mut entry = if shape.url {
                json!({ "url": format!("{}/v1/jobs/{}/images/{i}", shape.base, job.id) })
            } else {
                json!({ "b64_json": base64::engine::general_purpose::STANDARD.encode(p.bytes.as_slice()) })
            };
            entry["seed"] = p.seed.into();
            entry
        })
        .collect();
    let mut answer = json!({
        "created": now(), "data": data, "background": "opaque", "output_format": job.spec.format.extension(),
        "size": format!("{}x{}", job.spec.width, job.spec.height), "usage": usage(),
    });
    if ["low", "medium", "high", "xhigh", "max"].contains(&shape.quality.as_str()) {
        answer["quality"] = shape.quality.clone().into();
    }
    answer
}

/// Pictures are not counted in tokens here; clients want the numbers all the same.
pub(crate) fn usage() -> Value {
    json!({ "input_tokens": 0, "input_tokens_details": { "text_tokens": 0, "image_tokens": 0 }, "output_tokens": 0, "total_tokens": 0 })
}
