//! Names of samplers and schedules, as requests use them.

use crate::fault::Fault;
use sd_models::ResolvedModel;
use sd_sampling::{
    Schedule,
    names::{self, Choice},
};
use serde_json::{Value, json};

impl From<sd_sampling::Error> for Fault {
    fn from(error: sd_sampling::Error) -> Self {
        let field = match error.code() {
            "steps_out_of_range" => "steps",
            "no_steps_left" => "strength",
            "unknown_schedule" => "schedule",
            "bad_sigmas" => "sigmas",
            "value_out_of_range" => return Fault::new(crate::fault::FaultCode::InvalidRequest, error.to_string()),
            "bad_scheduler_config" => {
                return Fault::new(crate::fault::FaultCode::ModelInvalid, error.to_string()).about("model");
            }
            _ => "sampler",
        };
        Fault::field(field, error.to_string())
    }
}

/// Canonical names, and the stochasticity that a sampler's name implies.
#[derive(Debug, Default)]
pub(crate) struct Chosen {
    pub(crate) sampler: String,
    pub(crate) schedule: String,
    pub(crate) eta: Option<f64>,
}

/// The canonical names of a sampler and a schedule. Without a sampler the model's own is taken; old joined names such as
/// "DPM++ 2M Karras" carry their schedule with them.
pub(crate) fn resolve(sampler: Option<&str>, schedule: Option<&str>, model: &ResolvedModel) -> Result<Chosen, Fault> {
    let own = model.defaults.sampler.as_str();
    let chosen = choice(sampler.filter(|s| !s.is_empty()).unwrap_or(own), schedule.filter(|s| !s.is_empty()))?;
    let (sampler, schedule) = (chosen.sampler.name().to_owned(), chosen.schedule.name().to_owned());
    Ok(Chosen { sampler, schedule, eta: chosen.eta })
}

/// What names stand for.
pub(crate) fn choice(sampler: &str, schedule: Option<&str>) -> Result<Choice, Fault> {
    Ok(names::resolve(sampler, schedule)?)
}

/// A1111's labels of canonical names; no schedule for the model's own.
pub(crate) fn labels(sampler: &str, schedule: &str) -> (String, Option<String>) {
    match choice(sampler, Some(schedule)) {
        Ok(c) => (
            c.sampler.info().label.to_owned(),
            (c.schedule != Schedule::Auto).then(|| c.schedule.info().label.to_owned()),
        ),
        Err(_) => (sampler.to_owned(), Some(schedule.to_owned())),
    }
}

/// `GET /v1/samplers`.
pub(crate) fn samplers_json() -> Value {
    let samplers: Vec<Value> = names::samplers()
        .iter()
        .map(|s| {
            json!({ "name": s.name, "label": s.label, "aliases": s.aliases, "default_schedule": s.default_schedule.name(), "options": s.options })
        })
        .collect();
    let schedules: Vec<Value> =
        names::schedules().iter().map(|s| json!({ "name": s.name, "label": s.label, "aliases": s.aliases })).collect();
    json!({ "samplers": samplers, "schedules": schedules })
}
