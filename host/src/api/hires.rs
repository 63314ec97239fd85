//! The second pass of a request: its defaults are the first one's own.

use super::{App, build, fields::Values};
use crate::{
    engine,
    fault::Fault,
    jobs::{Hires, JobSpec, Operation},
    library::Resolved,
    names, upscalers,
};
use sd_prompt::Pass;
use std::sync::Arc;

/// Growth when nothing is said.
const SCALE: f64 = 2.0;
/// How much is redone when nothing is said.
const STRENGTH: f64 = 0.7;

/// The second pass of a checked job. `values`: what the whole request says; `step`: what sides are multiples of.
pub(super) fn second_pass(
    app: &App,
    values: &Values,
    job: &JobSpec,
    model: &Resolved,
    step: u32,
) -> Result<Option<Arc<Hires>>, Vec<Fault>> {
    let Some(own) = values.group("hires") else { return Ok(None) };
    let mut faults = Vec::new();
    if job.operation != Operation::Generation {
        faults.push(Fault::field("hires", "has its place in image_generation"));
    }
    let (width, height) = size(own, job, step).unwrap_or_else(|fault| {
        faults.push(fault);
        (job.width, job.height)
    });
    let (pixels, limit) = (u64::from(width) * u64::from(height), app.config.limits.pixels);
    if pixels > limit || width.max(height) > super::fields::MAX_SIDE as u32 {
        let message = format!(
            "{width} × {height} is too large; this worker's limit is {limit} pixels and sides of {}",
            super::fields::MAX_SIDE
        );
        faults.push(Fault::field("hires.scale", message));
    }
    let upscaler = upscalers::find(own.text("upscaler").unwrap_or("latent"), &app.models);
    let chosen = match own.text("sampler") {
        Some(sampler) => {
            let schedule = own.text("schedule").or_else(|| values.text("schedule"));
            names::resolve(Some(sampler), schedule, &model.model)
        }
        None => {
            let schedule = own.text("schedule").unwrap_or(&job.schedule);
            names::resolve(Some(&job.sampler), Some(schedule), &model.model)
        }
    };
    let steps = own.u32("steps").unwrap_or(job.steps);
    let text = |name: &str, first: &str| own.text(name).filter(|t| !t.is_empty()).unwrap_or(first).to_owned();
    let prompt = text("prompt", &job.prompt);
    let negative_prompt = text("negative_prompt", &job.negative_prompt);
    let pass = Pass::Second { first_steps: job.steps };
    let embeddings = app.models.embeddings(model);
    for (field, prompt) in [("hires.prompt", &prompt), ("hires.negative_prompt", &negative_prompt)] {
        if let Err(fault) = engine::check_prompt(prompt, steps, pass, job.overflow, model, &embeddings) {
            faults.push(fault.about(field));
        }
    }
    let inside = |fault: Fault| {
        let field = format!("hires.{}", fault.field.as_deref().unwrap_or_default());
        fault.about(&field)
    };
    match (upscaler, chosen) {
        (Ok(upscaler), Ok(chosen)) if faults.is_empty() => Ok(Some(Arc::new(Hires {
            width,
            height,
            upscaler,
            steps,
            strength: own.f64("strength").unwrap_or(STRENGTH),
            sampling: match own.text("sampler") {
                Some(_) => build::sampling(values, chosen.eta),
                None => job.sampling.clone(),
            },
            sampler: chosen.sampler,
            schedule: chosen.schedule,
            prompt,
            negative_prompt,
            guidance_scale: own.f32("guidance_scale").unwrap_or(job.guidance_scale),
        }))),
        (upscaler, chosen) => {
            faults.extend(upscaler.err().map(inside));
            faults.extend(chosen.err().map(inside));
            Err(faults)
        }
    }
}

/// The size asked for, or the first pass's times the scale, in whole steps.
fn size(own: &Values, job: &JobSpec, step: u32) -> Result<(u32, u32), Fault> {
    let sides = (own.u32("width"), own.u32("height"));
    match (own.f64("scale"), sides) {
        (Some(_), (Some(_), _) | (_, Some(_))) => {
            Err(Fault::field("hires.scale", "send either scale or width and height"))
        }
        (None, (Some(width), Some(height))) => {
            let wrong = [("hires.width", width), ("hires.height", height)].into_iter().find(|(_, s)| s % step != 0);
            match wrong {
                Some((field, _)) => Err(Fault::field(field, format!("must be a multiple of {step} for this model"))),
                None => Ok((width, height)),
            }
        }
        (None, (Some(_), None)) => Err(Fault::field("hires.height", "is required beside width")),
        (None, (None, Some(_))) => Err(Fault::field("hires.width", "is required beside height")),
        (scale, (None, None)) => {
            let scale = scale.unwrap_or(SCALE);
            let grown = |side: u32| ((f64::from(side) * scale / f64::from(step)).round() as u32).max(1) * step;
            Ok((grown(job.width), grown(job.height)))
        }
    }
}
