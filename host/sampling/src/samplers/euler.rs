//! Euler's method, plain and ancestral.

use crate::run::{Run, Trace};
use crate::samplers::ancestral_step;
use crate::vector::{add, sum};

/// Karras et al. (2022), algorithm 2 without the correction.
pub(crate) fn euler<E>(run: &mut Run<'_, '_, E>, mut x: Vec<f32>) -> Trace<E> {
    for step in run.steps() {
        let to = run.level(step + 1).sigma;
        let from = run.churn(step, &mut x);
        let denoised = run.denoise(&x, from, step)?;
        x = line(&x, &denoised, from.sigma, to);
        run.report(step, &mut x, &denoised)?;
    }
    Ok(x)
}

/// Euler steps to a lower sigma, with noise added back up.
pub(crate) fn ancestral<E>(run: &mut Run<'_, '_, E>, mut x: Vec<f32>) -> Trace<E> {
    let eta = run.options.eta.unwrap_or(1.0);
    for step in run.steps() {
        let (from, to) = (run.level(step), run.level(step + 1).sigma);
        let denoised = run.denoise(&x, from, step)?;
        let (down, up) = ancestral_step(from.sigma, to, eta);
        x = line(&x, &denoised, from.sigma, down);
        if to > 0.0 && up > 0.0 {
            let noise = run.fresh_noise(step);
            add(&mut x, up * run.options.s_noise, &noise);
        }
        run.report(step, &mut x, &denoised)?;
    }
    Ok(x)
}

/// The point at noise level `to` on the line through `x` (at `from`) and `denoised` (at 0).
pub(crate) fn line(x: &[f32], denoised: &[f32], from: f64, to: f64) -> Vec<f32> {
    let keep = to / from;
    sum([(keep, x), (1.0 - keep, denoised)])
}
