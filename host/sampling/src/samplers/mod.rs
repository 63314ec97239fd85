//! The samplers: straight-line code over three closures (network, noise, step report).
//!
//! Two kinds of latents are in use. *Variance exploding*: x = x₀ + σ·ε, as in k-diffusion; the network sees
//! x/√(σ²+1). *Variance preserving*: x = √ᾱ·x₀ + √(1−ᾱ)·ε, as in DDIM; the network sees x itself.

mod ddim;
mod discrete;
mod dpm_solver;
mod dpmpp;
mod euler;
mod heun;
mod multistep;
mod pndm;
mod restart;
mod sde;
mod unipc;

use crate::run::{Run, Trace};
use crate::schedule::Rule;
use dpmpp::{Form, Multistep};

/// A sampling method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Sampler {
    /// Euler's method (Karras et al. 2022, algorithm 2 with optional churn).
    #[default]
    Euler,
    /// Euler steps with ancestral noise.
    EulerAncestral,
    /// Heun's method (Karras et al. 2022).
    Heun,
    /// DPM-Solver-2 in k-diffusion's form.
    Dpm2,
    /// DPM-Solver-2 with ancestral noise.
    Dpm2Ancestral,
    /// Linear multistep of order 4.
    Lms,
    /// DPM-Solver++(2M) (Lu et al. 2022).
    Dpmpp2m,
    /// DPM-Solver++(2S) with ancestral noise.
    Dpmpp2sAncestral,
    /// DPM-Solver++ SDE.
    DpmppSde,
    /// DPM-Solver++(2M) SDE, midpoint form.
    Dpmpp2mSde,
    /// DPM-Solver++(2M) SDE, Heun form.
    Dpmpp2mSdeHeun,
    /// DPM-Solver++(3M) SDE.
    Dpmpp3mSde,
    /// DDIM (Song et al. 2021); η = 1 makes it stochastic.
    Ddim,
    /// DDPM (Ho et al. 2020).
    Ddpm,
    /// PLMS, the PNDM of Stable Diffusion (Liu et al. 2022).
    Plms,
    /// UniPC with B(h) = h (Zhao et al. 2023).
    UniPcBh1,
    /// UniPC with B(h) = eʰ − 1.
    UniPcBh2,
    /// DEIS (Zhang and Chen 2023).
    Deis,
    /// Latent consistency sampling (Luo et al. 2023), for LCM models and LoRAs.
    Lcm,
    /// Trajectory consistency distillation (Zheng et al. 2024).
    Tcd,
    /// Improved PNDM (Zhang and Chen 2022).
    Ipndm,
    /// Restart sampling (Xu et al. 2023).
    Restart,
    /// DPM-Solver with a fixed budget of evaluations.
    DpmFast,
    /// DPM-Solver-23 with steps chosen by their error.
    DpmAdaptive,
}

impl Sampler {
    /// All samplers, in the order in which they are listed.
    pub const ALL: [Self; 24] = [
        Self::Euler,
        Self::EulerAncestral,
        Self::Heun,
        Self::Dpm2,
        Self::Dpm2Ancestral,
        Self::Lms,
        Self::Dpmpp2m,
        Self::Dpmpp2sAncestral,
        Self::DpmppSde,
        Self::Dpmpp2mSde,
        Self::Dpmpp2mSdeHeun,
        Self::Dpmpp3mSde,
        Self::Ddim,
        Self::Ddpm,
        Self::Plms,
        Self::UniPcBh1,
        Self::UniPcBh2,
        Self::Deis,
        Self::Lcm,
        Self::Tcd,
        Self::Ipndm,
        Self::Restart,
        Self::DpmFast,
        Self::DpmAdaptive,
    ];

    /// Whether the latents of the run are variance preserving.
    pub(crate) fn preserves_variance(self) -> bool {
        matches!(self, Self::Ddim | Self::Ddpm | Self::Plms | Self::Lcm | Self::Tcd)
    }

    /// Whether the images of a batch influence each other (through a common step size). Run them one by one where a
    /// picture must not depend on what it was batched with.
    #[must_use]
    pub fn couples_images(self) -> bool {
        self == Self::DpmAdaptive
    }

    /// How diffusers builds this sampler's timesteps from a model's configuration. Samplers that diffusers does not
    /// have are treated as Euler.
    pub(crate) fn rule(self) -> Rule {
        match self {
            Self::Dpm2 | Self::Dpm2Ancestral => Rule::SigmaWhole,
            Self::Dpmpp2m | Self::Dpmpp2mSde | Self::Dpmpp2mSdeHeun | Self::Dpmpp3mSde => Rule::DpmMultistep,
            Self::UniPcBh1 | Self::UniPcBh2 => Rule::UniPc,
            Self::Deis => Rule::Deis,
            Self::Ddim => Rule::Ddim,
            Self::Plms => Rule::Pndm,
            Self::Ddpm => Rule::Ddpm,
            Self::Lcm => Rule::Lcm,
            Self::Tcd => Rule::Tcd,
            _ => Rule::Sigma,
        }
    }

    pub(crate) fn run<E>(self, run: &mut Run<'_, '_, E>, x: Vec<f32>) -> Trace<E> {
        match self {
            Self::Euler => euler::euler(run, x),
            Self::EulerAncestral => euler::ancestral(run, x),
            Self::Heun => heun::heun(run, x),
            Self::Dpm2 => heun::dpm2(run, x),
            Self::Dpm2Ancestral => heun::dpm2_ancestral(run, x),
            Self::Lms => multistep::lms(run, x),
            Self::Dpmpp2m | Self::Dpmpp2mSde | Self::Dpmpp2mSdeHeun | Self::Dpmpp3mSde => {
                self.multistep(run).run(run, x)
            }
            Self::Dpmpp2sAncestral => sde::single_2_ancestral(run, x),
            Self::DpmppSde => sde::single_sde(run, x),
            Self::Ddim => ddim::ddim(run, x),
            Self::Ddpm => discrete::ddpm(run, x),
            Self::Plms => pndm::plms(run, x),
            Self::UniPcBh1 => unipc::unipc(run, x, unipc::Variant::Bh1),
            Self::UniPcBh2 => unipc::unipc(run, x, unipc::Variant::Bh2),
            Self::Deis => multistep::deis(run, x),
            Self::Lcm => discrete::lcm(run, x),
            Self::Tcd => discrete::tcd(run, x),
            Self::Ipndm => multistep::ipndm(run, x),
            Self::Restart => restart::restart(run, x),
            Self::DpmFast => dpm_solver::fast(run, x),
            Self::DpmAdaptive => dpm_solver::adaptive(run, x),
        }
    }
}

impl Sampler {
    /// The DPM-Solver++ multistep solver of a sampler. With the model's own schedule 2M and 2M SDE take order and form
    /// from its configuration, as diffusers does.
    fn multistep<E>(self, run: &Run<'_, '_, E>) -> Multistep {
        let (order, form, eta) = match self {
            Self::Dpmpp2mSde => (2, Form::Midpoint, 1.0),
            Self::Dpmpp2mSdeHeun => (2, Form::Heun, 1.0),
            Self::Dpmpp3mSde => (3, Form::Heun, 1.0),
            _ => (2, Form::Midpoint, 0.0),
        };
        let plain = Multistep { order, form, eta };
        if !run.is_auto() || matches!(self, Self::Dpmpp2mSdeHeun | Self::Dpmpp3mSde) {
            return plain;
        }
        let config = run.sampling().config();
        let heun = config.solver_type.as_deref() == Some("heun");
        Multistep {
            order: config.solver_order.unwrap_or(order).clamp(1, 3),
            form: if heun { Form::Heun } else { form },
            eta,
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
