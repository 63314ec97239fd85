//! The second pass: what the first one drew is enlarged, noised again in part, and redone in the larger size.
//!
//! Through pixels the two passes give what two requests give: the first one's picture enlarged, and an
//! `image_transform` of it with the same seed. Through latents nothing is decoded between them.

use super::{
    canvas::{self, Canvas},
    enlarge::{Means, covering},
    pictures,
    run::{Guides, Run, Steps, denoise},
    tensor::Latents,
};
use crate::{
    fault::Fault,
    jobs::{Hires, JobSpec},
    upscalers::Upscaler,
};
use sd_images::{LatentResize, Picture, resize_latents};
use sd_prompt::Pass;
use sd_sampling::Plan;
use std::{sync::Arc, time::Instant};

/// A second pass that is to come.
pub(super) struct Second {
    hires: Arc<Hires>,
    spec: JobSpec,
    pass: Pass,
    /// `None` when it only enlarges.
    plan: Option<Plan>,
}

impl Second {
    /// The second pass of a run, if it has one.
    pub(super) fn new(run: &Run<'_>) -> Result<Option<Second>, Fault> {
        let Some(hires) = &run.spec.edit.hires else { return Ok(None) };
        let spec = hires.pass(run.spec);
        let pass = Pass::Second { first_steps: run.spec.steps };
        let plan = run.again(&spec, pass).plan()?;
        Ok(Some(Second { hires: hires.clone(), spec, pass, plan }))
    }

    /// Steps that it will run.
    pub(super) fn steps(&self) -> usize {
        self.plan.as_ref().map_or(0, Plan::total)
    }

    /// Whether its sampler chooses its steps by the whole batch.
    pub(super) fn couples_images(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.sampler().couples_images())
    }

    /// Enlarges what the first pass drew, redoes it, and writes the pictures.
    pub(super) fn run(&self, first: &Run<'_>, drawn: &Latents, steps: Steps) -> Result<(), Fault> {
        let run = first.again(&self.spec, self.pass);
        let mut noise = run.noise();
        let (clean, fresh) = match &self.hires.upscaler {
            Upscaler::Latent(mode) => (enlarged_latents(first, &run, drawn, *mode)?, noise.initial()),
            upscaler => {
                // A variation or another size's noise must be the first draw of all.
                let special = run.spec.edit.noise.is_special().then(|| noise.initial());
                let large = enlarged_pictures(first, &run, drawn, upscaler)?;
                if self.plan.is_none() {
                    return run.images.clone().zip(large).try_for_each(|(i, p)| pictures::write(&run, i, p));
                }
                let encoding = Instant::now();
                let (each, fresh) = (run.shape(1).iter().product::<usize>(), noise.fresh());
                let mut clean = Vec::with_capacity(fresh.len());
                for (picture, noise) in large.iter().zip(fresh.chunks_exact(each)) {
                    let (mean, deviation) = canvas::encode(&run, picture, false)?;
                    clean.extend(canvas::sample(&mean, &deviation, noise));
                }
                run.job.time(|t| t.encode += encoding.elapsed());
                (clean, special.unwrap_or_else(|| noise.fresh()))
            }
        };
        let canvas = Canvas::new(&run)?;
        let latents = match &self.plan {
            None => Latents { shape: run.shape(run.n()), data: clean },
            Some(plan) => {
                let guides = Guides::new(&run)?;
                denoise(&run, &canvas, &guides, plan, steps, plan.begin(&fresh, Some(&clean)), &mut noise)?.latents
            }
        };
        pictures::finish(&run, &canvas, &latents)
    }
}

/// All latents, enlarged to cover the second pass's size; what sticks out is cut off on both sides.
fn enlarged_latents(first: &Run<'_>, second: &Run<'_>, drawn: &Latents, mode: LatentResize) -> Result<Vec<f32>, Fault> {
    let ([n, channels, height, width], [_, _, to_height, to_width]) = (first.shape(drawn.shape[0]), second.shape(1));
    let (wide, high) = covering((width as u32, height as u32), (to_width as u32, to_height as u32));
    let (wide, high) = (wide as usize, high as usize);
    let large = resize_latents(&drawn.data, n * channels, (height, width), (high, wide), mode)?;
    let (left, top) = ((wide - to_width) / 2, (high - to_height) / 2);
    let planes = large.chunks_exact(high * wide);
    let rows = planes.flat_map(|plane| plane.chunks_exact(wide).skip(top).take(to_height));
    Ok(rows.flat_map(|row| row[left..left + to_width].iter().copied()).collect())
}

/// All pictures, decoded and enlarged in the same way.
fn enlarged_pictures(
    first: &Run<'_>,
    second: &Run<'_>,
    drawn: &Latents,
    upscaler: &Upscaler,
) -> Result<Vec<Picture>, Fault> {
    let means = Means { upscaler, enlarger: first.enlarger, stop: &first.until.stop };
    let enlarge = |index| {
        first.check()?;
        let picture = pictures::decoded(first, drawn, index)?;
        let since = Instant::now();
        let large = means.cover(&picture, (second.spec.width, second.spec.height), &mut |_, _| first.check())?;
        first.job.time(|t| t.denoise += since.elapsed());
        Ok(large)
    };
    (0..drawn.shape[0]).map(enlarge).collect()
}
