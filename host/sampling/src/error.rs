//! What can be wrong with a request for a sampling plan.

/// Errors of this crate. Each has a stable [`code`](Error::code) for machines and a sentence for people.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No sampler has this name.
    #[error("unknown sampler `{name}`; the closest names are {}", list(.closest))]
    UnknownSampler {
        /// The name as it was sent.
        name: String,
        /// Up to three known names, best first.
        closest: Vec<String>,
    },
    /// No schedule has this name.
    #[error("unknown schedule `{name}`; the closest names are {}", list(.closest))]
    UnknownSchedule {
        /// The name as it was sent.
        name: String,
        /// Up to three known names, best first.
        closest: Vec<String>,
    },
    /// The number of steps is outside of what the schedule can give.
    #[error("steps must be between 1 and {max} for this sampler and schedule, not {steps}")]
    Steps {
        /// What was asked for.
        steps: usize,
        /// The largest number that works.
        max: usize,
    },
    /// The noise levels of a request are not a schedule.
    #[error("sigmas must be 2 to {max} finite numbers that fall and are not negative")]
    Sigmas {
        /// The most that can be given.
        max: usize,
    },
    /// A number is outside of its range.
    #[error("{field} must be {expected}, not {value}")]
    OutOfRange {
        /// Name of the field.
        field: &'static str,
        /// The range, in words.
        expected: &'static str,
        /// What was given.
        value: f64,
    },
    /// The strength (or the start and end fractions) leaves no step to run.
    #[error("strength {strength} leaves none of the {steps} steps to run; raise the strength or the steps")]
    NothingToDo {
        /// The strength, or the part of the schedule that was asked for.
        strength: f64,
        /// Steps of the whole schedule.
        steps: usize,
    },
    /// The model's scheduler configuration cannot be used.
    #[error("scheduler_config.json: {field} {problem}")]
    Config {
        /// Name of the field in the file.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl Error {
    /// A stable code for machines: it stays the same when the sentence is reworded.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownSampler { .. } => "unknown_sampler",
            Self::UnknownSchedule { .. } => "unknown_schedule",
            Self::Steps { .. } => "steps_out_of_range",
            Self::Sigmas { .. } => "bad_sigmas",
            Self::OutOfRange { .. } => "value_out_of_range",
            Self::NothingToDo { .. } => "no_steps_left",
            Self::Config { .. } => "bad_scheduler_config",
        }
    }
}

fn list(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
