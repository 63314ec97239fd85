//! Second-order single-step methods: Heun and DPM-Solver-2.

use super::ancestral_step;
use super::euler::line;
use crate::level::Level;
use crate::run::{Run, Trace};
use crate::vector::{add, sum};

/// Karras et al. (2022), algorithm 2: an Euler step corrected by the slope at its end.
pub(crate) fn heun<E>(run: &mut Run<'_, '_, E>, mut x: Vec<f32>) -> Trace<E> {
    for step in run.steps() {
        let to = run.level(step + 1);
        let from = run.churn(step, &mut x);
        let (next, denoised) = heun_step(run, &x, from, to, step)?;
        x = next;
        run.report(step, &mut x, &denoised)?;
    }
    Ok(x)
}

/// One Heun step (an Euler step if it ends at 0): the new latents, and x₀ as estimated at the start.
pub(super) fn heun_step<E>(
    run: &mut Run<'_, '_, E>,
    x: &[f32],
    from: Level,
    to: Level,
    step: usize,
) -> Result<(Vec<f32>, Vec<f32>), E> {
    let denoised = run.denoise(x, from, step)?;
    let euler = line(x, &denoised, from.sigma, to.sigma);
    if to.sigma == 0.0 {
        return Ok((euler, denoised));
    }
    let corrected = run.denoise(&euler, to, step)?;
    // x + Δσ·(d₁ + d₂)/2 with d = (x − x₀)/σ.
    let half = 0.5 * (to.sigma - from.sigma);
    let (first, second) = (half / from.sigma, half / to.sigma);
    let next = sum([(1.0 + first, x), (-first, &denoised), (second, &euler), (-second, &corrected)]);
    Ok((next, denoised))
}

/// DPM-Solver-2 as in k-diffusion: the slope at the geometric middle.
pub(crate) fn dpm2<E>(run: &mut Run<'_, '_, E>, mut x: Vec<f32>) -> Trace<E> {
    for step in run.steps() {
        let to = run.level(step + 1).sigma;
        let from = run.churn(step, &mut x);
        let denoised = run.denoise(&x, from, step)?;
        x = middle_slope(run, &x, &denoised, from, to, step)?;
        run.report(step, &mut x, &denoised)?;
    }
    Ok(x)
}

/// DPM-Solver-2 with ancestral noise.
pub(crate) fn dpm2_ancestral<E>(run: &mut Run<'_, '_, E>, mut x: Vec<f32>) -> Trace<E> {
    let eta = run.options.eta.unwrap_or(1.0);
    for step in run.steps() {
        let (from, to) = (run.level(step), run.level(step + 1).sigma);
        let denoised = run.denoise(&x, from, step)?;
        let (down, up) = ancestral_step(from.sigma, to, eta);
        x = middle_slope(run, &x, &denoised, from, down, step)?;
        if up > 0.0 {
            let noise = run.fresh_noise(step);
            add(&mut x, up * run.options.s_noise, &noise);
        }
        run.report(step, &mut x, &denoised)?;
    }
    Ok(x)
}

fn middle_slope<E>(
    run: &mut Run<'_, '_, E>,
    x: &[f32],
    denoised: &[f32],
    from: Level,
    to: f64,
    step: usize,
) -> Trace<E> {
    if to == 0.0 {
        return Ok(line(x, denoised, from.sigma, to));
    }
    let middle = run.level_at((from.sigma * to).sqrt());
    let between = line(x, denoised, from.sigma, middle.sigma);
    let there = run.denoise(&between, middle, step)?;
    let slope = (to - from.sigma) / middle.sigma;
    Ok(sum([(1.0, x), (slope, &between), (-slope, &there)]))
}
