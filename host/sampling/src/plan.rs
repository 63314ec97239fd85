//! A plan: sampler, schedule and steps worked out for one model, ready to run.

use std::ops::Range;

use crate::level::{Level, alpha, noise};
use crate::run::{ModelFn, NoiseFn, Run, StepFn};
use crate::samplers::Sampler;
use crate::schedule::{self, Schedule};
use crate::vector::{scale, sum};
use crate::{Error, ModelSampling};

/// The numbers a request can set on a sampler.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Stochasticity η of the samplers that have one; `None` is the sampler's own (1 for ancestral and SDE samplers,
    /// 0 for DDIM, 0.3 for TCD).
    pub eta: Option<f64>,
    /// Extra noise per run for Euler, Heun and DPM2 (Karras et al. 2022).
    pub s_churn: f64,
    /// Sigma below which there is no churn.
    pub s_tmin: f64,
    /// Sigma above which there is no churn.
    pub s_tmax: f64,
    /// Factor on all noise that a sampler adds.
    pub s_noise: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { eta: None, s_churn: 0.0, s_tmin: 0.0, s_tmax: f64::INFINITY, s_noise: 1.0 }
    }
}

/// What a request says about sampling.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The sampler.
    pub sampler: Sampler,
    /// The schedule.
    pub schedule: Schedule,
    /// The noise levels themselves, falling, the last one included: takes the place of schedule and steps.
    pub sigmas: Option<Vec<f64>>,
    /// Steps of the whole schedule.
    pub steps: usize,
    /// How much of an initial picture is made anew, above 0 to 1 (everything). `min(⌊steps · strength⌋, steps)` steps
    /// are run, as in diffusers.
    pub strength: f64,
    /// Where to stop, as a part of the training schedule (the base model's share when a refiner follows): 1 is the end.
    pub end: f64,
    /// Where to begin, as a part of the training schedule (where the refiner takes over): 0 is the beginning.
    pub start: f64,
    /// The sampler's numbers.
    pub options: Options,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sampler: Sampler::Euler,
            schedule: Schedule::Auto,
            sigmas: None,
            steps: 20,
            strength: 1.0,
            start: 0.0,
            end: 1.0,
            options: Options::default(),
        }
    }
}

/// Largest number of steps of a named schedule.
const MAX_STEPS: usize = 1000;

/// Everything a run needs that can be known before it: immutable, cheap to clone, sharable.
///
/// ```
/// use sd_sampling::{ModelSampling, Plan, SchedulerConfig, Settings, noise::*};
/// let model = ModelSampling::new(&SchedulerConfig::default())?;
/// let plan = Plan::new(&model, &Settings::default())?;
/// let shape = NoiseShape { channels: 4, height: 8, width: 8 };
/// let mut noise = BatchNoise::new(Rng::Cpu, shape, &ImageSeed::batch(42, 1));
/// let x = plan.begin(&noise.initial(), None);
/// let latents = plan.run(
///     x,
///     &mut |eval| Ok::<_, String>(vec![0.0; eval.x.len()]), // the network
///     &mut |request| noise.sample(request),
///     &mut |step| Ok(assert!(step.step <= step.total)),
/// )?;
/// assert_eq!(latents.len(), shape.len());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Plan {
    sampling: ModelSampling,
    sampler: Sampler,
    options: Options,
    levels: Vec<Level>,
    arrivals: Vec<f64>,
    range: Range<usize>,
    /// Smallest positive and largest sigma that the noise's path spans: those of the whole run, also where several
    /// models share it.
    path: (f64, f64),
    /// Size of the initial noise of a run from pure noise, in the sampler's own kind of latents.
    initial_noise: f64,
    /// Factor that turns the last latents into the result.
    final_scale: f64,
    ending: Ending,
    auto: bool,
}

/// How a multistep solver of a model's own schedule ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ending {
    /// The last step is of first order.
    pub(crate) first_order: bool,
    /// The order falls to 2 and 1 in the last two steps.
    pub(crate) falling_order: bool,
}

impl Plan {
    /// Works out the levels of a run.
    ///
    /// # Errors
    /// [`Error::Steps`], [`Error::OutOfRange`] and [`Error::NothingToDo`] for the request's numbers,
    /// [`Error::Config`] for a model whose configuration cannot be used.
    pub fn new(model: &ModelSampling, settings: &Settings) -> Result<Self, Error> {
        check(settings)?;
        let (sampler, steps) = (settings.sampler, settings.steps);
        let preserving = sampler.preserves_variance();
        let auto = settings.schedule == Schedule::Auto && settings.sigmas.is_none();
        let given = settings.sigmas.clone().or_else(|| schedule::named(settings.schedule, model, steps));
        let (levels, arrivals, initial_noise) = match given {
            Some(sigmas) => {
                let levels = schedule::levels(&sigmas, model);
                let first = levels[0].sigma;
                (levels, sigmas[1..].to_vec(), if preserving { 1.0 } else { first })
            }
            None => {
                let auto = schedule::auto(sampler.rule(), model, steps)?;
                (auto.levels, auto.arrivals, auto.initial_noise)
            }
        };
        let config = model.config();
        let end_sigma = arrivals.last().copied().unwrap_or(0.0);
        // diffusers' multistep solvers hold variance-preserving latents: their result shrinks with the signal when
        // the schedule does not end at 0.
        let shrinks = auto && !preserving && sampler.rule().is_multistep();
        let short = steps < 15 && config.lower_order_final.unwrap_or(true);
        let range = range(&levels, model, settings)?;
        let whole = levels.len() - 1;
        let shared = whole - wanted(whole, settings.strength).max(range.len())..whole;
        Ok(Self {
            path: sigmas_between(&levels, &shared),
            range,
            sampling: model.clone(),
            sampler,
            options: settings.options.clone(),
            levels,
            arrivals,
            initial_noise,
            final_scale: if shrinks { alpha(end_sigma) } else { 1.0 },
            ending: Ending {
                first_order: auto && (short || config.euler_at_final == Some(true)),
                falling_order: auto && short && sampler.rule().is_multistep(),
            },
            auto,
        })
    }

    /// Steps that will be run and reported.
    #[must_use]
    pub fn total(&self) -> usize {
        self.range.len()
    }

    /// The latents a run begins with.
    ///
    /// `noise` is standard normal, for the whole batch. Without `init` the run starts from noise alone; with `init`
    /// (encoded pictures, same length) the noise of the first level is added to them.
    #[must_use]
    pub fn begin(&self, noise: &[f32], init: Option<&[f32]>) -> Vec<f32> {
        let first = self.levels[self.range.start];
        match init {
            None if self.range.start == 0 => scale(self.initial_noise, noise),
            None => scale(self.mix(first.sigma).1, noise),
            Some(init) => {
                let (signal, amount) = self.mix(first.sigma);
                sum([(signal, init), (amount, noise)])
            }
        }
    }

    /// Sizes of signal and noise in the latents that the run begins with (see [`begin`](Self::begin)).
    #[must_use]
    pub fn begin_levels(&self) -> (f32, f32) {
        let (signal, noise) = self.mix(self.levels[self.range.start].sigma);
        (signal as f32, noise as f32)
    }

    fn mix(&self, sigma: f64) -> (f64, f64) {
        if self.sampler.preserves_variance() { (alpha(sigma), noise(sigma)) } else { (1.0, sigma) }
    }

    /// Runs the sampler from `x` (see [`begin`](Self::begin)) to the result.
    ///
    /// `x` and everything the closures exchange is the whole batch, image after image. `model` returns the network's
    /// raw output (after guidance) for `eval.x`, of the same length. `on_step` is called exactly once per step.
    /// The result is the clean latents, or the noisy ones of the last level if the plan stops early.
    ///
    /// # Errors
    /// The first error that `model` or `on_step` returns, unchanged.
    pub fn run<'c, E>(
        &self,
        x: Vec<f32>,
        model: &'c mut ModelFn<'c, E>,
        noise: &'c mut NoiseFn<'c>,
        on_step: &'c mut StepFn<'c, E>,
    ) -> Result<Vec<f32>, E> {
        let x = self.sampler.run(&mut Run::new(self, model, noise, on_step), x)?;
        let whole = self.range.end == self.arrivals.len();
        Ok(if whole && self.final_scale != 1.0 { scale(self.final_scale, &x) } else { x })
    }

    /// The sampler.
    #[must_use]
    pub fn sampler(&self) -> Sampler {
        self.sampler
    }

    /// All levels of the schedule: one more than the steps of the whole schedule.
    #[must_use]
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// The steps to run, as indices into the whole schedule.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    pub(crate) fn arrivals(&self) -> &[f64] {
        &self.arrivals
    }

    pub(crate) fn sampling(&self) -> &ModelSampling {
        &self.sampling
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    pub(crate) fn is_auto(&self) -> bool {
        self.auto
    }

    pub(crate) fn ending(&self) -> Ending {
        self.ending
    }

    /// Whether PNDM takes its first steps with Runge-Kutta's method.
    pub(crate) fn warms_up(&self) -> bool {
        self.auto && self.range.start == 0 && self.sampling.config().skip_prk_steps == Some(false)
    }

    /// Whether SDE noise follows a Brownian path. diffusers' multistep SDE solvers draw fresh noise instead.
    pub(crate) fn follows_path(&self) -> bool {
        !(self.auto && self.sampler.rule().is_multistep())
    }

    /// Smallest positive and largest sigma of the run.
    pub(crate) fn sigma_range(&self) -> (f64, f64) {
        sigmas_between(&self.levels, &self.range)
    }

    /// Smallest positive and largest sigma of the noise's path.
    pub(crate) fn path_range(&self) -> (f64, f64) {
        self.path
    }
}

/// Smallest positive and largest sigma of some steps.
fn sigmas_between(levels: &[Level], steps: &Range<usize>) -> (f64, f64) {
    let run = &levels[steps.start..=steps.end];
    let highest = run[0].sigma;
    (run.iter().map(|level| level.sigma).filter(|sigma| *sigma > 0.0).fold(highest, f64::min), highest)
}

/// ⌊steps · strength⌋ in double precision, as Python computes it.
fn wanted(steps: usize, strength: f64) -> usize {
    ((steps as f64 * strength) as usize).min(steps)
}

/// The part of the schedule to run.
fn range(levels: &[Level], model: &ModelSampling, settings: &Settings) -> Result<Range<usize>, Error> {
    let steps = levels.len() - 1;
    let mut range = steps - wanted(steps, settings.strength)..steps;
    let train = model.train_timesteps() as f64;
    let cutoff = |part: f64| (train - part * train).round_ties_even();
    if settings.end < 1.0 {
        range.end = levels[..steps].iter().filter(|level| level.timestep >= cutoff(settings.end)).count();
    }
    if settings.start > 0.0 {
        let done = levels[..steps].iter().filter(|level| level.timestep >= cutoff(settings.start)).count();
        range.start = range.start.max(done);
    }
    if range.is_empty() {
        return Err(Error::NothingToDo { strength: settings.strength, steps });
    }
    Ok(range)
}

fn check(settings: &Settings) -> Result<(), Error> {
    if !(1..=MAX_STEPS).contains(&settings.steps) {
        return Err(Error::Steps { steps: settings.steps, max: MAX_STEPS });
    }
    if let Some(sigmas) = &settings.sigmas {
        let falling =
            sigmas.windows(2).all(|pair| pair[0] > pair[1]) && sigmas.iter().all(|s| s.is_finite() && *s >= 0.0);
        if !falling || !(2..=MAX_STEPS + 1).contains(&sigmas.len()) {
            return Err(Error::Sigmas { max: MAX_STEPS + 1 });
        }
    }
    let options = &settings.options;
    let numbers = [
        ("strength", settings.strength, 0.0, 1.0, "above 0 and at most 1"),
        ("start", settings.start, 0.0, 1.0, "between 0 and 1"),
        ("end", settings.end, 0.0, 1.0, "between 0 and 1"),
        ("eta", options.eta.unwrap_or(0.0), 0.0, 10.0, "between 0 and 10"),
        ("s_churn", options.s_churn, 0.0, 1000.0, "between 0 and 1000"),
        ("s_tmin", options.s_tmin, 0.0, f64::INFINITY, "0 or more"),
        ("s_tmax", options.s_tmax, 0.0, f64::INFINITY, "0 or more"),
        ("s_noise", options.s_noise, 0.0, 10.0, "between 0 and 10"),
    ];
    for (field, value, min, max, expected) in numbers {
        if !(value >= min && value <= max) {
            return Err(Error::OutOfRange { field, expected, value });
        }
    }
    Ok(())
}
