//! How long a job may go on: until somebody stops it, or its time is over.

use crate::{
    fault::{Fault, FaultCode},
    jobs::Job,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// The end of a job's patience, which also counts while it waits for a model.
#[derive(Debug, Clone, Default)]
pub(super) struct Until {
    /// Set when the job is to stop.
    pub(super) stop: Arc<AtomicBool>,
    /// The moment at which its time is over, and the time that it had.
    end: Option<(Instant, Duration)>,
}

impl Until {
    /// A job's own limits. A run after the first has what the first one left.
    pub(super) fn of(job: &Job) -> Self {
        let (since, limit) = (job.started().unwrap_or_else(Instant::now), job.spec.timeout);
        Until { stop: job.cancel_flag(), end: since.checked_add(limit).map(|end| (end, limit)) }
    }

    /// A fault when it is over.
    pub(super) fn check(&self) -> Result<(), Fault> {
        if self.stop.load(Ordering::Acquire) {
            return Err(Fault::cancelled());
        }
        match self.end {
            Some((end, limit)) if Instant::now() >= end => {
                let message = format!("the job ran longer than its limit of {} s", limit.as_secs());
                Err(Fault::new(FaultCode::Timeout, message))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
impl Until {
    /// For somebody who has been stopped, or has not.
    pub(super) fn stopped(stopped: bool) -> Self {
        Until { stop: Arc::new(AtomicBool::new(stopped)), end: None }
    }

    /// For somebody whose time is over.
    pub(super) fn late() -> Self {
        Until { stop: Arc::default(), end: Some((Instant::now(), Duration::ZERO)) }
    }
}
