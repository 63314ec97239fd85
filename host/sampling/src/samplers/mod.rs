//! The samplers: straight-line code over three closures (network, noise, step report).
//!
//! Two kinds of latents are in use. *Variance exploding*: x = x₀ + σ·ε, as in k-diffusion; the network sees
//! x/√(σ²+1). *Variance preserving*: x = √ᾱ·x₀ + √(1−ᾱ)·ε, as in DDIM; the network sees x itself.

mod ddim;
mod dpmpp;
mod euler;

use crate::run::{Run, Trace};
use crate::schedule::Rule;

/// A sampling method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Sampler {
    /// Euler's method (Karras et al. 2022, algorithm 2 with optional churn).
    #[default]
    Euler,
    /// Euler steps with ancestral noise.
    EulerAncestral,
    /// DDIM (Song et al. 2021); η = 1 makes it stochastic.
    Ddim,
    /// DPM-Solver++(2M) (Lu et al. 2022).
    Dpmpp2m,
}

impl Sampler {
    /// Whether the latents of the run are variance preserving.
    pub(crate) fn preserves_variance(self) -> bool {
        matches!(self, Self::Ddim)
    }

    /// How diffusers builds this sampler's timesteps from a model's configuration.
    pub(crate) fn rule(self) -> Rule {
        match self {
            Self::Ddim => Rule::Ddim,
            Self::Dpmpp2m => Rule::DpmMultistep,
            _ => Rule::Sigma,
        }
    }

    pub(crate) fn run<E>(self, run: &mut Run<'_, '_, E>, x: Vec<f32>) -> Trace<E> {
        match self {
            Self::Euler => euler::euler(run, x),
            Self::EulerAncestral => euler::ancestral(run, x),
            Self::Ddim => ddim::ddim(run, x),
            Self::Dpmpp2m => dpmpp::multistep_2(run, x),
        }
    }
}

/// Splits a step from `from` to `to` into a deterministic step down and noise that is added back
/// (k-diffusion's `get_ancestral_step`): the sigma to step down to, and the size of the noise.
pub(crate) fn ancestral_step(from: f64, to: f64, eta: f64) -> (f64, f64) {
    if eta == 0.0 {
        return (to, 0.0);
    }
    let up = to.min(eta * (to * to * (from * from - to * to) / (from * from)).max(0.0).sqrt());
    ((to * to - up * up).max(0.0).sqrt(), up)
}
