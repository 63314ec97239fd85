//! Stochastic single-step DPM-Solver++ methods, 2S a and SDE, on variance-exploding latents, where λ = −ln σ.

use super::ancestral_step;
use super::euler::line;
use crate::run::{Run, Trace};
use crate::vector::add;

/// DPM-Solver++(2S) with ancestral noise: the data estimate at the middle of the step.
pub(crate) fn single_2_ancestral<E>(run: &mut Run<'_, '_, E>, mut x: Vec<f32>) -> Trace<E> {
    let eta = run.options.eta.unwrap_or(1.0);
    for step in run.steps() {
        let (from, to) = (run.level(step), run.level(step + 1).sigma);
        let denoised = run.denoise(&x, from, step)?;
        let (down, up) = ancestral_step(from.sigma, to, eta);
        if down == 0.0 {
            x = line(&x, &denoised, from.sigma, down);
        } else {
            let middle = run.level_at((from.sigma * down).sqrt());
            let between = line(&x, &denoised, from.sigma, middle.sigma);
            let there = run.denoise(&between, middle, step)?;
            x = line(&x, &there, from.sigma, down);
        }
        if to > 0.0 && up > 0.0 {
            let noise = run.fresh_noise(step);
            add(&mut x, up * run.options.s_noise, &noise);
        }
        run.report(step, &mut x, &denoised)?;
    }
    Ok(x)
}

/// DPM-Solver++ SDE: two ancestral half steps that share one Brownian path.
pub(crate) fn single_sde<E>(run: &mut Run<'_, '_, E>, mut x: Vec<f32>) -> Trace<E> {
    let eta = run.options.eta.unwrap_or(1.0);
    for step in run.steps() {
        let (from, to) = (run.level(step), run.level(step + 1).sigma);
        let denoised = run.denoise(&x, from, step)?;
        if to == 0.0 {
            x = line(&x, &denoised, from.sigma, to);
        } else {
            let middle = run.level_at((from.sigma * to).sqrt());
            let (down, up) = ancestral_step(from.sigma, middle.sigma, eta);
            let mut between = line(&x, &denoised, from.sigma, down);
            let noise = run.path_noise(step, from.sigma, middle.sigma);
            add(&mut between, up * run.options.s_noise, &noise);
            let there = run.denoise(&between, middle, step)?;
            // The second-order estimate with the middle at half the step is the estimate there.
            let (down, up) = ancestral_step(from.sigma, to, eta);
            x = line(&x, &there, from.sigma, down);
            let noise = run.path_noise(step, from.sigma, to);
            add(&mut x, up * run.options.s_noise, &noise);
        }
        run.report(step, &mut x, &denoised)?;
    }
    Ok(x)
}
