//! From the fields of a request to a checked job that enlarges a picture.

use super::{
    App, build,
    fields::{MAX_SIDE, Values},
};
use crate::{
    fault::{Fault, FaultCode},
    jobs::{EditSpec, JobSpec, Operation, Upscale},
    upscalers::{self, Upscaler},
};
use sd_images::Picture;
use std::sync::Arc;

/// Growth where neither the request nor a network tells one.
const SCALE: f64 = 2.0;
/// Values of a network's result for each pixel that the worker makes at most: it may be larger than the picture that is
/// wanted in the end.
const ROOM: u64 = 4;
/// Fields that are allowed beside `init_image`: the others would change nothing.
const FIELDS: [&str; 19] = [
    "operation",
    "hive_id",
    "worker_id",
    "model",
    "init_image",
    "upscaler",
    "scale",
    "width",
    "height",
    "seed",
    "n",
    "output_format",
    "quality",
    "metadata",
    "on_disconnect",
    "timeout_secs",
    "priority",
    "preview_every",
    "webhook",
];

/// Checks everything that can be wrong before the job takes a place in the queue.
pub(super) fn job(app: &App, values: &Values) -> Result<JobSpec, Vec<Fault>> {
    let one = |fault: Fault| vec![fault];
    let mut faults: Vec<Fault> = values
        .names()
        .filter(|name| !FIELDS.contains(name))
        .map(|name| Fault::field(name, "has no place in image_upscale"))
        .collect();
    if values.u32("n").is_some_and(|n| n != 1) {
        faults.push(Fault::field("n", "must be 1: image_upscale makes one picture of one"));
    }
    let webhook = build::webhook(app, values).unwrap_or_else(|fault| {
        faults.push(fault);
        None
    });
    let limit = app.config.limits.pixels;
    let found = upscalers::find(values.text("upscaler").unwrap_or("lanczos"), &app.models).and_then(|upscaler| {
        let latent = matches!(upscaler, Upscaler::Latent(_));
        let fault = || Fault::field("upscaler", "works on latents, which only the second pass of a picture has");
        if latent { Err(fault()) } else { Ok(upscaler) }
    });
    let Some(text) = values.text("init_image") else {
        faults.push(Fault::field("init_image", "is required for image_upscale"));
        return Err(faults);
    };
    let picture = crate::picture::from_text(text, limit).map_err(|f| one(f.about("init_image")))?;
    let upscaler = match found {
        Ok(upscaler) => upscaler,
        Err(fault) => {
            faults.push(fault);
            return Err(faults);
        }
    };
    let size = size(values, &picture, &upscaler).and_then(|size| fitting(size, &picture, &upscaler, limit));
    let (width, height) = match size {
        Ok(size) if faults.is_empty() => size,
        Ok(_) => return Err(faults),
        Err(fault) => {
            faults.push(fault);
            return Err(faults);
        }
    };
    let told = crate::picture::bytes_of(text).and_then(|bytes| crate::recipe::read(&bytes)).ok();
    let recipe = told.and_then(|told| told.parameters().map(str::to_owned));
    let name = upscalers::label(&upscaler);
    Ok(JobSpec {
        format: build::format(values),
        metadata: values.bool("metadata").unwrap_or(true) && app.config.metadata,
        webhook,
        on_disconnect: build::on_disconnect(values),
        timeout: build::timeout(app, values),
        priority: build::priority(values),
        edit: EditSpec {
            // Any picture that was read has been decoded: a recipe that cannot be read is no fault of the job.
            upscale: Some(Upscale { upscaler, recipe }),
            ..EditSpec::default()
        },
        ..JobSpec::without_drawing(Operation::Upscale, name, Arc::new(picture.flatten([255; 3])), (width, height))
    })
}

/// The size asked for: sides as sent, else the picture's times a scale.
fn size(values: &Values, picture: &Picture, upscaler: &Upscaler) -> Result<(u32, u32), Fault> {
    let own = match upscaler {
        Upscaler::Model { factor, .. } => f64::from(*factor),
        Upscaler::Latent(_) | Upscaler::Pixels(_) => SCALE,
    };
    let scaled = |side: u32, scale: f64| (f64::from(side) * scale).round().clamp(1.0, 1e9) as u32;
    let (w, h) = picture.size();
    match (values.f64("scale"), values.u32("width"), values.u32("height")) {
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
            Err(Fault::field("scale", "send either scale or width and height"))
        }
        (None, Some(width), Some(height)) => Ok((width, height)),
        (None, Some(width), None) => Ok((width, scaled(h, f64::from(width) / f64::from(w)))),
        (None, None, Some(height)) => Ok((scaled(w, f64::from(height) / f64::from(h)), height)),
        (scale, None, None) => Ok((scaled(w, scale.unwrap_or(own)), scaled(h, scale.unwrap_or(own)))),
    }
}

fn fitting(size: (u32, u32), picture: &Picture, upscaler: &Upscaler, limit: u64) -> Result<(u32, u32), Fault> {
    let (pixels, longest) = (u64::from(size.0) * u64::from(size.1), size.0.max(size.1));
    if pixels > limit || i128::from(longest) > MAX_SIDE {
        let message = format!(
            "{} × {} is too large; this worker's limit is {limit} pixels and sides of {MAX_SIDE}",
            size.0, size.1
        );
        return Err(Fault::field("scale", message));
    }
    let Upscaler::Model { factor, .. } = upscaler else { return Ok(size) };
    let made = picture.pixels() as u64 * u64::from(*factor) * u64::from(*factor);
    if made > limit.saturating_mul(ROOM) {
        let message =
            format!("the picture is too large for this upscaler: {factor} times as wide and high it has {made} pixels");
        return Err(Fault::new(FaultCode::InvalidImage, message).about("init_image"));
    }
    Ok(size)
}
