//! From final latents to finished files.

use super::{canvas::Canvas, run::Run, tensor::Latents};
use crate::{
    fault::{Fault, FaultCode},
    jobs::{Job, Picture as Finished, ResizeMode},
    recipe,
};
use sd_images::{Picture, Recipe, composite, paste_back};
use serde_json::json;
use std::{sync::Arc, time::Instant};

/// Decodes the latents, pastes kept pixels back, writes the files.
pub(super) fn finish(run: &Run<'_>, canvas: &Canvas, latents: &Latents) -> Result<(), Fault> {
    let n = latents.shape[0];
    for (slot, index) in run.images.clone().enumerate().take(n) {
        run.check()?;
        // One at a time: a decode needs the most memory of all, and pictures come out as they are ready.
        write(run, index, paste(canvas, decoded(run, latents, slot)?)?)?;
    }
    Ok(())
}

/// The picture as it came, when nothing is to be redone.
pub(super) fn unchanged(run: &Run<'_>, canvas: &Canvas) -> Result<(), Fault> {
    let Some(source) = &canvas.source else {
        return Err(Fault::field("steps", "no step is left to run"));
    };
    let (width, height) = (run.spec.width, run.spec.height);
    let picture = crate::picture::fit(source.whole.as_ref().clone(), width, height, ResizeMode::Stretch)?;
    for index in run.images.clone() {
        write(run, index, picture.clone())?;
    }
    Ok(())
}

/// One picture of a batch.
pub(super) fn decoded(run: &Run<'_>, latents: &Latents, index: usize) -> Result<Picture, Fault> {
    let decoding = Instant::now();
    let pixels = decode(run, latents.slice(index, 1))?;
    run.job.time(|t| t.decode += decoding.elapsed());
    Ok(Picture::from_unit(run.spec.width, run.spec.height, &pixels))
}

fn decode(run: &Run<'_>, latents: Latents) -> Result<Vec<f32>, Fault> {
    match run.device.decode(latents.clone(), None, &run.until.stop) {
        // A whole picture may not fit where tiles of it do.
        Err(fault) if fault.code == FaultCode::OutOfMemory => {
            tracing::warn!(job_id = %run.job.id, "not enough memory to decode the picture whole; decoding in tiles");
            run.device.decode(latents, Some(64), &run.until.stop)
        }
        outcome => outcome,
    }
}

/// Kept pixels come back to the bit; a region goes to its place.
fn paste(canvas: &Canvas, drawn: Picture) -> Result<Picture, Fault> {
    let Some(source) = &canvas.source else { return Ok(drawn) };
    let Some(mask) = &source.mask else { return Ok(drawn) };
    Ok(match source.region {
        Some(region) => paste_back(&source.whole, &drawn, mask, region)?,
        None => composite(&source.whole, &drawn, mask)?,
    })
}

/// Writes a finished picture's file, with the recipe of the whole job.
pub(super) fn write(run: &Run<'_>, index: usize, picture: Picture) -> Result<(), Fault> {
    let writing = Instant::now();
    let picture = match run.spec.edit.trim {
        Some((width, height)) => picture.crop(0, 0, width, height),
        None => picture,
    };
    let seed = run.spec.picture_seed(index);
    let recipe = recipe::of(&run.job.spec, run.named, index);
    let (width, height) = picture.size();
    let new = keep(run.job, index, &picture, seed, &recipe, recipe.infotext())?;
    run.job.time(|t| t.write += writing.elapsed());
    // A job of one picture tells it in its last event.
    if run.spec.n > 1 && new {
        let url = format!("/v1/jobs/{}/images/{index}", run.job.id);
        run.job.publish("image", json!({ "index": index, "seed": seed, "width": width, "height": height, "url": url, "format": run.spec.format.extension() }));
    }
    Ok(())
}

/// Writes the picture of a job that only enlarges.
pub(super) fn write_enlarged(job: &Job, picture: Picture) -> Result<(), Fault> {
    let writing = Instant::now();
    let (recipe, text) = recipe::enlarged(&job.spec);
    keep(job, 0, &picture, job.spec.seed, &recipe, text)?;
    job.time(|t| t.write += writing.elapsed());
    Ok(())
}

/// Writes one file. Answers whether the job did not have it yet.
fn keep(job: &Job, index: usize, picture: &Picture, seed: u64, recipe: &Recipe, text: String) -> Result<bool, Fault> {
    let bytes = recipe::encode(picture, &job.spec, recipe, &text)?;
    let finished = Finished {
        bytes: Arc::new(bytes),
        media_type: job.spec.format.media_type(),
        seed,
        width: picture.width,
        height: picture.height,
        infotext: text.into(),
    };
    Ok(job.add_picture(index, finished))
}
