//! A1111's txt2img and img2img.

use super::{
    carry, in_words, sdapi_edit,
    sdapi_fields::{self as table, On, complete},
    sdapi_options as options, submit,
};
use crate::{
    api::{
        App, body,
        http::{ApiError, Request, Response, json_ok},
        rooms::off_runtime,
    },
    fault::{Fault, FaultCode},
    jobs::{Job, Snapshot},
    names, recipe,
};
use base64::Engine as _;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use time::OffsetDateTime;

/// Most pictures of one request: `batch_size` × `n_iter`.
const MAX_PICTURES: u64 = 16;
/// Longest name of a task.
const MAX_TASK: usize = 256;

/// `POST /sdapi/v1/txt2img`
pub(crate) async fn txt2img(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    run(app, request, On::Txt2Img).await
}

/// `POST /sdapi/v1/img2img`
pub(crate) async fn img2img(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    run(app, request, On::Img2Img).await
}

async fn run(app: Arc<App>, request: Request, route: On) -> Result<Response, ApiError> {
    let (caller, id) = (request.caller.clone(), request.id.clone());
    let body::Sent { object: given, share } = body::json_object(request, &app.config.limits).await?;
    let told = |error| in_words(error, table::WORDS, |_| true);
    let mut all = complete(&given, route)?;
    let overrides = all.get("override_settings").and_then(Value::as_object).cloned().unwrap_or_default();
    let known = options::read(&overrides)?;
    let mut fields = native(&all, route)?;
    let model = options::checkpoint(&overrides).unwrap_or_else(|| app.default_model());
    fields.insert("model".into(), model.clone().into());
    let mut settings = app.sdapi_options.changed();
    settings.extend(known.clone());
    options::apply(&settings, all["steps"].as_u64().unwrap_or(0), &mut fields);
    let mut reading = submit(&app, fields, caller, None, &id).await.map_err(told)?;
    // A task's name finds the job again. A name that was used before is the newer job's from now on.
    if let Some(task) = all["force_task_id"].as_str().filter(|task| (1..=MAX_TASK).contains(&task.len())) {
        app.registry.name(reading.job(), task);
    }
    if all["override_settings_restore_afterwards"] == false {
        app.sdapi_options.change(known);
        app.set_default_model(&model);
    }
    // The pictures go back only to those who ask: some megabytes that the client has already.
    if all.get("include_init_images") != Some(&Value::Bool(true)) {
        for heavy in ["init_images", "mask"] {
            all.entry(heavy).and_modify(|value| *value = Value::Null);
        }
    }
    drop((given, share));
    let done = reading.outcome(|_| ()).await.map_err(|fault| told(fault.into()))?;
    let job = reading.job().clone();
    Ok(off_runtime(&app, move |app| answer(app, &job, &done, &all)).await?)
}

fn answer(app: &App, job: &Job, done: &Snapshot, all: &Map<String, Value>) -> Response {
    let images: Vec<String> = if all["send_images"] == true {
        done.pictures.iter().map(|p| base64::engine::general_purpose::STANDARD.encode(p.bytes.as_slice())).collect()
    } else {
        Vec::new()
    };
    let info = info(app, job, done, all).to_string();
    json_ok(&json!({ "images": images, "parameters": all, "info": info }))
}

/// The native job that says the same. `all` holds every field of the route.
fn native(all: &Map<String, Value>, route: On) -> Result<Map<String, Value>, ApiError> {
    unsupported(all)?;
    let mut fields = Map::new();
    for (theirs, ours) in [
        ("prompt", "prompt"),
        ("negative_prompt", "negative_prompt"),
        ("steps", "steps"),
        ("cfg_scale", "guidance_scale"),
        ("seed", "seed"),
        ("eta", "eta"),
        ("s_churn", "s_churn"),
        ("s_tmin", "s_tmin"),
        ("s_noise", "s_noise"),
        ("image_cfg_scale", "image_guidance_scale"),
    ] {
        carry(all, theirs, &mut fields, ours);
    }
    // 0 is A1111's word for no bound.
    if all["s_tmax"].as_f64() != Some(0.0) {
        carry(all, "s_tmax", &mut fields, "s_tmax");
    }
    for side in ["width", "height"] {
        // Whole latent cells, as there: 513 pixels are 512.
        let value = all[side].as_i64().map_or_else(|| all[side].clone(), |pixels| (pixels / 8 * 8).into());
        fields.insert(side.into(), value);
    }
    let text = |name: &str| all.get(name).and_then(Value::as_str).unwrap_or_default();
    let sampler = [text("sampler_name"), text("sampler_index")].into_iter().find(|s| !s.is_empty()).unwrap_or("Euler");
    fields.insert("sampler".into(), sampler.into());
    // A schedule in the sampler's own name wins, as there. What is missing is "Automatic": the one that suits the sampler.
    let joined = names::choice(sampler, None).is_ok_and(|c| c.schedule != sd_sampling::Schedule::Auto);
    let schedule = Some(text("scheduler")).filter(|s| !s.is_empty() && !joined).unwrap_or("automatic");
    fields.insert("schedule".into(), schedule.into());
    let count = |name: &str| all[name].as_u64().unwrap_or(1).max(1);
    let n = count("batch_size").saturating_mul(count("n_iter"));
    if n > MAX_PICTURES {
        return Err(Fault::field("batch_size", format!("batch_size × n_iter may be at most {MAX_PICTURES}")).into());
    }
    fields.insert("n".into(), n.into());
    let refiner = text("refiner_checkpoint");
    if !["", "None", "none"].contains(&refiner) {
        fields.insert("refiner".into(), options::model_of(refiner).into());
        carry(all, "refiner_switch_at", &mut fields, "refiner_switch_at");
    }
    sdapi_edit::native(all, &mut fields, route == On::Img2Img)?;
    if route == On::Img2Img {
        picture(all, &mut fields)?;
    }
    Ok(fields)
}

/// What would change the picture and is not offered is said, not left out in silence.
fn unsupported(all: &Map<String, Value>) -> Result<(), ApiError> {
    let truth = |name: &str| all.get(name) == Some(&Value::Bool(true));
    let named = |name: &str| all.get(name).and_then(Value::as_str).is_some_and(|s| !s.is_empty() && s != "None");
    let number = |name: &str, plain: f64| all.get(name).and_then(Value::as_f64).is_some_and(|v| v != plain);
    let scripts = all.get("alwayson_scripts").and_then(Value::as_object).is_some_and(|s| !s.is_empty());
    let mut faults: Vec<Fault> = [
        (truth("restore_faces"), "restore_faces", "face restoration is not offered"),
        (truth("tiling"), "tiling", "seamless tiling is not offered"),
        (named("script_name"), "script_name", "there are no scripts here; see GET /sdapi/v1/scripts"),
        (scripts, "alwayson_scripts", "there are no scripts here; see GET /sdapi/v1/scripts"),
        (named("firstpass_image"), "firstpass_image", "a first pass's picture is not taken"),
        (named("infotext"), "infotext", "send the fields themselves; POST /sdapi/v1/png-info takes a recipe apart"),
        (named("latent_mask"), "latent_mask", "send the mask as mask"),
        (number("initial_noise_multiplier", 1.0), "initial_noise_multiplier", "must be 1 here"),
    ]
    .into_iter()
    .filter(|(asked, _, _)| *asked)
    .map(|(_, field, message)| Fault::new(FaultCode::Unsupported, message).about(field))
    .collect();
    let blur = |name: &str| all.get(name).and_then(Value::as_i64);
    if blur("mask_blur").is_none() && blur("mask_blur_x") != blur("mask_blur_y") {
        let message = "must be the same as mask_blur_x: masks are softened alike in both directions";
        faults.push(Fault::new(FaultCode::Unsupported, message).about("mask_blur_y"));
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.into()) }
}

fn picture(all: &Map<String, Value>, fields: &mut Map<String, Value>) -> Result<(), ApiError> {
    let init = all["init_images"].as_array().and_then(|l| l.first()).filter(|v| v.is_string());
    let Some(init) = init else {
        return Err(Fault::new(FaultCode::NotFound, "Init image not found").about("init_images").into());
    };
    fields.insert("init_image".into(), init.clone());
    carry(all, "denoising_strength", fields, "strength");
    let number = |name: &str| all.get(name).and_then(Value::as_i64);
    let word = |name: &str, words: &[&'static str]| {
        let at = number(name).and_then(|n| usize::try_from(n).ok());
        at.and_then(|at| words.get(at).copied()).ok_or_else(|| {
            let told: Vec<String> = words.iter().enumerate().map(|(i, w)| format!("{i} ({w})")).collect();
            Fault::field(name, format!("must be {}", told.join(", ")))
        })
    };
    fields.insert("resize_mode".into(), word("resize_mode", &["stretch", "crop", "fill", "latent"])?.into());
    let Some(mask) = all["mask"].as_str().filter(|m| !m.is_empty()) else { return Ok(()) };
    fields.insert("mask_image".into(), mask.into());
    fields.insert("mask_blur".into(), number("mask_blur").or(number("mask_blur_x")).unwrap_or(4).into());
    fields.insert("mask_invert".into(), (number("inpainting_mask_invert") == Some(1)).into());
    let fill = word("inpainting_fill", &["fill", "original", "latent_noise", "latent_nothing"])?;
    fields.insert("inpaint_fill".into(), fill.into());
    // A1111's own default: a mask means only its surroundings, without padding.
    carry(all, "inpaint_full_res", fields, "only_masked");
    carry(all, "inpaint_full_res_padding", fields, "only_masked_padding");
    Ok(())
}

/// The `info` object, which A1111 sends as text.
fn info(app: &App, job: &Job, done: &Snapshot, all: &Map<String, Value>) -> Value {
    let (spec, n) = (&job.spec, done.pictures.len());
    let seeds: Vec<u64> = done.pictures.iter().map(|p| p.seed).collect();
    let noise = &spec.edit.noise;
    let subseeds: Vec<u64> = (0..n).map(|i| noise.variation_seed.wrapping_add(i as u64)).collect();
    let (from_w, from_h) = noise.resize_from.map_or((-1, -1), |(w, h)| (i64::from(w), i64::from(h)));
    let strength = spec.has_picture().then_some(spec.strength).or(spec.edit.hires.as_ref().map(|h| h.strength));
    let texts: Vec<&str> = done.pictures.iter().map(|p| p.infotext.as_ref()).collect();
    json!({
        "prompt": spec.prompt, "all_prompts": vec![spec.prompt.as_str(); n],
        "negative_prompt": spec.negative_prompt, "all_negative_prompts": vec![spec.negative_prompt.as_str(); n],
        "seed": spec.seed, "all_seeds": seeds, "subseed": noise.variation_seed, "all_subseeds": subseeds,
        "subseed_strength": noise.variation_strength,
        "width": spec.width, "height": spec.height, "sampler_name": names::labels(&spec.sampler, &spec.schedule).0,
        "cfg_scale": recipe::rounded(spec.guidance_scale), "steps": spec.steps, "batch_size": all["batch_size"],
        "restore_faces": false, "face_restoration_model": null,
        "sd_model_name": spec.model, "sd_model_hash": app.model_hash(&spec.model), "sd_vae_name": null, "sd_vae_hash": null,
        "seed_resize_from_w": from_w, "seed_resize_from_h": from_h,
        "denoising_strength": strength, "extra_generation_params": {},
        "index_of_first_image": 0, "infotexts": texts, "styles": all["styles"], "job_timestamp": timestamp(job),
        "clip_skip": spec.clip_skip.unwrap_or(1), "is_using_inpainting_conditioning": false,
        "version": concat!("sd-worker ", env!("CARGO_PKG_VERSION")),
    })
}

/// When a job came, as `20240131235959`.
pub(crate) fn timestamp(job: &Job) -> String {
    let at = OffsetDateTime::from(job.created);
    let (month, day, hour, minute, second) = (u8::from(at.month()), at.day(), at.hour(), at.minute(), at.second());
    format!("{:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}", at.year())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(sent: &Value, route: On) -> Result<Map<String, Value>, ApiError> {
        native(&complete(sent.as_object().unwrap(), route).unwrap(), route)
    }

    #[test]
    fn txt2img_in_our_words() {
        for (sent, field, value) in [
            (json!({}), "steps", json!(50)),
            (json!({}), "guidance_scale", json!(7.0)),
            (json!({}), "width", json!(512)),
            (json!({}), "sampler", json!("Euler")),
            (json!({}), "schedule", json!("automatic")),
            (json!({}), "seed", json!(-1)),
            (json!({}), "n", json!(1)),
            (json!({ "sampler_index": "LMS" }), "sampler", json!("LMS")),
            (json!({ "sampler_index": "LMS", "sampler_name": "Heun" }), "sampler", json!("Heun")),
            (json!({ "sampler_index": "LMS", "sampler_name": "" }), "sampler", json!("LMS")),
            (json!({ "scheduler": "Automatic" }), "schedule", json!("Automatic")),
            (json!({ "scheduler": "Karras" }), "schedule", json!("Karras")),
            (json!({ "sampler_name": "DPM++ 2M Karras" }), "schedule", json!("automatic")),
            (json!({ "sampler_name": "DPM++ 2M Karras", "scheduler": "Simple" }), "schedule", json!("automatic")),
            (json!({ "width": 513, "height": 519 }), "width", json!(512)),
            (json!({ "width": 513, "height": 519 }), "height", json!(512)),
            (json!({ "batch_size": 2, "n_iter": 3 }), "n", json!(6)),
            (json!({ "steps": "20" }), "steps", json!(20)),
            (json!({ "eta": 0.5 }), "eta", json!(0.5)),
            (json!({ "s_churn": 4, "s_tmax": 9 }), "s_tmax", json!(9)),
            (json!({ "subseed": 7, "subseed_strength": 0.3 }), "variation_strength", json!(0.3)),
        ] {
            assert_eq!(asked(&sent, On::Txt2Img).unwrap().get(field), Some(&value), "{sent} {field}");
        }
        assert_eq!(asked(&json!({ "s_tmax": 0 }), On::Txt2Img).unwrap().get("s_tmax"), None);
        // The strength belongs to a second pass there, which is not asked for.
        assert_eq!(asked(&json!({}), On::Txt2Img).unwrap().get("strength"), None);
    }

    #[test]
    fn img2img_in_our_words() {
        let with = |more: Value| {
            let mut sent = json!({ "init_images": ["AAAA", "BBBB"], "mask": "MMMM" });
            sent.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            sent
        };
        for (sent, field, value) in [
            (with(json!({})), "init_image", json!("AAAA")),
            (with(json!({})), "mask_image", json!("MMMM")),
            (with(json!({})), "strength", json!(0.75)),
            (with(json!({})), "resize_mode", json!("stretch")),
            (with(json!({})), "mask_blur", json!(4)),
            (with(json!({})), "only_masked", json!(true)),
            (with(json!({})), "only_masked_padding", json!(0)),
            (with(json!({})), "inpaint_fill", json!("fill")),
            (with(json!({})), "mask_invert", json!(false)),
            (with(json!({ "mask_blur_x": 8, "mask_blur_y": 8 })), "mask_blur", json!(8)),
            (with(json!({ "mask_blur": 2 })), "mask_blur", json!(2)),
            (with(json!({ "inpaint_full_res": 0 })), "only_masked", json!(false)),
            (with(json!({ "inpainting_fill": 3 })), "inpaint_fill", json!("latent_nothing")),
            (with(json!({ "inpainting_mask_invert": 1 })), "mask_invert", json!(true)),
            (with(json!({ "resize_mode": 2 })), "resize_mode", json!("fill")),
        ] {
            assert_eq!(asked(&sent, On::Img2Img).unwrap().get(field), Some(&value), "{sent} {field}");
        }
        assert_eq!(asked(&with(json!({ "mask": "" })), On::Img2Img).unwrap().get("only_masked"), None);
    }

    #[test]
    fn what_is_missing_or_not_offered_is_said() {
        for (sent, route, field, code) in [
            (json!({}), On::Img2Img, "init_images", FaultCode::NotFound),
            (json!({ "init_images": [] }), On::Img2Img, "init_images", FaultCode::NotFound),
            (json!({ "init_images": ["A"], "resize_mode": 4 }), On::Img2Img, "resize_mode", FaultCode::InvalidRequest),
            (json!({ "batch_size": 4, "n_iter": 5 }), On::Txt2Img, "batch_size", FaultCode::InvalidRequest),
            (json!({ "restore_faces": true }), On::Txt2Img, "restore_faces", FaultCode::Unsupported),
            (json!({ "tiling": true }), On::Txt2Img, "tiling", FaultCode::Unsupported),
            (json!({ "script_name": "x/y/z plot" }), On::Txt2Img, "script_name", FaultCode::Unsupported),
            (json!({ "alwayson_scripts": { "a": {} } }), On::Txt2Img, "alwayson_scripts", FaultCode::Unsupported),
            (json!({ "init_images": ["A"], "mask_blur_y": 1 }), On::Img2Img, "mask_blur_y", FaultCode::Unsupported),
        ] {
            let error = asked(&sent, route).unwrap_err();
            assert_eq!((error.faults[0].field.as_deref(), error.code()), (Some(field), code), "{sent}");
        }
        // What stock clients always send is no wish.
        let plain = json!({ "restore_faces": false, "tiling": null, "script_name": "", "alwayson_scripts": {}, "s_churn": 0, "s_noise": 1,
            "refiner_checkpoint": "None", "eta": 1.0 });
        assert!(asked(&plain, On::Txt2Img).is_ok());
    }
}
