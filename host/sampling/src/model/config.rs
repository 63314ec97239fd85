//! The `scheduler_config.json` of a diffusers model.

use serde::Deserialize;

use crate::Error;

/// The fields of `scheduler_config.json` that matter for sampling; all others are ignored.
///
/// A missing field is `None`: what it stands for depends on the sampler, as in diffusers, where each scheduler class
/// has defaults of its own. (Where diffusers' defaults were made for pixels they are not followed: `clip_sample` is
/// off unless the file turns it on.)
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct SchedulerConfig {
    /// Class that wrote the file, for example `PNDMScheduler`.
    #[serde(rename = "_class_name")]
    pub class_name: Option<String>,
    /// Length of the training schedule; 1000 if missing.
    pub num_train_timesteps: Option<usize>,
    /// First beta; 0.00085 if missing.
    pub beta_start: Option<f64>,
    /// Last beta; 0.012 if missing.
    pub beta_end: Option<f64>,
    /// `linear`, `scaled_linear` or `squaredcos_cap_v2`; `scaled_linear` if missing.
    pub beta_schedule: Option<String>,
    /// The betas themselves, in place of the three fields above.
    pub trained_betas: Option<Vec<f64>>,
    /// `epsilon`, `v_prediction` or `sample`; `epsilon` if missing.
    pub prediction_type: Option<String>,
    /// Rescale the betas so that the last timestep is pure noise.
    pub rescale_betas_zero_snr: Option<bool>,
    /// `leading`, `trailing` or `linspace`.
    pub timestep_spacing: Option<String>,
    /// Added to the timesteps of leading spacing.
    pub steps_offset: Option<i64>,
    /// Whether DDIM and PNDM end at a clean picture or at the noise level of timestep 0.
    pub set_alpha_to_one: Option<bool>,
    /// Whether PNDM goes without its Runge-Kutta warm-up.
    pub skip_prk_steps: Option<bool>,
    /// `zero` or `sigma_min`.
    pub final_sigmas_type: Option<String>,
    /// Space the sigmas as Karras et al. (2022).
    pub use_karras_sigmas: Option<bool>,
    /// Space the logarithms of the sigmas evenly.
    pub use_exponential_sigmas: Option<bool>,
    /// Space the sigmas by a beta distribution.
    pub use_beta_sigmas: Option<bool>,
    /// Space the logarithms of the sigmas evenly over the whole training schedule (DPM-Solver only).
    pub use_lu_lambdas: Option<bool>,
    /// Lower end of the spaced sigmas.
    pub sigma_min: Option<f64>,
    /// Upper end of the spaced sigmas.
    pub sigma_max: Option<f64>,
    /// Limit the predicted sample to `±clip_sample_range`.
    pub clip_sample: Option<bool>,
    /// 1 if missing.
    pub clip_sample_range: Option<f64>,
    /// Lower the order of multistep solvers at the end of short runs; on if missing.
    pub lower_order_final: Option<bool>,
    /// End a multistep solver with an Euler step.
    pub euler_at_final: Option<bool>,
    /// Order of a multistep solver.
    pub solver_order: Option<usize>,
    /// `midpoint`, `heun` (DPM-Solver), `bh1` or `bh2` (UniPC).
    pub solver_type: Option<String>,
    /// `dpmsolver++` or `sde-dpmsolver++`, for the choice of the model's own sampler.
    pub algorithm_type: Option<String>,
    /// Steps of the schedule that LCM and TCD models were distilled with; 50 if missing.
    pub original_inference_steps: Option<usize>,
    /// Scale of the timestep in LCM's boundary condition; 10 if missing.
    pub timestep_scaling: Option<f64>,
    /// Only `linear` can be used.
    pub interpolation_type: Option<String>,
    /// Only `discrete` can be used.
    pub timestep_type: Option<String>,
    /// Cannot be used: it is for pixels.
    pub thresholding: Option<bool>,
    /// Cannot be used: it is for flow-matching models.
    pub use_flow_sigmas: Option<bool>,
}

impl SchedulerConfig {
    pub(crate) fn train_timesteps(&self) -> Result<usize, Error> {
        let n = self.trained_betas.as_ref().map_or(self.num_train_timesteps.unwrap_or(1000), Vec::len);
        if !(2..=100_000).contains(&n) {
            let problem = format!("must be between 2 and 100000, not {n}");
            return Err(Error::Config { field: "num_train_timesteps", problem });
        }
        Ok(n)
    }

    /// Refuses what would be run wrongly.
    pub(crate) fn check(&self) -> Result<(), Error> {
        only("interpolation_type", self.interpolation_type.as_deref(), "linear")?;
        only("timestep_type", self.timestep_type.as_deref(), "discrete")?;
        for (field, on) in [("thresholding", self.thresholding), ("use_flow_sigmas", self.use_flow_sigmas)] {
            if on == Some(true) {
                return Err(Error::Config {
                    field,
                    problem: "is on, which is not supported; set it to false".to_owned(),
                });
            }
        }
        let spaced = [self.use_karras_sigmas, self.use_exponential_sigmas, self.use_beta_sigmas];
        if spaced.iter().filter(|on| **on == Some(true)).count() > 1 {
            let problem = "is on together with another use_…_sigmas; only one can be".to_owned();
            return Err(Error::Config { field: "use_karras_sigmas", problem });
        }
        Ok(())
    }
}

fn only(field: &'static str, value: Option<&str>, supported: &str) -> Result<(), Error> {
    match value {
        None => Ok(()),
        Some(value) if value == supported => Ok(()),
        Some(value) => Err(Error::Config { field, problem: format!("is `{value}`; only `{supported}` is supported") }),
    }
}
