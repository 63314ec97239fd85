//! The run of one job: texts, noise, steps, pictures.

use super::{
    Engine,
    canvas::Canvas,
    device::{LoadProgress, LoadedModel},
    enlarge,
    hires::Second,
    mount::Mount,
    pictures, preview,
    refine::{self, Rest},
    session::{Enlarger, Session},
    tensor::{Extra, Item, Latents},
    text::{self, Encoded},
    until::Until,
};
use crate::{
    embeddings::Embeddings,
    fault::{Fault, FaultCode},
    jobs::{Job, JobSpec, Operation},
    library::Resolved,
    names,
};
use backend_api::extra;
use sd_prompt::Pass;
use sd_sampling::{
    Eval, ModelSampling, Plan, Settings, StepInfo,
    guidance::{self, Guidance},
    noise::{BatchNoise, NoiseShape},
};
use serde_json::json;
use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

/// Load progress is told at most this often.
const NARRATE_EVERY: Duration = Duration::from_millis(500);

/// Everything that one run looks at.
#[derive(Clone)]
pub(super) struct Run<'a> {
    pub(super) job: &'a Arc<Job>,
    pub(super) spec: &'a JobSpec,
    pub(super) device: &'a Session,
    pub(super) model: &'a Resolved,
    /// The model that the job names: the recipe's.
    pub(super) named: &'a Resolved,
    pub(super) loaded: &'a LoadedModel,
    /// Words that stand for learned vectors.
    pub(super) embeddings: Arc<Embeddings>,
    pub(super) until: Until,
    /// The pictures of the job that this run draws, counted from 0.
    pub(super) images: Range<usize>,
    /// Which pass of the job the prompts are read for.
    pub(super) pass: Pass,
    /// Steps that another model runs on these pictures: before this one and after it.
    pub(super) others: (usize, usize),
    /// The network between two passes, if they have one.
    pub(super) enlarger: Option<&'a Enlarger>,
}

/// Where the steps of a pass stand among all of the job.
#[derive(Debug, Clone, Copy)]
pub(super) struct Steps {
    /// Steps told before.
    pub(super) before: usize,
    /// Steps of the whole job.
    pub(super) total: usize,
}

impl<'a> Run<'a> {
    /// The same run for some of the pictures.
    pub(super) fn only(&self, images: Range<usize>) -> Run<'a> {
        Run { images, ..self.clone() }
    }

    /// The same run for a further pass.
    pub(super) fn again<'s>(&'s self, spec: &'s JobSpec, pass: Pass) -> Run<'s> {
        Run { spec, pass, ..self.clone() }
    }

    /// Number of pictures.
    pub(super) fn n(&self) -> usize {
        self.images.len()
    }

    /// The noise of its pictures.
    pub(super) fn noise(&self) -> BatchNoise {
        let [_, channels, height, width] = self.shape(1);
        let shape = NoiseShape { channels, height, width };
        let seeds = self.spec.image_seeds(self.loaded.desc.vae_factor);
        BatchNoise::new(self.spec.rng, shape, &seeds[self.images.clone()])
    }

    /// The plan of the steps; `None` when nothing is to be redone. Where a refiner follows its steps are left out.
    pub(super) fn plan(&self) -> Result<Option<Plan>, Fault> {
        self.plan_part(0.0, self.spec.refiner.as_ref().map_or(1.0, |refiner| refiner.switch_at))
    }

    /// The plan for a part of the schedule, from `start` to `end` of the training timesteps.
    pub(super) fn plan_part(&self, start: f64, end: f64) -> Result<Option<Plan>, Fault> {
        let spec = self.spec;
        let strength = if spec.operation == Operation::Generation { 1.0 } else { spec.strength };
        if (f64::from(spec.steps) * strength) as u32 == 0 {
            return Ok(None);
        }
        let choice = names::choice(&spec.sampler, Some(&spec.schedule))?;
        let settings = Settings {
            sampler: choice.sampler,
            schedule: choice.schedule,
            steps: spec.steps as usize,
            strength,
            sigmas: spec.sigmas.clone(),
            options: spec.sampling.clone(),
            start,
            end,
        };
        Ok(Some(Plan::new(&ModelSampling::new(&self.model.scheduler)?, &settings)?))
    }

    /// A fault when the job is to stop.
    pub(super) fn check(&self) -> Result<(), Fault> {
        self.until.check()
    }

    /// The latents' shape for `n` items.
    pub(super) fn shape(&self, n: usize) -> [usize; 4] {
        let factor = self.loaded.desc.vae_factor.max(1) as usize;
        let side = |pixels: u32| pixels as usize / factor;
        [n, self.loaded.desc.latent_channels as usize, side(self.spec.height), side(self.spec.width)]
    }

    fn takes(&self, input: &str) -> bool {
        self.loaded.desc.inputs.iter().any(|i| i.as_str() == input)
    }
}

/// Runs a job to its pictures, all of it on one backend.
pub(super) fn job(engine: &Engine, mount: &Arc<Mount>, job: &Arc<Job>) -> Result<(), Fault> {
    let spec = &job.spec;
    let until = Until::of(job);
    let began = Instant::now();
    let told = std::sync::Mutex::new(began);
    let narrator = job.clone();
    let progress: LoadProgress = Arc::new(move |done, total| {
        let Ok(mut last) = told.lock() else { return };
        if last.elapsed() >= NARRATE_EVERY {
            *last = Instant::now();
            let percent = (done as f64 * 100.0 / total.max(1) as f64).round();
            narrator.publish(
                "narration",
                json!({ "action": "load", "human": format!("loading the model: {percent} %"), "percent": percent }),
            );
        }
    });
    if spec.operation == Operation::Upscale {
        return enlarge::job(engine, mount, job, &progress);
    }
    let upscaler = spec.edit.hires.as_ref().and_then(|hires| hires.upscaler.model());
    let (session, enlarger) = engine.hold_with_upscaler(mount, &spec.model, upscaler, &until, &progress)?;
    let model = engine.library.lookup(&spec.model)?;
    job.time(|t| t.load = began.elapsed());
    let run = Run {
        job,
        spec,
        device: &session,
        model: &model,
        named: &model,
        loaded: &session.loaded,
        embeddings: engine.library.embeddings(&model),
        until,
        images: 0..spec.n as usize,
        pass: Pass::First,
        others: (0, 0),
        enlarger: enlarger.as_ref(),
    };
    let factor = run.loaded.desc.vae_factor.max(1);
    if [spec.width, spec.height].iter().any(|side| side % factor != 0) {
        return Err(Fault::field("width", format!("width and height must be multiples of {factor}")));
    }
    run.check()?;
    let run = Run { others: (0, refine::steps(engine, &run)?), ..run };
    let unfinished = draw(&run)?;
    if unfinished.is_empty() {
        return Ok(());
    }
    let rest = Rest { job, named: &model, until: run.until.clone(), shape: run.shape(1) };
    // The next model may need this one's place.
    drop((session, enlarger));
    refine::finish(engine, mount, &rest, unfinished, &progress)
}

/// Pictures whose latents wait for another model.
pub(super) struct Unfinished {
    /// Those of the run that drew them.
    pub(super) images: Range<usize>,
    pub(super) canvas: Canvas,
    pub(super) noise: BatchNoise,
    pub(super) latents: Latents,
    /// Steps that were run on them.
    pub(super) steps: usize,
}

/// Draws with the job's own model. Answers what another model has to finish: nothing where there is none.
fn draw(run: &Run<'_>) -> Result<Vec<Unfinished>, Fault> {
    let Some(plan) = run.plan()? else {
        // Nothing is to be redone: the picture as it came.
        run.job.set_total(0);
        pictures::unchanged(run, &Canvas::new(run)?)?;
        return Ok(Vec::new());
    };
    let second = Second::new(run)?;
    let encoding = Instant::now();
    let guides = Guides::new(run)?;
    run.job.time(|t| t.encode = encoding.elapsed());
    // Where a sampler chooses its steps by the whole batch, a picture would depend on its company.
    let coupled = plan.sampler().couples_images() || second.as_ref().is_some_and(Second::couples_images);
    let at_once = if coupled { 1 } else { run.n() };
    let each = plan.total() + second.as_ref().map_or(0, Second::steps);
    let total = (each + run.others.1) * run.n().div_ceil(at_once);
    run.job.set_total(total as u32);
    let mut unfinished = Vec::new();
    for (round, first) in run.images.clone().step_by(at_once).enumerate() {
        let run = run.only(first..(first + at_once).min(run.images.end));
        let steps = Steps { before: round * each, total };
        let encoding = Instant::now();
        let mut canvas = Canvas::new(&run)?;
        let mut noise = run.noise();
        let start = canvas.begin(&run, &plan, &mut noise)?;
        run.job.time(|t| t.encode += encoding.elapsed());
        let Drawn { latents, early } = denoise(&run, &canvas, &guides, &plan, steps, start, &mut noise)?;
        match &second {
            // Who asked to end with what there is wants no second pass and does not wait for another model. But where
            // that was asked after the last step the latents are still noise to the other model's level.
            Some(second) if !run.job.wraps_up() => {
                second.run(&run, &latents, Steps { before: steps.before + plan.total(), total })?;
            }
            None if run.others.1 > 0 && !early => {
                canvas.forget_inputs();
                unfinished.push(Unfinished { images: run.images.clone(), canvas, noise, latents, steps: plan.total() });
            }
            _ => pictures::finish(&run, &canvas, &latents)?,
        }
    }
    Ok(unfinished)
}

/// What the steps of a pass made.
pub(super) struct Drawn {
    pub(super) latents: Latents,
    /// Somebody asked to end with what there was: these are the denoised latents of some step.
    pub(super) early: bool,
}

/// Runs the steps of one pass, from its first latents to its last.
pub(super) fn denoise(
    run: &Run<'_>,
    canvas: &Canvas,
    guides: &Guides,
    plan: &Plan,
    steps: Steps,
    start: Vec<f32>,
    noise: &mut BatchNoise,
) -> Result<Drawn, Fault> {
    let denoising = Instant::now();
    let (before, after) = run.others;
    // The pictures as they were when somebody asked to end with what there is.
    let mut early = None;
    let outcome = plan.run(
        start,
        // Prompts and guidance follow the steps of the pictures, whichever model runs them.
        &mut |eval: Eval<'_>| {
            let eval = Eval { step: before + eval.step, ..eval };
            guides.predict(run, canvas, &eval, before + plan.total() + after)
        },
        &mut |request| noise.sample(request),
        &mut |step: StepInfo<'_>| {
            canvas.keep(step.x, step.signal, step.noise);
            run.job.progress((steps.before + step.step) as u32, steps.total as u32);
            preview::maybe(run, &step, steps);
            run.check()?;
            // Without its last step a picture is its denoised latents. Where another model was to go on, even the last
            // step leaves noise.
            if run.job.wraps_up() && (step.step < step.total || after > 0) {
                early = Some(step.denoised.to_vec());
                return Err(Fault::cancelled());
            }
            Ok(())
        },
    );
    let (latents, early) = match early {
        Some(latents) => (latents, true),
        None => (outcome?, false),
    };
    run.job.time(|t| t.denoise += denoising.elapsed());
    if latents.iter().any(|v| !v.is_finite()) {
        return Err(Fault::new(FaultCode::InvalidOutput, "the latents hold values that are no numbers"));
    }
    Ok(Drawn { latents: Latents { shape: run.shape(run.n()), data: latents }, early })
}

/// How the network is asked: which texts, which extras, and how the answers are put together.
pub(super) struct Guides {
    guidance: Guidance,
    /// Towards the picture, for models that edit by instruction.
    image_scale: Option<f32>,
    positive: Encoded,
    negative: Option<Encoded>,
    /// Extras of the guided and of the unguided half.
    extras: Arc<Vec<Extra>>,
    negative_extras: Arc<Vec<Extra>>,
}

impl Guides {
    pub(super) fn new(run: &Run<'_>) -> Result<Guides, Fault> {
        let spec = run.spec;
        let edits = run.takes(extra::IMAGE_LATENTS);
        // A model with the guidance as an input takes it there, and needs no second half of the batch.
        let embedded = run.takes(extra::GUIDANCE);
        let guidance = Guidance {
            scale: if embedded { 1.0 } else { spec.guidance_scale },
            rescale: spec.guidance_rescale,
            interval: spec.guidance_interval,
        };
        // As in diffusers, a scale of at most 1 means without guidance.
        let guidance = Guidance { scale: if guidance.scale > 1.0 { guidance.scale } else { 1.0 }, ..guidance };
        let positive = text::encode(run, false)?;
        run.check()?;
        let negative = if guidance.scale > 1.0 { Some(text::encode(run, true)?) } else { None };
        let image_scale =
            (edits && negative.is_some() && spec.image_guidance_scale >= 1.0).then_some(spec.image_guidance_scale);
        Ok(Guides {
            guidance,
            image_scale,
            positive,
            negative,
            extras: Arc::new(extras(run, false)),
            negative_extras: Arc::new(extras(run, true)),
        })
    }

    /// One evaluation of the network for the whole batch, guided.
    fn predict(&self, run: &Run<'_>, canvas: &Canvas, eval: &Eval<'_>, total: usize) -> Result<Vec<f32>, Fault> {
        run.check()?;
        let n = run.n();
        let x = Latents { shape: run.shape(n), data: eval.x.to_vec() };
        let item = |cond: &super::device::Cond, extras: &Arc<Vec<Extra>>, image: usize, blank: bool| Item {
            cond: cond.clone(),
            timestep: eval.timestep,
            sigma: eval.sigma,
            extras: canvas.extras(extras, image, blank),
        };
        let positive = self.positive.at(eval.step);
        let mut items: Vec<Item> = (0..n).map(|i| item(positive, &self.extras, i, false)).collect();
        let Some(negative) = self.negative.as_ref().filter(|_| self.guidance.is_on(eval.step, total)) else {
            return Ok(run.device.predict(x, items, &run.until.stop)?.data);
        };
        let negative = negative.at(eval.step);
        items.extend((0..n).map(|i| item(negative, &self.negative_extras, i, false)));
        let mut parts = vec![&x, &x];
        if self.image_scale.is_some() {
            items.extend((0..n).map(|i| item(negative, &self.negative_extras, i, true)));
            parts.push(&x);
        }
        let out = run.device.predict(Latents::concat(parts.into_iter()), items, &run.until.stop)?;
        let size = x.data.len();
        let (mut full, rest) = (out.data[..size].to_vec(), &out.data[size..]);
        let each = x.per_item();
        for i in 0..n {
            let at = i * each..(i + 1) * each;
            let other = &rest[at.clone()];
            match self.image_scale {
                Some(scale) => {
                    let blank = &rest[size + i * each..size + (i + 1) * each];
                    guidance::combine_pix2pix(&mut full[at], other, blank, self.guidance.scale, scale);
                }
                None => self.guidance.apply(&mut full[at], other),
            }
        }
        Ok(full)
    }
}

/// The extras that depend on the request alone.
fn extras(run: &Run<'_>, negative: bool) -> Vec<Extra> {
    let mut all = Vec::new();
    if run.takes(extra::TIME_IDS) {
        let sizes = if negative { &run.spec.sizes.negative } else { &run.spec.sizes.positive };
        let ids = sizes.ids(run.model.model.defaults.aesthetic_score);
        all.push(Extra { name: extra::TIME_IDS, shape: vec![ids.len() as u64], data: Arc::new(ids) });
    }
    if run.takes(extra::GUIDANCE) {
        all.push(Extra { name: extra::GUIDANCE, shape: vec![1], data: Arc::new(vec![run.spec.guidance_scale]) });
    }
    all
}
