//! A request that is complete at once, or once its model is here.
//!
//! A job whose model must be fetched first gets an id and a stream at once. What its request leaves to the model (size,
//! steps, guidance) is not known before the model is: until then the request stands as another model would read it.

use super::JobSpec;
use std::{ops::Deref, sync::OnceLock};

/// A job's request.
#[derive(Debug)]
pub struct SettledSpec {
    first: JobSpec,
    settled: OnceLock<JobSpec>,
}

impl SettledSpec {
    pub(super) fn new(first: JobSpec) -> Self {
        SettledSpec { first, settled: OnceLock::new() }
    }

    /// The first call counts.
    pub(super) fn settle(&self, spec: JobSpec) {
        // A second one would be a job that is sent twice, which nobody does.
        let _ = self.settled.set(spec);
    }
}

impl Deref for SettledSpec {
    type Target = JobSpec;

    fn deref(&self) -> &JobSpec {
        self.settled.get().unwrap_or(&self.first)
    }
}
