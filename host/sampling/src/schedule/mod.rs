//! Schedules: which noise levels a run visits.

mod auto;
mod beta;
mod named;

pub(crate) use auto::{Rule, auto};
pub(crate) use named::{karras, levels, named};

/// How the noise levels of a run are spaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Schedule {
    /// What the model's `scheduler_config.json` says, read as diffusers reads it for the sampler at hand.
    #[default]
    Auto,
    /// Even in the timestep, from the last to the first.
    Normal,
    /// Training sigmas picked at even distances.
    Simple,
    /// Karras et al. (2022) with ρ = 7.
    Karras,
    /// Even in log σ.
    Exponential,
    /// Even in (log σ)^ρ with ρ = 1 (k-diffusion's default, which makes it equal to exponential).
    PolyExponential,
    /// Even in the timestep, without the first one: as Stability's own code, "trailing".
    SgmUniform,
    /// Every k-th timestep from 1: as the DDIM of the original Stable Diffusion code.
    DdimUniform,
    /// Quantiles of a beta distribution (Lee et al. 2024).
    Beta,
    /// Align Your Steps, table for SD 1.5 (Sabour et al. 2024).
    AlignYourSteps,
    /// Align Your Steps, table for SDXL.
    AlignYourStepsXl,
    /// Even in arctan σ, from the analysis of the KL divergence.
    KlOptimal,
}

impl Schedule {
    /// All schedules, in the order in which they are listed.
    pub const ALL: [Self; 12] = [
        Self::Auto,
        Self::Normal,
        Self::Simple,
        Self::Karras,
        Self::Exponential,
        Self::PolyExponential,
        Self::SgmUniform,
        Self::DdimUniform,
        Self::Beta,
        Self::AlignYourSteps,
        Self::AlignYourStepsXl,
        Self::KlOptimal,
    ];
}
