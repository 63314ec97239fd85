//! OpenAI's images: `/v1/images/generations`, `edits`, `variations`. Our own fields are taken at top level too.

use super::{multipart, openai_stream, submit};
use crate::{
    api::{
        App, body,
        http::{ApiError, Request, Response, json_ok},
    },
    fault::Fault,
    jobs::{Job, Snapshot},
};
use base64::Engine as _;
use serde_json::{Map, Value, json};
use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// Words of the specification that decide nothing here.
const WITHOUT_MEANING: &[&str] = &[
    "quality",
    "style",
    "moderation",
    "background",
    "user",
    "input_fidelity",
    "response_format",
    "stream",
    "partial_images",
    "size",
    "image",
    "images",
    "mask",
    "model",
    "n",
    "output_compression",
];

/// What the answer looks like.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    /// Links instead of base64.
    pub(crate) url: bool,
    pub(crate) stream: bool,
    pub(crate) partial_images: u32,
    pub(crate) background: String,
    pub(crate) quality: String,
    /// `image_generation` or `image_edit`.
    pub(crate) kind: &'static str,
    /// Where links begin.
    pub(crate) base: String,
}

/// `POST /v1/images/generations`
pub(crate) async fn generations(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let call = Call::of(&request);
    let given = body::json_object(request, &app.config.limits).await?;
    run(app, call, given, "image_generation").await
}

/// `POST /v1/images/edits`
pub(crate) async fn edits(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let call = Call::of(&request);
    let given = form_or_json(&app, request).await?;
    run(app, call, given, "image_edit").await
}

/// `POST /v1/images/variations`
pub(crate) async fn variations(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let call = Call::of(&request);
    let mut given = form_or_json(&app, request).await?;
    // A variation has no prompt of its own: the picture speaks.
    given.entry("prompt").or_insert_with(|| json!(""));
    run(app, call, given, "image_edit").await
}

struct Call {
    caller: String,
    id: String,
    base: String,
}

impl Call {
    fn of(request: &Request) -> Call {
        let base = request.header("host").map(|h| format!("http://{h}")).unwrap_or_default();
        Call { caller: request.caller.clone(), id: request.id.clone(), base }
    }
}

async fn form_or_json(app: &App, request: Request) -> Result<Map<String, Value>, ApiError> {
    let limits = &app.config.limits;
    let is_form =
        request.header("content-type").is_some_and(|t| t.trim_start().to_ascii_lowercase().starts_with("multipart/"));
    if is_form { multipart::read(request, limits.body_bytes).await } else { body::json_object(request, limits).await }
}

async fn run(app: Arc<App>, call: Call, given: Map<String, Value>, kind: &'static str) -> Result<Response, ApiError> {
    let text = |name: &str, default: &str| given.get(name).and_then(Value::as_str).unwrap_or(default).to_owned();
    let shape = Shape {
        url: text("response_format", "b64_json") == "url",
        stream: truth(given.get("stream")),
        partial_images: number(given.get("partial_images")).and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        background: text("background", "opaque"),
        quality: text("quality", "auto"),
        kind,
        base: call.base,
    };
    if shape.partial_images > 3 {
        return Err(Fault::field("partial_images", "must be a whole number from 0 to 3").into());
    }
    let fields = native(&app, given, &shape)?;
    let mut reading = submit(&app, fields, call.caller, &call.id).await?;
    if shape.stream {
        return Ok(openai_stream::reply(reading, shape));
    }
    let done = reading.outcome(|_| ()).await?;
    Ok(json_ok(&answer(reading.job(), &done, &shape)))
}

/// Forms send numbers and truth values as text.
fn number(value: Option<&Value>) -> Option<i64> {
    value.and_then(|v| v.as_i64().or_else(|| v.as_str()?.trim().parse().ok()))
}

fn truth(value: Option<&Value>) -> bool {
    value.is_some_and(|v| v.as_bool().unwrap_or(v.as_str() == Some("true")))
}

/// The native job that says the same.
fn native(app: &App, given: Map<String, Value>, shape: &Shape) -> Result<Map<String, Value>, ApiError> {
    let mut fields = Map::new();
    if let Some(size) = given.get("size").and_then(Value::as_str).filter(|s| *s != "auto" && !s.is_empty()) {
        let sides = size.split_once('x').and_then(|(w, h)| Some((w.parse::<u32>().ok()?, h.parse::<u32>().ok()?)));
        let (width, height) =
            sides.ok_or_else(|| Fault::field("size", "must be WIDTHxHEIGHT, such as 512x512, or auto"))?;
        fields.insert("width".into(), width.into());
        fields.insert("height".into(), height.into());
    }
    // Clients send OpenAI's own model names without being asked; they mean the default model here.
    if let Some(model) = given.get("model").and_then(Value::as_str)
        && !(model.is_empty()
            || model.starts_with("dall-e")
            || model.starts_with("gpt-image")
            || model == "chatgpt-image-latest")
    {
        fields.insert("model".into(), model.into());
    }
    if let Some(n) = given.get("n").filter(|v| !v.is_null()) {
        let n = number(Some(n))
            .filter(|n| (1..=10).contains(n))
            .ok_or_else(|| Fault::field("n", "must be a whole number from 1 to 10"))?;
        fields.insert("n".into(), n.into());
    }
    if let Some(quality) = number(given.get("output_compression")) {
        fields.insert("quality".into(), quality.max(1).into());
    }
    let picture = given.get("image").or_else(|| given.get("images"));
    if let Some(image) = picture.and_then(first_picture) {
        fields.insert("init_image".into(), image);
    } else if shape.kind == "image_edit" {
        return Err(Fault::field("image", "is required").into());
    }
    if let Some(mask) = given.get("mask").and_then(first_picture) {
        fields.insert("mask_image".into(), mask);
        // Here the transparent part is what is painted.
        fields.insert("mask_mode".into(), "alpha".into());
    }
    if shape.stream && shape.partial_images > 0 {
        let steps = number(given.get("steps").or_else(|| given.get("num_inference_steps")))
            .unwrap_or_else(|| i64::from(app.default_steps()));
        let every = (steps / (i64::from(shape.partial_images) + 1)).max(1);
        fields.insert("preview_every".into(), every.into());
    }
    for (name, value) in given {
        if value.is_null() || WITHOUT_MEANING.contains(&name.as_str()) {
            continue;
        }
        // A form's numbers arrive as text.
        let value = match &value {
            Value::String(text) if name != "prompt" && name != "negative_prompt" => {
                serde_json::from_str::<Value>(text).ok().filter(|v| v.is_number() || v.is_boolean()).unwrap_or(value)
            }
            _ => value,
        };
        fields.entry(name).or_insert(value);
    }
    Ok(fields)
}

/// A picture as text, from a form's file, a list, or an object with `image_url`.
fn first_picture(value: &Value) -> Option<Value> {
    match value {
        Value::String(_) => Some(value.clone()),
        Value::Array(items) => items.first().and_then(first_picture),
        Value::Object(object) => object.get("image_url").and_then(first_picture),
        _ => None,
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
    json!({
        "created": now(), "data": data, "background": shape.background, "quality": shape.quality,
        "output_format": job.spec.format.extension(), "size": format!("{}x{}", job.spec.width, job.spec.height),
        "usage": usage(),
    })
}

/// Pictures are not counted in tokens here.
pub(crate) fn usage() -> Value {
    json!({ "input_tokens": 0, "input_tokens_details": { "text_tokens": 0, "image_tokens": 0 }, "output_tokens": 0, "total_tokens": 0 })
}
