//! Denoising diffusion implicit models (Song et al. 2021), on variance-preserving latents.

use crate::level::{alpha, noise};
use crate::run::{Run, Trace};
use crate::vector::{add, sum};

/// DDIM with η (0 deterministic, 1 as noisy as DDPM), equations 12 and 16.
pub(crate) fn ddim<E>(run: &mut Run<'_, '_, E>, mut x: Vec<f32>) -> Trace<E> {
    let eta = run.options.eta.unwrap_or(0.0);
    for step in run.steps() {
        let (from, to) = (run.level(step), run.arrival(step));
        let (denoised, epsilon) = run.predict(&x, from, step)?;
        // σ(η)² = η²·(1−ᾱ')/(1−ᾱ)·(1−ᾱ/ᾱ')
        let (signal_from, signal_to) = (from.alpha().powi(2), alpha(to).powi(2));
        let variance = noise(to).powi(2) / from.noise().powi(2) * (1.0 - signal_from / signal_to);
        let deviation = eta * variance.max(0.0).sqrt();
        let direction = (noise(to).powi(2) - deviation * deviation).max(0.0).sqrt();
        x = sum([(alpha(to), &denoised), (direction, &epsilon)]);
        if eta > 0.0 {
            let noise = run.fresh_noise(step);
            add(&mut x, deviation, &noise);
        }
        run.report(step, &mut x, &denoised)?;
    }
    Ok(x)
}
