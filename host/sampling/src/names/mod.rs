//! One table for the names of samplers and schedules: ours, A1111's labels (also joined ones such as
//! "DPM++ 2M Karras"), k-diffusion's, ComfyUI's, InvokeAI's, stable-diffusion.cpp's and diffusers' class names.

mod suggest;
mod table;

pub use table::{SamplerInfo, ScheduleInfo};

use crate::{Error, Sampler, Schedule, SchedulerConfig};
use suggest::{closest, key, shorten};
use table::{AUTOMATIC, PRESETS, SAMPLERS, SCHEDULES};

/// What a pair of names means.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// The sampler.
    pub sampler: Sampler,
    /// The schedule.
    pub schedule: Schedule,
    /// η, where the sampler's name implies one.
    pub eta: Option<f64>,
}

/// All samplers, for a listing.
#[must_use]
pub fn samplers() -> &'static [SamplerInfo] {
    &SAMPLERS
}

/// All schedules, for a listing.
#[must_use]
pub fn schedules() -> &'static [ScheduleInfo] {
    &SCHEDULES
}

/// Resolves the names of a request.
///
/// A schedule that is named wins. Else the one that the sampler's name carries ("DPM++ 2M Karras", InvokeAI's
/// `dpmpp_2m_k`) is taken, else the model's own. "automatic" is A1111's: the schedule that suits the sampler.
///
/// # Errors
/// [`Error::UnknownSampler`] and [`Error::UnknownSchedule`], with the closest names.
pub fn resolve(sampler: &str, schedule: Option<&str>) -> Result<Choice, Error> {
    let (found, implied, eta) = find_sampler(sampler).ok_or_else(|| unknown_sampler(sampler))?;
    let schedule = match schedule.map(|name| (name, key(name))) {
        Some((_, key)) if key == AUTOMATIC => implied.unwrap_or(found.info().default_schedule),
        Some((name, key)) => find_schedule(&key).ok_or_else(|| unknown_schedule(name))?,
        None => implied.unwrap_or_default(),
    };
    Ok(Choice { sampler: found, schedule, eta })
}

/// The schedule of a name alone; "automatic" is the model's own.
///
/// # Errors
/// [`Error::UnknownSchedule`], with the closest names.
pub fn schedule(name: &str) -> Result<Schedule, Error> {
    let key = key(name);
    if key == AUTOMATIC {
        return Ok(Schedule::Auto);
    }
    find_schedule(&key).ok_or_else(|| unknown_schedule(name))
}

/// The sampler that a model's `scheduler_config.json` names, if it is one of ours.
#[must_use]
pub fn model_sampler(config: &SchedulerConfig) -> Option<Sampler> {
    let (sampler, _, _) = find_sampler(config.class_name.as_deref()?)?;
    Some(match sampler {
        Sampler::Dpmpp2m if config.algorithm_type.as_deref() == Some("sde-dpmsolver++") => Sampler::Dpmpp2mSde,
        Sampler::UniPcBh2 if config.solver_type.as_deref() == Some("bh1") => Sampler::UniPcBh1,
        other => other,
    })
}

impl Sampler {
    /// The sampler's row in the table of names.
    #[must_use]
    pub fn info(self) -> &'static SamplerInfo {
        // Every sampler has a row (a test says so).
        SAMPLERS.iter().find(|info| info.sampler == self).unwrap_or(&SAMPLERS[0])
    }

    /// Its name in our own API.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.info().name
    }
}

impl Schedule {
    /// The schedule's row in the table of names.
    #[must_use]
    pub fn info(self) -> &'static ScheduleInfo {
        SCHEDULES.iter().find(|info| info.schedule == self).unwrap_or(&SCHEDULES[0])
    }

    /// Its name in our own API.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.info().name
    }
}

type Found = (Sampler, Option<Schedule>, Option<f64>);

fn find_sampler(name: &str) -> Option<Found> {
    let name = name.trim();
    if let Some(found) = plain_sampler(name) {
        return Some(found);
    }
    // InvokeAI: `_k` is Karras.
    let without = name.strip_suffix("_k").or_else(|| name.strip_suffix("_K"));
    if let Some((sampler, None, eta)) = without.and_then(plain_sampler) {
        return Some((sampler, Some(Schedule::Karras), eta));
    }
    // A1111 before 1.9: the schedule's label at the end.
    for (at, _) in name.char_indices().filter(|(_, c)| *c == ' ') {
        let (front, back) = (&name[..at], &name[at + 1..]);
        if let (Some((sampler, None, eta)), Some(schedule)) = (plain_sampler(front), find_schedule(&key(back))) {
            return Some((sampler, Some(schedule), eta));
        }
    }
    None
}

fn plain_sampler(name: &str) -> Option<Found> {
    let wanted = key(name);
    // The same letters mean different things to ComfyUI (`uni_pc`) and to others (`unipc`): exact spelling first.
    let exact =
        |info: &&SamplerInfo| [info.name].iter().chain(info.aliases).any(|alias| alias.eq_ignore_ascii_case(name));
    let spelled =
        |info: &&SamplerInfo| [info.name, info.label].iter().chain(info.aliases).any(|alias| key(alias) == wanted);
    if let Some(preset) = PRESETS.iter().find(|preset| key(preset.name) == wanted) {
        return Some((preset.sampler, preset.schedule, preset.eta));
    }
    // Our own names before aliases that are spelled alike.
    let own = |info: &&SamplerInfo| key(info.name) == wanted;
    let mut rows = SAMPLERS.iter();
    let row = rows.clone().find(exact).or_else(|| rows.clone().find(own)).or_else(|| rows.find(spelled))?;
    Some((row.sampler, None, None))
}

fn find_schedule(key_wanted: &str) -> Option<Schedule> {
    let matches =
        |info: &&ScheduleInfo| [info.name, info.label].iter().chain(info.aliases).any(|alias| key(alias) == key_wanted);
    SCHEDULES.iter().find(matches).map(|info| info.schedule)
}

fn unknown_sampler(name: &str) -> Error {
    let names = SAMPLERS.iter().map(|info| (info.name, [info.label].into_iter().chain(info.aliases.iter().copied())));
    Error::UnknownSampler { name: shorten(name), closest: closest(name, names) }
}

fn unknown_schedule(name: &str) -> Error {
    let names = SCHEDULES.iter().map(|info| (info.name, [info.label].into_iter().chain(info.aliases.iter().copied())));
    Error::UnknownSchedule { name: shorten(name), closest: closest(name, names) }
}
