//! `sd-worker generate`: draws from the command line, alone or through a running worker.

use super::{GenerateArgs, terminal::say};
use crate::{
    api,
    app::{App, Settings},
    config::Limits,
    fault::{Fault, FaultCode},
    jobs::Follower,
    server::body::BodyBudget,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    time::Duration,
};

/// Largest picture that is read from disk.
const MAX_INPUT: u64 = 256 * 1024 * 1024;
/// Longest line of a stream: a base64 picture.
const MAX_LINE: u64 = 256 * 1024 * 1024;

pub(super) fn run(args: &GenerateArgs) -> Result<(), Fault> {
    let fields = fields(args)?;
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:32} step {pos}/{len} {per_sec} {msg}") {
        bar.set_style(style);
    }
    let pictures = match &args.url {
        Some(url) => remote(url, args.token.as_deref(), &fields, &bar)?,
        None => alone(args, fields, &bar)?,
    };
    bar.finish_and_clear();
    for (i, (bytes, seed)) in pictures.iter().enumerate() {
        let path = place(&args.out, i, pictures.len());
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|e| Fault::internal(format!("{}: {e}", folder.display())))?;
        }
        std::fs::write(&path, bytes).map_err(|e| Fault::internal(format!("{}: {e}", path.display())))?;
        say(&format!("{} (seed {seed})", path.display()));
    }
    Ok(())
}

/// One picture goes to the file, several get a number each.
fn place(out: &Path, index: usize, count: usize) -> PathBuf {
    if out.is_dir() || out.extension().is_none() {
        return out.join(format!("{index:04}.png"));
    }
    if count == 1 {
        return out.to_path_buf();
    }
    let stem = out.file_stem().unwrap_or_default().to_string_lossy();
    let ending = out.extension().unwrap_or_default().to_string_lossy();
    out.with_file_name(format!("{stem}-{index}.{ending}"))
}

fn fields(args: &GenerateArgs) -> Result<Map<String, Value>, Fault> {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            fields.insert(name.to_owned(), value);
        }
    };
    put("prompt", Some(json!(args.prompt)));
    put("negative_prompt", args.negative_prompt.as_ref().map(|v| json!(v)));
    put("n", (args.n != 1).then(|| json!(args.n)));
    put("width", args.width.map(|v| json!(v)));
    put("height", args.height.map(|v| json!(v)));
    put("steps", args.steps.map(|v| json!(v)));
    put("guidance_scale", args.guidance_scale.map(|v| json!(v)));
    put("seed", args.seed.map(|v| json!(v)));
    put("sampler", args.sampler.as_ref().map(|v| json!(v)));
    put("schedule", args.schedule.as_ref().map(|v| json!(v)));
    put("strength", args.strength.map(|v| json!(v)));
    put("init_image", args.init.as_deref().map(file).transpose()?);
    put("mask_image", args.mask.as_deref().map(file).transpose()?);
    if let Some(ending) = args.out.extension().and_then(|e| e.to_str()) {
        let format = match ending {
            "jpg" | "jpeg" => Some("jpeg"),
            "webp" => Some("webp"),
            _ => None,
        };
        put("output_format", format.map(|f| json!(f)));
    }
    for pair in &args.set {
        let (name, text) = pair.split_once('=').ok_or_else(|| Fault::field("--set", "must be NAME=VALUE"))?;
        put(name, Some(serde_json::from_str(text).unwrap_or_else(|_| json!(text))));
    }
    Ok(fields)
}

fn file(path: &Path) -> Result<Value, Fault> {
    let unreadable = |e: std::io::Error| Fault::new(FaultCode::InvalidImage, format!("{}: {e}", path.display()));
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(unreadable)?.take(MAX_INPUT).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(json!(STANDARD.encode(bytes)))
}

/// Shows an event.
fn show(event: &Value, bar: &ProgressBar) {
    match event["event"].as_str() {
        Some("progress") => {
            bar.set_length(event["total"].as_u64().unwrap_or(0));
            bar.set_position(event["step"].as_u64().unwrap_or(0));
        }
        Some("narration") => bar.set_message(event["human"].as_str().unwrap_or_default().to_owned()),
        _ => {}
    }
}

/// Whether an event is the job's good end. Errors: its bad one.
fn is_end(event: &Value) -> Result<bool, Fault> {
    match event["event"].as_str() {
        Some("complete") => Ok(true),
        Some("cancelled") => Err(Fault::cancelled()),
        Some("error") => Err(Fault::internal(event["message"].as_str().unwrap_or("the job failed"))),
        _ => Ok(false),
    }
}

/// Draws in this process.
fn alone(args: &GenerateArgs, mut fields: Map<String, Value>, bar: &ProgressBar) -> Result<Vec<(Vec<u8>, u64)>, Fault> {
    let settings = Settings {
        backends: args.backends.clone(),
        models: args.models.clone(),
        worker_id: "sd-worker".to_owned(),
        limits: Limits {
            body_bytes: 0,
            pixels: 16 * 1024 * 1024,
            job_timeout: Duration::from_secs(86_400),
            budget: BodyBudget::new(0),
        },
        queue_jobs: 1,
        keep: (Duration::from_secs(3600), 1),
        call_limit: Duration::from_secs(3600),
        lanes: None,
        idle_unload: None,
        max_models: None,
        patience: Duration::ZERO,
        may_shut_down: false,
    };
    // The operator's path has become the default model's name.
    fields.remove("model");
    let app = App::start(settings)?;
    app.warm_up();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Fault::internal(format!("the runtime could not be started: {e}")))?;
    let outcome = runtime.block_on(async {
        let job = api::submit(&app, fields).await?;
        let done = Follower::new(job, 0)
            .outcome(|event| show(&serde_json::from_str(&event.json).unwrap_or_default(), bar))
            .await?;
        Ok(done.pictures.iter().map(|p| (p.bytes.to_vec(), p.seed)).collect())
    });
    app.finish(Duration::from_secs(5));
    outcome
}

/// Draws through a running worker.
fn remote(
    url: &str,
    token: Option<&str>,
    fields: &Map<String, Value>,
    bar: &ProgressBar,
) -> Result<Vec<(Vec<u8>, u64)>, Fault> {
    let lost = |e: &dyn std::fmt::Display| Fault::new(FaultCode::NotReady, format!("the worker at {url}: {e}"));
    let base = url.trim_end_matches('/');
    let config = ureq::Agent::config_builder().http_status_as_error(false).build();
    let agent: ureq::Agent = config.into();
    let auth = token.map(|t| format!("Bearer {t}")).unwrap_or_default();
    let get = |path: &str| {
        let mut request = agent.get(format!("{base}{path}"));
        if !auth.is_empty() {
            request = request.header("authorization", &auth);
        }
        request.call().map_err(|e| lost(&e))
    };
    let mut request = agent.post(format!("{base}/v1/jobs")).header("content-type", "application/json");
    if !auth.is_empty() {
        request = request.header("authorization", &auth);
    }
    let mut answer = request.send(Value::Object(fields.clone()).to_string().as_bytes()).map_err(|e| lost(&e))?;
    let accepted: Value =
        serde_json::from_slice(&answer.body_mut().read_to_vec().map_err(|e| lost(&e))?).unwrap_or_default();
    let Some(stream) = accepted["sse_url"].as_str() else {
        let text = accepted["error"]["message"].as_str().unwrap_or("the job was refused");
        return Err(Fault::new(FaultCode::InvalidRequest, text));
    };
    let mut lines = BufReader::new(get(stream)?.into_body().into_reader());
    loop {
        let mut line = String::new();
        let read = lines.by_ref().take(MAX_LINE).read_line(&mut line).map_err(|e| lost(&e))?;
        if read == 0 {
            return Err(lost(&"the stream ended early"));
        }
        let Some(json) = line.trim_end().strip_prefix("data: ").filter(|l| l.starts_with('{')) else { continue };
        let event: Value = serde_json::from_str(json).unwrap_or_default();
        show(&event, bar);
        if !is_end(&event)? {
            continue;
        }
        let mut pictures = Vec::new();
        for image in event["images"].as_array().into_iter().flatten() {
            let mut file = get(image["url"].as_str().unwrap_or_default())?;
            let bytes = file.body_mut().with_config().limit(MAX_LINE).read_to_vec().map_err(|e| lost(&e))?;
            pictures.push((bytes, image["seed"].as_u64().unwrap_or(0)));
        }
        return Ok(pictures);
    }
}
