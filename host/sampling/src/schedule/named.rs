//! The schedules with a name, as k-diffusion, A1111 and ComfyUI define them.

use super::{Schedule, beta::beta_quantile};
use crate::{Level, ModelSampling};

/// Falling sigmas of a run of `steps`, the final 0 included. `None` for [`Schedule::Auto`].
pub(crate) fn named(schedule: Schedule, model: &ModelSampling, steps: usize) -> Option<Vec<f64>> {
    let (min, max) = (model.sigma_min(), model.sigma_max());
    let last = model.train_timesteps() - 1;
    let mut sigmas: Vec<f64> = match schedule {
        Schedule::Auto => return None,
        Schedule::Normal => ramp(steps).map(|r| model.sigma(last as f64 * (1.0 - r))).collect(),
        Schedule::SgmUniform => {
            (0..steps).map(|i| model.sigma(last as f64 * (1.0 - i as f64 / steps as f64))).collect()
        }
        Schedule::Simple => {
            let stride = (last + 1) as f64 / steps as f64;
            (0..steps).map(|i| model.sigmas()[last - (i as f64 * stride) as usize]).collect()
        }
        Schedule::DdimUniform => {
            let stride = ((last + 1) / steps).max(1);
            (0..steps).rev().map(|i| model.sigmas()[(1 + i * stride).min(last)]).collect()
        }
        Schedule::Karras => karras(steps, min, max),
        Schedule::Exponential | Schedule::PolyExponential => exponential(steps, min, max),
        Schedule::Beta => beta(steps, min, max),
        Schedule::AlignYourSteps => log_linear(&AYS_SD15, steps),
        Schedule::AlignYourStepsXl => log_linear(&AYS_SDXL, steps),
        Schedule::KlOptimal => {
            let (low, high) = (min.atan(), max.atan());
            ramp(steps).map(|r| (r * low + (1.0 - r) * high).tan()).collect()
        }
    };
    sigmas.push(0.0);
    Some(sigmas)
}

/// Sigmas with the timesteps that belong to them.
pub(crate) fn levels(sigmas: &[f64], model: &ModelSampling) -> Vec<Level> {
    sigmas.iter().map(|sigma| Level { timestep: model.timestep(*sigma), sigma: *sigma }).collect()
}

/// `n` even points from 0 to 1, both included; 0 alone if `n` is 1.
fn ramp(n: usize) -> impl Iterator<Item = f64> {
    (0..n).map(move |i| if n == 1 { 0.0 } else { i as f64 / (n - 1) as f64 })
}

/// Karras et al. (2022), equation 5 with ρ = 7, without the final 0.
pub(crate) fn karras(n: usize, min: f64, max: f64) -> Vec<f64> {
    const RHO: f64 = 7.0;
    let (low, high) = (min.powf(1.0 / RHO), max.powf(1.0 / RHO));
    ramp(n).map(|r| (high + r * (low - high)).powf(RHO)).collect()
}

/// Even steps of log σ, without the final 0.
pub(super) fn exponential(n: usize, min: f64, max: f64) -> Vec<f64> {
    ramp(n).map(|r| (max.ln() + r * (min.ln() - max.ln())).exp()).collect()
}

/// Quantiles of Beta(0.6, 0.6) between the sigmas, without the final 0 (A1111, diffusers).
pub(super) fn beta(n: usize, min: f64, max: f64) -> Vec<f64> {
    ramp(n).map(|r| min + beta_quantile(1.0 - r, 0.6, 0.6) * (max - min)).collect()
}

const AYS_SD15: [f64; 11] = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029];
const AYS_SDXL: [f64; 11] = [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029];

/// `n` points on the line through the logarithms of a table.
fn log_linear(table: &[f64], n: usize) -> Vec<f64> {
    let last = table.len() - 1;
    ramp(n)
        .map(|r| {
            let at = r * last as f64;
            let low = (at.floor() as usize).min(last - 1);
            let w = at - low as f64;
            (table[low].ln() * (1.0 - w) + table[low + 1].ln() * w).exp()
        })
        .collect()
}
