//! What a sampler sees of a run: the levels, the network, the noise and the step report.

use std::ops::Range;

use crate::level::{Level, alpha, noise};
use crate::plan::{Options, Plan};
use crate::vector::{scale, sum};
use crate::{ModelSampling, Prediction};

/// One call of the network for the whole batch.
#[derive(Debug, Clone, Copy)]
pub struct Eval<'a> {
    /// Latents `[images · channels · height · width]`, already scaled as the network wants them.
    pub x: &'a [f32],
    /// The timestep to tell the network, possibly fractional.
    pub timestep: f32,
    /// The noise level of `x`, relative to a signal of size 1; infinite where a zero-SNR model starts.
    pub sigma: f32,
    /// Index of the step this belongs to, counted from 0 in this run. Some samplers call several times a step.
    pub step: usize,
}

/// The end of one step.
#[derive(Debug)]
pub struct StepInfo<'a> {
    /// Steps done so far, from 1 to `total`.
    pub step: usize,
    /// Steps of the run.
    pub total: usize,
    /// The latents after the step, open to change (to keep the unmasked part of a picture, for example):
    /// x ≈ `signal`·x₀ + `noise`·ε.
    pub x: &'a mut [f32],
    /// The network's present idea of the clean latents x₀: what a preview shows.
    pub denoised: &'a [f32],
    /// Size of the signal in `x`.
    pub signal: f32,
    /// Size of the noise in `x`.
    pub noise: f32,
}

/// A sampler's wish for noise, for the whole batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NoiseRequest {
    /// Independent noise: the next draw of every image's generator.
    Fresh {
        /// Index of the step.
        step: usize,
    },
    /// The increment of one Brownian path per image between two sigmas, scaled to unit variance. Overlapping requests
    /// get overlapping, consistent noise.
    Path {
        /// Index of the step.
        step: usize,
        /// Sigma the sampler comes from.
        from: f64,
        /// Sigma it goes to.
        to: f64,
        /// Smallest positive sigma of the run; the same in every request of a run.
        lowest: f64,
        /// Largest sigma of the run; the same in every request of a run.
        highest: f64,
    },
}

/// The network: the latents, timestep and step in, the raw output (after guidance) out.
pub type ModelFn<'a, E> = dyn FnMut(Eval<'_>) -> Result<Vec<f32>, E> + 'a;
/// The noise source, see [`BatchNoise::sample`](crate::noise::BatchNoise::sample).
pub type NoiseFn<'a> = dyn FnMut(NoiseRequest) -> Vec<f32> + 'a;
/// Called once after every step; an error ends the run.
pub type StepFn<'a, E> = dyn FnMut(StepInfo<'_>) -> Result<(), E> + 'a;

/// Latents at the end of a run, or the first error of a closure.
pub(crate) type Trace<E> = Result<Vec<f32>, E>;

/// A run in progress.
pub(crate) struct Run<'p, 'c, E> {
    plan: &'p Plan,
    model: &'c mut ModelFn<'c, E>,
    noise: &'c mut NoiseFn<'c>,
    on_step: &'c mut StepFn<'c, E>,
    pub(crate) options: &'p Options,
}

impl<'p, 'c, E> Run<'p, 'c, E> {
    pub(crate) fn new(
        plan: &'p Plan,
        model: &'c mut ModelFn<'c, E>,
        noise: &'c mut NoiseFn<'c>,
        on_step: &'c mut StepFn<'c, E>,
    ) -> Self {
        Self { plan, model, noise, on_step, options: plan.options() }
    }

    /// Indices of the steps to do, in the whole schedule.
    pub(crate) fn steps(&self) -> Range<usize> {
        self.plan.range()
    }

    /// Level `index` of the whole schedule; step `i` goes from level `i` to level `i + 1`.
    pub(crate) fn level(&self, index: usize) -> Level {
        self.plan.levels()[index]
    }

    /// The level of a sigma that is not one of the schedule's.
    pub(crate) fn level_at(&self, sigma: f64) -> Level {
        Level { timestep: self.sampling().timestep(sigma), sigma }
    }

    /// Steps from this one to the end of the whole schedule, this one included.
    pub(crate) fn steps_left(&self, step: usize) -> usize {
        self.plan.levels().len() - 1 - step
    }

    /// −ln of the largest and of the smallest positive sigma of the run; a run with one positive sigma ends at the
    /// model's smallest.
    pub(crate) fn log_range(&self) -> (f64, f64) {
        let (lowest, highest) = self.plan.sigma_range();
        let lowest = if lowest < highest { lowest } else { self.sampling().sigma_min().min(highest) };
        (-highest.ln(), -lowest.ln())
    }

    /// The sigma at which a step arrives.
    pub(crate) fn arrival(&self, step: usize) -> f64 {
        self.plan.arrivals()[step]
    }

    /// Whether the configuration wants the last step to be of first order.
    pub(crate) fn ends_first_order(&self, step: usize) -> bool {
        self.steps_left(step) == 1 && self.plan.ending().first_order
    }

    /// The order to use at a step: short runs end with lower orders if the configuration wants it.
    pub(crate) fn order_at_end(&self, step: usize, order: usize) -> usize {
        if self.plan.ending().falling_order { order.min(self.steps_left(step)) } else { order }
    }

    /// How many steps PNDM warms up with Runge-Kutta's method.
    pub(crate) fn runge_kutta_steps(&self) -> usize {
        if self.plan.warms_up() { self.steps().len().min(3) } else { 0 }
    }

    /// The level half a stride below the start of a step (PNDM).
    pub(crate) fn middle_of(&self, step: usize) -> Level {
        let stride = self.sampling().train_timesteps() / (self.plan.levels().len() - 1);
        let timestep = (self.level(step).timestep - (stride / 2) as f64).max(0.0);
        Level { timestep, sigma: self.sampling().whole_sigma(timestep) }
    }

    /// Whether the schedule is the model's own.
    pub(crate) fn is_auto(&self) -> bool {
        self.plan.is_auto()
    }

    pub(crate) fn sampling(&self) -> &'p ModelSampling {
        self.plan.sampling()
    }

    /// Estimates x₀ from variance-exploding latents at `level`.
    pub(crate) fn denoise(&mut self, x: &[f32], level: Level, step: usize) -> Trace<E> {
        let (sigma, root) = (level.sigma, (level.sigma * level.sigma + 1.0).sqrt());
        let output = self.evaluate(&scale(1.0 / root, x), level, step)?;
        Ok(match self.sampling().prediction() {
            Prediction::Epsilon => sum([(1.0, x), (-sigma, &output)]),
            Prediction::V => sum([(1.0 / (root * root), x), (-sigma / root, &output)]),
            Prediction::Sample => output,
        })
    }

    /// Estimates x₀ and ε from variance-preserving latents at `level`.
    pub(crate) fn predict(&mut self, x: &[f32], level: Level, step: usize) -> Result<(Vec<f32>, Vec<f32>), E> {
        let output = self.evaluate(x, level, step)?;
        let (signal, noise) = (level.alpha(), level.noise());
        let (mut denoised, epsilon) = match self.sampling().prediction() {
            Prediction::Epsilon => (sum([(1.0 / signal, x), (-noise / signal, &output)]), output),
            Prediction::V => (sum([(signal, x), (-noise, &output)]), sum([(signal, &output), (noise, x)])),
            Prediction::Sample => {
                let epsilon = sum([(1.0 / noise, x), (-signal / noise, &output)]);
                (output, epsilon)
            }
        };
        let config = self.sampling().config();
        if config.clip_sample == Some(true) {
            let range = config.clip_sample_range.unwrap_or(1.0) as f32;
            denoised.iter_mut().for_each(|x| *x = x.max(-range).min(range));
        }
        Ok((denoised, epsilon))
    }

    /// The network's raw output for variance-preserving latents at `level`.
    pub(crate) fn output(&mut self, x: &[f32], level: Level, step: usize) -> Trace<E> {
        self.evaluate(x, level, step)
    }

    fn evaluate(&mut self, x: &[f32], level: Level, step: usize) -> Trace<E> {
        let step = step - self.plan.range().start;
        (self.model)(Eval { x, timestep: level.timestep as f32, sigma: level.sigma as f32, step })
    }

    /// Fresh noise for the whole batch.
    pub(crate) fn fresh_noise(&mut self, step: usize) -> Vec<f32> {
        (self.noise)(NoiseRequest::Fresh { step: step - self.plan.range().start })
    }

    /// Noise for the way from one sigma to a lower one.
    pub(crate) fn path_noise(&mut self, step: usize, from: f64, to: f64) -> Vec<f32> {
        if !self.plan.follows_path() {
            return self.fresh_noise(step);
        }
        let (lowest, highest) = self.plan.path_range();
        (self.noise)(NoiseRequest::Path { step: step - self.plan.range().start, from, to, lowest, highest })
    }

    /// Raises the noise level before a step as Karras et al. (2022) do, if `s_churn` asks for it.
    pub(crate) fn churn(&mut self, step: usize, x: &mut [f32]) -> Level {
        let level = self.level(step);
        let options = self.options;
        let inside = (options.s_tmin..=options.s_tmax).contains(&level.sigma);
        let steps = (self.plan.levels().len() - 1) as f64;
        let gamma = if inside { (options.s_churn / steps).min(std::f64::consts::SQRT_2 - 1.0) } else { 0.0 };
        if gamma <= 0.0 {
            return level;
        }
        let sigma = level.sigma * (gamma + 1.0);
        let noise = self.fresh_noise(step);
        crate::vector::add(x, (sigma * sigma - level.sigma * level.sigma).sqrt() * options.s_noise, &noise);
        self.level_at(sigma)
    }

    /// Tells the host that a step is done.
    pub(crate) fn report(&mut self, step: usize, x: &mut [f32], denoised: &[f32]) -> Result<(), E> {
        self.report_at(step, x, denoised, self.arrival(step))
    }

    /// Tells the host that a step is done that ended at a sigma of its own.
    pub(crate) fn report_at(&mut self, step: usize, x: &mut [f32], denoised: &[f32], sigma: f64) -> Result<(), E> {
        let range = self.plan.range();
        let (signal, noise) =
            if self.plan.sampler().preserves_variance() { (alpha(sigma), noise(sigma)) } else { (1.0, sigma) };
        (self.on_step)(StepInfo {
            step: step + 1 - range.start,
            total: range.len(),
            x,
            denoised,
            signal: signal as f32,
            noise: noise as f32,
        })
    }
}
