//! A1111's txt2img and img2img.

use super::{carry, sdapi_edit, submit};
use crate::{
    api::{
        App, body,
        http::{ApiError, Request, Response, json_ok},
    },
    fault::{Fault, FaultCode},
    jobs::{JobSpec, Snapshot},
};
use base64::Engine as _;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Most pictures of one request: `batch_size` × `n_iter`.
const MAX_PICTURES: u64 = 16;

/// `POST /sdapi/v1/txt2img`
pub(crate) async fn txt2img(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    run(app, request, false).await
}

/// `POST /sdapi/v1/img2img`
pub(crate) async fn img2img(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    run(app, request, true).await
}

async fn run(app: Arc<App>, request: Request, from_picture: bool) -> Result<Response, ApiError> {
    let (caller, id) = (request.caller.clone(), request.id.clone());
    let given = body::json_object(request, &app.config.limits).await?;
    let fields = native(&app, &given, from_picture)?;
    let mut reading = submit(&app, fields, caller, &id).await?;
    let done = reading.outcome(|_| ()).await?;
    let send = given.get("send_images").and_then(Value::as_bool).unwrap_or(true);
    let images: Vec<String> = if send {
        done.pictures.iter().map(|p| base64::engine::general_purpose::STANDARD.encode(p.bytes.as_slice())).collect()
    } else {
        Vec::new()
    };
    let info = info(&reading.job().spec, &done, from_picture);
    // Only what was sent comes back, without the pictures: some megabytes that the client has already.
    let mut parameters = given;
    for heavy in ["init_images", "mask"] {
        if parameters.contains_key(heavy) {
            parameters.insert(heavy.to_owned(), Value::Null);
        }
    }
    Ok(json_ok(&json!({ "images": images, "parameters": parameters, "info": info.to_string() })))
}

/// The native job that says the same.
fn native(app: &App, given: &Map<String, Value>, from_picture: bool) -> Result<Map<String, Value>, ApiError> {
    let mut fields = Map::new();
    let text = |name: &str| given.get(name).and_then(Value::as_str).unwrap_or_default();
    fields.insert("prompt".into(), text("prompt").into());
    fields.insert("negative_prompt".into(), text("negative_prompt").into());
    for (theirs, ours) in [
        ("steps", "steps"),
        ("cfg_scale", "guidance_scale"),
        ("width", "width"),
        ("height", "height"),
        ("scheduler", "schedule"),
        ("eta", "eta"),
        ("s_churn", "s_churn"),
        ("s_tmin", "s_tmin"),
        ("s_noise", "s_noise"),
        ("image_cfg_scale", "image_guidance_scale"),
    ] {
        carry(given, theirs, &mut fields, ours);
    }
    // 0 is A1111's word for no bound.
    if given.get("s_tmax").and_then(Value::as_f64) != Some(0.0) {
        carry(given, "s_tmax", &mut fields, "s_tmax");
    }
    // An absent seed and −1 both mean any.
    if let Some(seed) = given.get("seed").filter(|s| s.as_i64() != Some(-1)) {
        fields.insert("seed".into(), seed.clone());
    }
    let sampler = [text("sampler_name"), text("sampler_index")].into_iter().find(|s| !s.is_empty());
    if let Some(sampler) = sampler {
        fields.insert("sampler".into(), sampler.into());
    }
    // What is missing is A1111's "Automatic": the schedule that suits the sampler.
    if text("scheduler").is_empty() {
        fields.insert("schedule".into(), "automatic".into());
    }
    let count = |name: &str| given.get(name).and_then(Value::as_u64).unwrap_or(1).max(1);
    let n = count("batch_size").saturating_mul(count("n_iter"));
    if n > MAX_PICTURES {
        return Err(Fault::field("batch_size", format!("batch_size × n_iter may be at most {MAX_PICTURES}")).into());
    }
    fields.insert("n".into(), n.into());
    let settings = given.get("override_settings").and_then(Value::as_object);
    if let Some(settings) = settings {
        carry(settings, "CLIP_stop_at_last_layers", &mut fields, "clip_skip");
        if let Some(format) = settings.get("samples_format").and_then(Value::as_str) {
            fields.insert("output_format".into(), if format == "jpg" { "jpeg".into() } else { format.into() });
        }
    }
    let model = settings.and_then(|s| s.get("sd_model_checkpoint")).and_then(Value::as_str);
    fields.insert("model".into(), model.map_or_else(|| app.default_model(), checkpoint_name).into());
    unsupported(given)?;
    sdapi_edit::native(given, &mut fields, from_picture)?;
    if from_picture {
        picture(given, &mut fields)?;
    }
    Ok(fields)
}

/// "name [hash]" and "name.safetensors" both name a model.
pub(crate) fn checkpoint_name(title: &str) -> String {
    let name = title.split(" [").next().unwrap_or(title).trim();
    name.strip_suffix(".safetensors").unwrap_or(name).to_owned()
}

/// What would change the picture and is not offered is said, not left out in silence.
fn unsupported(given: &Map<String, Value>) -> Result<(), ApiError> {
    let truth = |name: &str| given.get(name).and_then(Value::as_bool).unwrap_or(false);
    let faults: Vec<Fault> = [
        (truth("restore_faces"), "restore_faces", "face restoration is not offered"),
        (truth("tiling"), "tiling", "seamless tiling is not offered"),
        (
            given.get("script_name").and_then(Value::as_str).is_some_and(|s| !s.is_empty()),
            "script_name",
            "scripts are not offered",
        ),
        (
            given.get("refiner_checkpoint").and_then(Value::as_str).is_some_and(|s| !s.is_empty() && s != "None"),
            "refiner_checkpoint",
            "the refiner's hand-over is not offered",
        ),
    ]
    .into_iter()
    .filter(|(asked, _, _)| *asked)
    .map(|(_, field, message)| Fault::new(FaultCode::Unsupported, message).about(field))
    .collect();
    if faults.is_empty() { Ok(()) } else { Err(faults.into()) }
}

fn picture(given: &Map<String, Value>, fields: &mut Map<String, Value>) -> Result<(), ApiError> {
    let init = given.get("init_images").and_then(Value::as_array).and_then(|l| l.first()).filter(|v| v.is_string());
    let Some(init) = init else {
        return Err(Fault::new(FaultCode::NotFound, "Init image not found").about("init_images").into());
    };
    fields.insert("init_image".into(), init.clone());
    fields.insert("strength".into(), given.get("denoising_strength").cloned().unwrap_or(json!(0.75)));
    let mode = match given.get("resize_mode").and_then(Value::as_u64).unwrap_or(0) {
        0 => "stretch",
        1 => "crop",
        2 => "fill",
        3 => "latent",
        _ => {
            return Err(Fault::new(FaultCode::Unsupported, "must be 0 (stretch), 1 (crop), 2 (fill) or 3 (latent)")
                .about("resize_mode")
                .into());
        }
    };
    fields.insert("resize_mode".into(), mode.into());
    let Some(mask) = given.get("mask").filter(|v| v.is_string()) else { return Ok(()) };
    fields.insert("mask_image".into(), mask.clone());
    let blur = ["mask_blur", "mask_blur_x"].iter().find_map(|n| given.get(*n).and_then(Value::as_u64)).unwrap_or(4);
    fields.insert("mask_blur".into(), blur.into());
    fields
        .insert("mask_invert".into(), (given.get("inpainting_mask_invert").and_then(Value::as_u64) == Some(1)).into());
    let fill = match given.get("inpainting_fill").and_then(Value::as_u64).unwrap_or(0) {
        0 => "fill",
        1 => "original",
        2 => "latent_noise",
        _ => "latent_nothing",
    };
    fields.insert("inpaint_fill".into(), fill.into());
    // A1111's own default: a mask means only its surroundings, without padding.
    fields.insert("only_masked".into(), given.get("inpaint_full_res").and_then(Value::as_bool).unwrap_or(true).into());
    fields.insert(
        "only_masked_padding".into(),
        given.get("inpaint_full_res_padding").and_then(Value::as_u64).unwrap_or(0).into(),
    );
    Ok(())
}

/// The `info` object, which A1111 sends as text.
fn info(spec: &JobSpec, done: &Snapshot, from_picture: bool) -> Value {
    let n = done.pictures.len();
    let seeds: Vec<u64> = done.pictures.iter().map(|p| p.seed).collect();
    let noise = &spec.edit.noise;
    let subseeds: Vec<u64> = (0..n).map(|i| noise.variation_seed.wrapping_add(i as u64)).collect();
    let (from_w, from_h) = noise.resize_from.map_or((-1, -1), |(w, h)| (i64::from(w), i64::from(h)));
    let texts: Vec<&str> = done.pictures.iter().map(|p| p.infotext.as_ref()).collect();
    json!({
        "prompt": spec.prompt, "all_prompts": vec![spec.prompt.as_str(); n],
        "negative_prompt": spec.negative_prompt, "all_negative_prompts": vec![spec.negative_prompt.as_str(); n],
        "seed": spec.seed, "all_seeds": seeds, "subseed": noise.variation_seed, "all_subseeds": subseeds,
        "subseed_strength": noise.variation_strength,
        "width": spec.width, "height": spec.height, "sampler_name": spec.sampler, "cfg_scale": spec.guidance_scale,
        "steps": spec.steps, "batch_size": n, "restore_faces": false, "face_restoration_model": null,
        "sd_model_name": spec.model, "sd_model_hash": null, "sd_vae_name": null, "sd_vae_hash": null,
        "seed_resize_from_w": from_w, "seed_resize_from_h": from_h,
        "denoising_strength": from_picture.then_some(spec.strength).or(spec.edit.hires.as_ref().map(|h| h.strength)), "extra_generation_params": {}, "index_of_first_image": 0,
        "infotexts": texts, "styles": [], "job_timestamp": "0", "clip_skip": spec.clip_skip.unwrap_or(1),
        "is_using_inpainting_conditioning": false, "version": concat!("sd-worker ", env!("CARGO_PKG_VERSION")),
    })
}
