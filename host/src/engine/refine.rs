//! The hand-over: one model draws until a part of the schedule is done, another one finishes its latents.
//!
//! As diffusers' `denoising_end` and `denoising_start`: the part is counted in the model's training timesteps, both
//! models walk the same schedule, and the latents pass as they are, without a way through pixels and without fresh
//! noise.

use super::{
    Engine,
    device::LoadProgress,
    mount::Mount,
    pictures,
    run::{Drawn, Guides, Run, Steps, Unfinished, denoise},
    until::Until,
};
use crate::{
    fault::{Fault, FaultCode},
    jobs::Job,
    library::Resolved,
};
use sd_prompt::Pass;
use sd_sampling::Plan;
use std::{sync::Arc, time::Instant};

/// Steps of the second model; none without one.
pub(super) fn steps(engine: &Engine, run: &Run<'_>) -> Result<usize, Fault> {
    let Some(refiner) = &run.spec.refiner else { return Ok(0) };
    let model = engine.library.lookup(&refiner.model).map_err(|f| f.about("refiner"))?;
    let second = Run { model: &model, ..run.clone() };
    Ok(second.plan_part(refiner.switch_at, 1.0)?.map_or(0, |plan| plan.total()))
}

/// What stays of a job when its first model has done its part.
pub(super) struct Rest<'a> {
    pub(super) job: &'a Arc<Job>,
    /// The job's own model.
    pub(super) named: &'a Resolved,
    pub(super) until: Until,
    /// Shape of one picture's latents.
    pub(super) shape: [usize; 4],
}

/// Holds the second model and finishes what the first one began. The first one is no longer held: whoever waits for
/// room must not keep any.
pub(super) fn finish(
    engine: &Engine,
    mount: &Arc<Mount>,
    rest: &Rest<'_>,
    unfinished: Vec<Unfinished>,
    progress: &LoadProgress,
) -> Result<(), Fault> {
    let (job, spec) = (rest.job, &rest.job.spec);
    let Some(refiner) = &spec.refiner else { return Ok(()) };
    let loading = Instant::now();
    let session = engine.hold(mount, &refiner.model, &rest.until, progress)?;
    let model = engine.library.lookup(&refiner.model)?;
    job.time(|t| t.load += loading.elapsed());
    let run = Run {
        job,
        spec,
        device: &session,
        model: &model,
        named: rest.named,
        loaded: &session.loaded,
        embeddings: engine.library.embeddings(&model),
        until: rest.until.clone(),
        images: 0..spec.n as usize,
        pass: Pass::First,
        others: (0, 0),
        enlarger: None,
    };
    if run.shape(1) != rest.shape {
        let message = "the refiner's latents have another shape than the model's: they do not belong together";
        return Err(Fault::new(FaultCode::Unsupported, message).about("refiner"));
    }
    run.check()?;
    let Some(plan) = run.plan_part(refiner.switch_at, 1.0)? else { return Ok(()) };
    let encoding = Instant::now();
    let guides = Guides::new(&run)?;
    job.time(|t| t.encode += encoding.elapsed());
    let before: usize = unfinished.iter().map(|part| part.steps).sum();
    let total = before + unfinished.len() * plan.total();
    for (round, part) in unfinished.into_iter().enumerate() {
        let steps = Steps { before: before + round * plan.total(), total };
        go_on(&run, &guides, &plan, steps, part)?;
    }
    Ok(())
}

fn go_on(run: &Run<'_>, guides: &Guides, plan: &Plan, steps: Steps, part: Unfinished) -> Result<(), Fault> {
    let Unfinished { images, canvas, mut noise, latents, steps: done } = part;
    let run = Run { others: (done, 0), ..run.only(images) };
    let Drawn { latents, .. } = denoise(&run, &canvas, guides, plan, steps, latents.data, &mut noise)?;
    pictures::finish(&run, &canvas, &latents)
}
