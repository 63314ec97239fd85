//! DDPM, LCM and TCD: stochastic steps on variance-preserving latents.

use crate::level::{alpha, noise};
use crate::run::{Run, Trace};
use crate::vector::{add, sum};

/// Ancestral sampling with the posterior of the forward process (Ho et al. 2020, equation 7, "fixed small" variance).
pub(crate) fn ddpm<E>(run: &mut Run<'_, '_, E>, mut x: Vec<f32>) -> Trace<E> {
    for step in run.steps() {
        let (from, to) = (run.level(step), run.arrival(step));
        let (denoised, _) = run.predict(&x, from, step)?;
        let (signal_from, signal_to) = (from.alpha().powi(2), alpha(to).powi(2));
        let beta = 1.0 - signal_from / signal_to;
        let (noise_from, noise_to) = (from.noise().powi(2), noise(to).powi(2));
        x = sum([(alpha(to) * beta / noise_from, &denoised), ((1.0 - beta).sqrt() * noise_to / noise_from, &x)]);
        let variance = noise_to / noise_from * beta;
        if variance > 0.0 {
            let noise = run.fresh_noise(step);
            add(&mut x, variance.sqrt() * run.options.s_noise, &noise);
        }
        run.report(step, &mut x, &denoised)?;
    }
    Ok(x)
}

/// Multistep consistency sampling (Luo et al. 2023): jump to the clean latents, add new noise.
///
/// With the model's own schedule the jump keeps the boundary condition of the distilled function (f(x, 0) = x), as in
/// diffusers; named schedules go without it, as in ComfyUI.
pub(crate) fn lcm<E>(run: &mut Run<'_, '_, E>, mut x: Vec<f32>) -> Trace<E> {
    const SIGMA_DATA: f64 = 0.5;
    let scaling = run.sampling().config().timestep_scaling.unwrap_or(10.0);
    for step in run.steps() {
        let (from, to) = (run.level(step), run.arrival(step));
        let (predicted, _) = run.predict(&x, from, step)?;
        let denoised = if run.is_auto() {
            let t = from.timestep * scaling;
            let size = t * t + SIGMA_DATA * SIGMA_DATA;
            sum([(t / size.sqrt(), &predicted), (SIGMA_DATA * SIGMA_DATA / size, &x)])
        } else {
            predicted
        };
        x = if to > 0.0 {
            let fresh = run.fresh_noise(step);
            sum([(alpha(to), &denoised), (noise(to) * run.options.s_noise, &fresh)])
        } else {
            denoised.clone()
        };
        run.report(step, &mut x, &denoised)?;
    }
    Ok(x)
}

/// Trajectory consistency distillation (Zheng et al. 2024): jump to a level below the next one, add noise up to it.
/// η (the paper's γ) says how far below: 0 is deterministic, 1 is multistep consistency sampling.
pub(crate) fn tcd<E>(run: &mut Run<'_, '_, E>, mut x: Vec<f32>) -> Trace<E> {
    let eta = run.options.eta.unwrap_or(0.3).min(1.0);
    for step in run.steps() {
        let (from, to) = (run.level(step), run.arrival(step));
        let (denoised, epsilon) = run.predict(&x, from, step)?;
        let last = run.steps_left(step) == 1;
        let below = if last || to == 0.0 {
            to
        } else {
            run.sampling().whole_sigma((1.0 - eta) * run.level(step + 1).timestep).min(to)
        };
        x = sum([(alpha(below), &denoised), (noise(below), &epsilon)]);
        if eta > 0.0 && !last {
            let fresh = run.fresh_noise(step);
            let kept = alpha(to) / alpha(below);
            x = sum([(kept, &x), ((1.0 - kept * kept).max(0.0).sqrt() * run.options.s_noise, &fresh)]);
        }
        run.report(step, &mut x, &denoised)?;
    }
    Ok(x)
}
