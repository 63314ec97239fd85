//! The waiting jobs in the order in which they will start, as far as that is known.

use super::Job;
use std::{sync::Arc, time::Duration};

/// What decides the order beside the jobs themselves.
#[derive(Debug, Clone, Default)]
pub struct AtHand {
    /// The models in memory, the one used last first.
    models: Vec<String>,
    /// How many models are held at most.
    room: usize,
    /// The time from one start to the next.
    pub(super) pace: Duration,
}

impl AtHand {
    /// Models in memory, the one used last first; how many are held at most; the time from one start to the next.
    pub fn new(mut models: Vec<String>, room: usize, pace: Duration) -> Self {
        models.truncate(room);
        AtHand { models, room, pace }
    }

    pub(super) fn has(&self, model: &str) -> bool {
        self.models.iter().any(|m| m == model)
    }

    /// Somebody uses these models, the most important one last: they are in memory from then on, and others may go for them.
    pub(super) fn used<'m>(&mut self, models: impl IntoIterator<Item = &'m str>) {
        for model in models {
            self.models.retain(|m| m != model);
            self.models.insert(0, model.to_owned());
        }
        self.models.truncate(self.room);
    }
}

/// The waiting jobs in the order in which they will start.
#[derive(Debug)]
pub struct Line(pub(super) Vec<Arc<Job>>);

impl Line {
    /// How many jobs will start before this one; `None` when it does not wait.
    pub fn before(&self, job: &Job) -> Option<usize> {
        self.0.iter().position(|j| j.id == job.id)
    }

    /// The jobs, the next one first.
    pub fn jobs(&self) -> &[Arc<Job>] {
        &self.0
    }
}
