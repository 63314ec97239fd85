//! The schedule that a model's `scheduler_config.json` describes, read as the diffusers scheduler classes read it.

use super::{karras, named};
use crate::{Error, Level, ModelSampling, SchedulerConfig};

/// Families of diffusers schedulers that turn a configuration into timesteps in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Euler, Euler a, Heun, LMS and their kin: fractional timesteps, a final sigma.
    Sigma,
    /// KDPM2 and KDPM2 a: as `Sigma`, with whole timesteps for Karras sigmas.
    SigmaWhole,
    /// DPM-Solver multistep: one interval more than there are steps.
    DpmMultistep,
    /// UniPC: as DPM-Solver.
    UniPc,
    /// DEIS: as DPM-Solver, always ending at the smallest training sigma.
    Deis,
    /// DDIM: steps of a fixed stride in the training schedule.
    Ddim,
    /// PNDM: as DDIM, ending by default at the noise level of timestep 0.
    Pndm,
    /// DDPM: from each timestep to the next, ending clean.
    Ddpm,
    /// LCM: a subset of the schedule the model was distilled with, ending clean.
    Lcm,
    /// TCD: as LCM, ending at the noise level of timestep 0.
    Tcd,
}

impl Rule {
    /// Whether diffusers' class is a multistep solver on variance-preserving latents.
    pub(crate) fn is_multistep(self) -> bool {
        matches!(self, Self::DpmMultistep | Self::UniPc | Self::Deis)
    }
}

/// Levels of a run, as a scheduler class of diffusers would visit them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AutoLevels {
    /// Where each step starts, then where the last one ends: `steps + 1` levels.
    pub(crate) levels: Vec<Level>,
    /// The sigma at which each step arrives. It differs from the start of the next step only for DDIM and PNDM with a
    /// number of steps that does not divide the training schedule.
    pub(crate) arrivals: Vec<f64>,
    /// Size of the initial noise, relative to variance-exploding latents.
    pub(crate) initial_noise: f64,
}

/// Builds the levels of `steps` steps.
pub(crate) fn auto(rule: Rule, model: &ModelSampling, steps: usize) -> Result<AutoLevels, Error> {
    let config = model.config();
    match rule {
        Rule::Sigma | Rule::SigmaWhole | Rule::DpmMultistep | Rule::UniPc | Rule::Deis => {
            sigma_levels(rule, model, config, steps)
        }
        Rule::Ddim | Rule::Pndm | Rule::Ddpm => strided(rule, model, config, steps),
        Rule::Lcm | Rule::Tcd => distilled(rule, model, config, steps),
    }
}

fn sigma_levels(
    rule: Rule,
    model: &ModelSampling,
    config: &SchedulerConfig,
    steps: usize,
) -> Result<AutoLevels, Error> {
    let spacing = Spacing::of(config, Spacing::Linspace)?;
    let multistep = rule.is_multistep();
    if multistep && steps >= model.train_timesteps() {
        return Err(Error::Steps { steps, max: model.train_timesteps() - 1 });
    }
    let timesteps = if multistep {
        // One more interval; its last point would be timestep 0 and is left out. Trailing knows no such point.
        let mut t = spacing.timesteps(model, config, if spacing == Spacing::Trailing { steps } else { steps + 1 })?;
        t.truncate(steps);
        t.iter().map(|t| t.round_ties_even()).collect()
    } else {
        spacing.timesteps(model, config, steps)?
    };
    let mut levels: Vec<Level> =
        timesteps.iter().map(|t| Level { timestep: *t, sigma: model.sigma_linear(*t) }).collect();

    let ends =
        if multistep { (model.sigma_min(), model.sigma_max()) } else { (levels[steps - 1].sigma, levels[0].sigma) };
    let (min, max) = (config.sigma_min.unwrap_or(ends.0), config.sigma_max.unwrap_or(ends.1));
    let lu = rule == Rule::DpmMultistep && config.use_lu_lambdas == Some(true);
    let spaced = if config.use_karras_sigmas == Some(true) {
        Some(karras(steps, min, max))
    } else if config.use_exponential_sigmas == Some(true) || lu {
        Some(named::exponential(steps, min, max))
    } else if config.use_beta_sigmas == Some(true) {
        Some(named::beta(steps, min, max))
    } else {
        None
    };
    if let Some(sigmas) = &spaced {
        let cosine = config.beta_schedule.as_deref() == Some("squaredcos_cap_v2");
        let karras = config.use_karras_sigmas == Some(true) || lu;
        let whole = match rule {
            Rule::Sigma => false,
            Rule::SigmaWhole => karras,
            Rule::DpmMultistep => !karras || !cosine,
            _ => true,
        };
        let timestep =
            |sigma: &f64| if whole { whole_timestep(model.timestep(*sigma), karras) } else { model.timestep(*sigma) };
        levels = sigmas.iter().map(|sigma| Level { timestep: timestep(sigma), sigma: *sigma }).collect();
    }

    let ends_noisy = match config.final_sigmas_type.as_deref() {
        None | Some("zero") => false,
        Some("sigma_min") => true,
        Some(other) => {
            let problem = format!("is `{other}`; known are zero and sigma_min");
            return Err(Error::Config { field: "final_sigmas_type", problem });
        }
    };
    let last = match rule {
        Rule::Deis => {
            if spaced.is_some() {
                levels[steps - 1].sigma
            } else {
                model.sigma_min()
            }
        }
        Rule::UniPc if spaced.is_some() && ends_noisy => levels[steps - 1].sigma,
        _ if ends_noisy => model.sigma_min(),
        _ => 0.0,
    };
    levels.push(Level { timestep: 0.0, sigma: last });

    let largest = levels.iter().map(|level| level.sigma).fold(0.0, f64::max);
    let unit_variance = multistep || spacing == Spacing::Leading;
    let initial_noise = if unit_variance { (largest * largest + 1.0).sqrt() } else { largest };
    Ok(AutoLevels { arrivals: levels[1..].iter().map(|level| level.sigma).collect(), levels, initial_noise })
}

/// diffusers rounds Karras timesteps and truncates the others when it stores them as integers.
fn whole_timestep(t: f64, rounded: bool) -> f64 {
    if rounded { t.round_ties_even() } else { t.trunc() }
}

fn strided(rule: Rule, model: &ModelSampling, config: &SchedulerConfig, steps: usize) -> Result<AutoLevels, Error> {
    let timesteps: Vec<f64> = Spacing::of(config, Spacing::Leading)?
        .timesteps(model, config, steps)?
        .iter()
        .map(|t| t.round_ties_even())
        .collect();
    let clean = config.set_alpha_to_one.unwrap_or(rule != Rule::Pndm) || rule == Rule::Ddpm;
    let end = if clean { 0.0 } else { model.sigma_min() };
    let stride = (model.train_timesteps() / steps) as f64;
    let arrivals = (0..steps)
        .map(|i| match (rule, timesteps.get(i + 1)) {
            (Rule::Ddpm, Some(next)) => model.whole_sigma(*next),
            (Rule::Ddpm, None) => end,
            // PNDM does its first step twice, the second time to where the next one starts.
            (Rule::Pndm, Some(next)) if i == 0 => model.whole_sigma(*next),
            _ if timesteps[i] - stride >= 0.0 => model.whole_sigma(timesteps[i] - stride),
            _ => end,
        })
        .collect();
    Ok(vp_levels(model, &timesteps, arrivals))
}

fn distilled(rule: Rule, model: &ModelSampling, config: &SchedulerConfig, steps: usize) -> Result<AutoLevels, Error> {
    let original = config.original_inference_steps.unwrap_or(50).clamp(1, model.train_timesteps());
    if steps > original {
        return Err(Error::Steps { steps, max: original });
    }
    let stride = model.train_timesteps() / original;
    let pick = |i: usize| original - (i as f64 * (original as f64 / steps as f64)) as usize;
    let timesteps: Vec<f64> = (0..steps).map(|i| (pick(i) * stride - 1) as f64).collect();
    let end = if rule == Rule::Tcd { model.sigma_min() } else { 0.0 };
    let arrivals = (0..steps).map(|i| timesteps.get(i + 1).map_or(end, |t| model.whole_sigma(*t))).collect();
    Ok(vp_levels(model, &timesteps, arrivals))
}

fn vp_levels(model: &ModelSampling, timesteps: &[f64], arrivals: Vec<f64>) -> AutoLevels {
    let mut levels: Vec<Level> =
        timesteps.iter().map(|t| Level { timestep: *t, sigma: model.whole_sigma(*t) }).collect();
    levels.push(Level { timestep: 0.0, sigma: arrivals.last().copied().unwrap_or(0.0) });
    AutoLevels { levels, arrivals, initial_noise: 1.0 }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spacing {
    Leading,
    Trailing,
    Linspace,
}

impl Spacing {
    fn of(config: &SchedulerConfig, default: Self) -> Result<Self, Error> {
        match config.timestep_spacing.as_deref() {
            None => Ok(default),
            Some("leading") => Ok(Self::Leading),
            Some("trailing") => Ok(Self::Trailing),
            Some("linspace") => Ok(Self::Linspace),
            Some(other) => {
                let problem = format!("is `{other}`; known are leading, trailing and linspace");
                Err(Error::Config { field: "timestep_spacing", problem })
            }
        }
    }

    /// `n` falling timesteps.
    fn timesteps(self, model: &ModelSampling, config: &SchedulerConfig, n: usize) -> Result<Vec<f64>, Error> {
        let train = model.train_timesteps();
        if n > train {
            return Err(Error::Steps { steps: n, max: train });
        }
        let last = (train - 1) as f64;
        let falling = |i: usize| match self {
            Self::Leading => {
                let offset = config.steps_offset.unwrap_or(0) as f64;
                (((n - 1 - i) * (train / n)) as f64 + offset).clamp(0.0, last)
            }
            Self::Trailing => {
                ((train as f64 - i as f64 * (train as f64 / n as f64)).round_ties_even() - 1.0).clamp(0.0, last)
            }
            // diffusers keeps these in float32.
            // diffusers would start a single step at timestep 0, where there is nothing to do.
            Self::Linspace if n == 1 => last,
            Self::Linspace => f64::from(((n - 1 - i) as f64 * (last / (n - 1) as f64)) as f32),
        };
        Ok((0..n).map(falling).collect())
    }
}
