//! What a sampler must know about a model: its noise schedule and what it predicts.

mod betas;
mod config;

pub use config::SchedulerConfig;

use crate::Error;

/// What the network's output means. With x = √ᾱ·x₀ + √(1−ᾱ)·ε:
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Prediction {
    /// The noise ε.
    #[default]
    Epsilon,
    /// The velocity √ᾱ·ε − √(1−ᾱ)·x₀ (Salimans and Ho 2022).
    V,
    /// The clean sample x₀.
    Sample,
}

impl Prediction {
    /// diffusers' name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Epsilon => "epsilon",
            Self::V => "v_prediction",
            Self::Sample => "sample",
        }
    }

    fn parse(name: &str) -> Result<Self, Error> {
        match name {
            "epsilon" => Ok(Self::Epsilon),
            "v_prediction" => Ok(Self::V),
            "sample" => Ok(Self::Sample),
            other => {
                let problem = format!("is `{other}`; known are epsilon, v_prediction and sample");
                Err(Error::Config { field: "prediction_type", problem })
            }
        }
    }
}

/// The noise schedule of a model and what it predicts.
///
/// Noise levels are written as σ = √((1−ᾱ)/ᾱ): the noise relative to a signal of size 1.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSampling {
    alphas_cumprod: Vec<f64>,
    /// Rising, one per training timestep, finite.
    sigmas: Vec<f64>,
    log_sigmas: Vec<f64>,
    prediction: Prediction,
    config: SchedulerConfig,
}

/// ᾱ that stands in for 0 where a finite sigma is needed (diffusers uses the same: σ = 4096).
const SMALLEST_ALPHA: f64 = 1.0 / 16_777_216.0;

impl ModelSampling {
    /// Builds the schedule that a `scheduler_config.json` describes.
    ///
    /// # Errors
    /// [`Error::Config`] names the field that cannot be used.
    pub fn new(config: &SchedulerConfig) -> Result<Self, Error> {
        config.check()?;
        let mut alphas_cumprod = betas::alphas_cumprod(config)?;
        let prediction = Prediction::parse(config.prediction_type.as_deref().unwrap_or("epsilon"))?;
        let finite = |a: f64| if a == 0.0 { SMALLEST_ALPHA } else { a };
        if prediction == Prediction::Epsilon {
            // From noise without any signal a noise prediction cannot tell x₀: the division by √ᾱ would not be finite.
            alphas_cumprod.iter_mut().for_each(|a| *a = finite(*a));
        }
        let sigmas: Vec<f64> = alphas_cumprod.iter().map(|a| finite(*a)).map(|a| ((1.0 - a) / a).sqrt()).collect();
        let log_sigmas = sigmas.iter().map(|sigma| sigma.ln()).collect();
        Ok(Self { alphas_cumprod, sigmas, log_sigmas, prediction, config: config.clone() })
    }

    /// What the network predicts.
    #[must_use]
    pub fn prediction(&self) -> Prediction {
        self.prediction
    }

    /// The configuration this was built from.
    #[must_use]
    pub fn config(&self) -> &SchedulerConfig {
        &self.config
    }

    /// ᾱ of every training timestep; the last is 0 for a zero-SNR model that does not predict noise.
    #[must_use]
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// σ of every training timestep, rising, all finite.
    #[must_use]
    pub fn sigmas(&self) -> &[f64] {
        &self.sigmas
    }

    /// σ of timestep 0.
    #[must_use]
    pub fn sigma_min(&self) -> f64 {
        self.sigmas[0]
    }

    /// σ of the last timestep.
    #[must_use]
    pub fn sigma_max(&self) -> f64 {
        self.sigmas[self.sigmas.len() - 1]
    }

    /// The (fractional) timestep of a noise level: linear in log σ, as in k-diffusion and diffusers.
    #[must_use]
    pub fn timestep(&self, sigma: f64) -> f64 {
        let log_sigma = sigma.max(1e-10).ln();
        let above = self.log_sigmas.partition_point(|s| *s <= log_sigma);
        let low = above.saturating_sub(1).min(self.log_sigmas.len() - 2);
        let (from, to) = (self.log_sigmas[low], self.log_sigmas[low + 1]);
        low as f64 + ((log_sigma - from) / (to - from)).clamp(0.0, 1.0)
    }

    /// The noise level of a (fractional) timestep: linear in log σ, as in k-diffusion.
    #[must_use]
    pub fn sigma(&self, timestep: f64) -> f64 {
        self.interpolate(&self.log_sigmas, timestep).exp()
    }

    /// The noise level of a (fractional) timestep: linear in σ, as in diffusers.
    pub(crate) fn sigma_linear(&self, timestep: f64) -> f64 {
        self.interpolate(&self.sigmas, timestep)
    }

    fn interpolate(&self, values: &[f64], timestep: f64) -> f64 {
        let last = values.len() - 1;
        let t = timestep.clamp(0.0, last as f64);
        let low = (t.floor() as usize).min(last - 1);
        let w = t - low as f64;
        values[low] * (1.0 - w) + values[low + 1] * w
    }

    /// Sigma of a timestep rounded down to a whole one; infinite at the end of a zero-SNR schedule.
    pub(crate) fn whole_sigma(&self, timestep: f64) -> f64 {
        let a = self.alphas_cumprod[(timestep.max(0.0) as usize).min(self.sigmas.len() - 1)];
        ((1.0 - a) / a).sqrt()
    }

    pub(crate) fn train_timesteps(&self) -> usize {
        self.sigmas.len()
    }
}
