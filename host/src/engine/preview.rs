//! Previews: the network's present idea of the picture, small and rough.
//!
//! With a preview network (TAESD) in the model the device decodes; else the latents' channels are mixed to colours by
//! the family's linear factors, which costs nothing.

use super::{
    run::{Run, Steps},
    tensor::Latents,
};
use backend_api::find;
use base64::Engine as _;
use sd_sampling::StepInfo;
use serde_json::json;

/// Largest side of a preview in pixels.
const MAX_SIDE: u32 = 512;
/// JPEG quality.
const QUALITY: u8 = 80;

/// Sends a preview if the job asked for one at this step. A preview that fails is left out: it is not the job's work.
pub(super) fn maybe(run: &Run<'_>, step: &StepInfo<'_>, steps: Steps) {
    let (every, done) = (run.spec.preview_every as usize, steps.before + step.step);
    if every == 0 || !done.is_multiple_of(every) || done == steps.total {
        return;
    }
    let shape = run.shape(1);
    let size: usize = shape.iter().product();
    let first = Latents { shape, data: step.denoised[..size.min(step.denoised.len())].to_vec() };
    let Some(jpeg) = draw(run, first) else { return };
    let text = base64::engine::general_purpose::STANDARD.encode(jpeg);
    run.job.publish("preview", json!({ "step": done, "total": steps.total, "format": "jpeg", "image_base64": text }));
}

fn draw(run: &Run<'_>, latents: Latents) -> Option<Vec<u8>> {
    let [_, _, h, w] = latents.shape;
    let factor = find(&run.loaded.desc.params, "preview_factor")
        .and_then(|f| f.parse::<usize>().ok())
        .filter(|f| (1..=64).contains(f));
    let picture = match factor {
        Some(factor) => {
            let pixels = run.device.preview(latents, factor, &run.until.stop).ok()?;
            sd_images::Picture::from_unit((w * factor) as u32, (h * factor) as u32, &pixels)
        }
        None => crate::picture::from_latents(&latents.data, w, h, &run.model.model)?,
    };
    sd_images::preview_jpeg(&picture, MAX_SIDE, QUALITY).ok()
}
