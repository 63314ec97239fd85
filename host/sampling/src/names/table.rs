//! Every name of every sampler and schedule that clients send.

use crate::{Sampler, Schedule};

/// A sampler as it is listed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerInfo {
    /// The sampler.
    pub sampler: Sampler,
    /// Its name in our own API.
    pub name: &'static str,
    /// Its label in A1111's list (or one in that style).
    pub label: &'static str,
    /// Names that other programs use. Case, spaces, `_`, `-` and a leading `k_` never matter, and `++` is `pp`.
    pub aliases: &'static [&'static str],
    /// The schedule that A1111's "Automatic" stands for.
    pub default_schedule: Schedule,
    /// Fields of [`Options`](crate::Options) that it heeds.
    pub options: &'static [&'static str],
}

/// A schedule as it is listed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScheduleInfo {
    /// The schedule.
    pub schedule: Schedule,
    /// Its name in our own API.
    pub name: &'static str,
    /// Its label in A1111's list (or one in that style).
    pub label: &'static str,
    /// Names that other programs use.
    pub aliases: &'static [&'static str],
}

/// An alias that means more than a sampler.
pub(super) struct Preset {
    pub(super) name: &'static str,
    pub(super) sampler: Sampler,
    pub(super) schedule: Option<Schedule>,
    pub(super) eta: Option<f64>,
}

const NOISE: &[&str] = &["eta", "s_noise"];
const CHURN: &[&str] = &["s_churn", "s_tmin", "s_tmax", "s_noise"];

const fn row(
    sampler: Sampler,
    name: &'static str,
    label: &'static str,
    aliases: &'static [&'static str],
    default_schedule: Schedule,
    options: &'static [&'static str],
) -> SamplerInfo {
    SamplerInfo { sampler, name, label, aliases, default_schedule, options }
}

use Sampler as S;
use Schedule::{Exponential, Karras, Normal};

/// One row per sampler.
pub(super) const SAMPLERS: [SamplerInfo; 24] = [
    row(S::Euler, "euler", "Euler", &["k_euler", "EulerDiscreteScheduler"], Normal, CHURN),
    row(
        S::EulerAncestral,
        "euler_a",
        "Euler a",
        &["k_euler_a", "euler_ancestral", "k_euler_ancestral", "EulerAncestralDiscreteScheduler"],
        Normal,
        NOISE,
    ),
    row(S::Heun, "heun", "Heun", &["k_heun", "HeunDiscreteScheduler"], Normal, CHURN),
    row(S::Dpm2, "dpm2", "DPM2", &["dpm_2", "k_dpm_2", "kdpm_2", "KDPM2DiscreteScheduler"], Karras, CHURN),
    row(
        S::Dpm2Ancestral,
        "dpm2_a",
        "DPM2 a",
        &[
            "dpm_2_a",
            "k_dpm_2_a",
            "dpm_2_ancestral",
            "k_dpm_2_ancestral",
            "kdpm_2_a",
            "KDPM2AncestralDiscreteScheduler",
        ],
        Karras,
        NOISE,
    ),
    row(S::Lms, "lms", "LMS", &["k_lms", "ipndm_v", "LMSDiscreteScheduler"], Normal, &[]),
    row(
        S::Dpmpp2m,
        "dpmpp_2m",
        "DPM++ 2M",
        &["k_dpmpp_2m", "dpm++2m", "dpm++2mv2", "DPMSolverMultistepScheduler"],
        Karras,
        &[],
    ),
    row(
        S::Dpmpp2sAncestral,
        "dpmpp_2s_a",
        "DPM++ 2S a",
        &["k_dpmpp_2s_a", "dpmpp_2s_ancestral", "dpm++2s_a"],
        Karras,
        NOISE,
    ),
    row(
        S::DpmppSde,
        "dpmpp_sde",
        "DPM++ SDE",
        &["k_dpmpp_sde", "dpmpp_sde_gpu", "DPMSolverSDEScheduler"],
        Karras,
        NOISE,
    ),
    row(
        S::Dpmpp2mSde,
        "dpmpp_2m_sde",
        "DPM++ 2M SDE",
        &["k_dpmpp_2m_sde", "dpmpp_2m_sde_gpu", "dpm++2m_sde", "dpm++2m_sde_bt"],
        Exponential,
        NOISE,
    ),
    row(
        S::Dpmpp2mSdeHeun,
        "dpmpp_2m_sde_heun",
        "DPM++ 2M SDE Heun",
        &["k_dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu"],
        Exponential,
        NOISE,
    ),
    row(S::Dpmpp3mSde, "dpmpp_3m_sde", "DPM++ 3M SDE", &["k_dpmpp_3m_sde", "dpmpp_3m_sde_gpu"], Exponential, NOISE),
    row(S::Ddim, "ddim", "DDIM", &["DDIMScheduler"], Normal, &["eta"]),
    row(S::Ddpm, "ddpm", "DDPM", &["DDPMScheduler"], Normal, &["s_noise"]),
    row(S::Plms, "plms", "PLMS", &["pndm", "PNDMScheduler"], Normal, &[]),
    row(S::UniPcBh1, "unipc_bh1", "UniPC bh1", &["uni_pc"], Normal, &[]),
    row(S::UniPcBh2, "unipc", "UniPC", &["uni_pc_bh2", "unipc_bh2", "UniPCMultistepScheduler"], Normal, &[]),
    row(S::Deis, "deis", "DEIS", &["DEISMultistepScheduler"], Normal, &[]),
    row(S::Lcm, "lcm", "LCM", &["LCMScheduler"], Normal, &["s_noise"]),
    row(S::Tcd, "tcd", "TCD", &["TCDScheduler"], Normal, NOISE),
    row(S::Ipndm, "ipndm", "IPNDM", &["IPNDMScheduler"], Normal, &[]),
    row(S::Restart, "restart", "Restart", &[], Karras, &["s_noise"]),
    row(S::DpmFast, "dpm_fast", "DPM fast", &["k_dpm_fast"], Normal, NOISE),
    row(S::DpmAdaptive, "dpm_adaptive", "DPM adaptive", &["k_dpm_ad", "k_dpm_adaptive"], Normal, NOISE),
];

/// Names that also set a schedule or η.
pub(super) const PRESETS: [Preset; 4] = [
    // stable-diffusion.cpp.
    Preset { name: "ddim_trailing", sampler: S::Ddim, schedule: Some(Schedule::SgmUniform), eta: None },
    // InvokeAI and diffusers: the solvers without noise.
    Preset { name: "dpmpp_2s", sampler: S::Dpmpp2sAncestral, schedule: None, eta: Some(0.0) },
    Preset { name: "DPMSolverSinglestepScheduler", sampler: S::Dpmpp2sAncestral, schedule: None, eta: Some(0.0) },
    Preset { name: "dpmpp_3m", sampler: S::Dpmpp3mSde, schedule: None, eta: Some(0.0) },
];

const fn schedule(
    schedule: Schedule,
    name: &'static str,
    label: &'static str,
    aliases: &'static [&'static str],
) -> ScheduleInfo {
    ScheduleInfo { schedule, name, label, aliases }
}

/// One row per schedule.
pub(super) const SCHEDULES: [ScheduleInfo; 12] = [
    schedule(Schedule::Auto, "auto", "Model's own", &["default", "model"]),
    schedule(Normal, "normal", "Normal", &["discrete", "uniform"]),
    schedule(Schedule::Simple, "simple", "Simple", &[]),
    schedule(Karras, "karras", "Karras", &[]),
    schedule(Exponential, "exponential", "Exponential", &[]),
    schedule(Schedule::PolyExponential, "polyexponential", "Polyexponential", &[]),
    schedule(Schedule::SgmUniform, "sgm_uniform", "SGM Uniform", &["trailing", "turbo"]),
    schedule(Schedule::DdimUniform, "ddim_uniform", "DDIM", &["ddim", "leading"]),
    schedule(Schedule::Beta, "beta", "Beta", &[]),
    schedule(Schedule::AlignYourSteps, "align_your_steps", "Align Your Steps", &["ays", "ays_sd15"]),
    schedule(Schedule::AlignYourStepsXl, "align_your_steps_xl", "Align Your Steps XL", &["ays_xl", "ays_sdxl"]),
    schedule(Schedule::KlOptimal, "kl_optimal", "KL Optimal", &[]),
];

/// A1111's name for "whatever suits the sampler".
pub(super) const AUTOMATIC: &str = "automatic";
