//! Another backend for a device that works already: tried beside the present one, then put in its place.
//!
//! Jobs that run stay where they began; whoever comes later gets the new one. The old one goes with the last job on it.

use super::{Engine, Place, device::Device, mount::Mount, place::Pause, run};
use crate::{
    fault::{Fault, FaultCode},
    jobs::Job,
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

/// How long jobs may keep the memory that a new backend needs before it is given up.
const PATIENCE: Duration = Duration::from_secs(1800);

/// A backend that serves nobody yet.
#[derive(Debug)]
pub struct Newcomer(Arc<Mount>);

/// A newcomer that works. Where the two did not fit into the memory together no job is begun until this is dropped.
#[derive(Debug)]
pub struct Passed<'e>(#[allow(dead_code, reason = "held, not read")] Option<Pause<'e>>);

impl Engine {
    /// A backend for one of the devices, opened beside the one that serves there.
    pub fn newcomer(&self, device: Device) -> Newcomer {
        Newcomer(Mount::new(device, self.max_models, self.metrics.clone()))
    }

    fn place_of(&self, newcomer: &Newcomer) -> Result<&Place, Fault> {
        let label = &*newcomer.0.device.tag.device;
        let place = self.places.iter().find(|p| p.label == label);
        place.map(Arc::as_ref).ok_or_else(|| Fault::internal("there is no such device"))
    }

    /// Tries a newcomer: it must tell its memory and, with a job, load the job's model and draw it. When its weights do
    /// not fit beside those of the present backend, jobs wait, running ones end, and that one's models go first; they come
    /// back when the newcomer fails. `job` makes the job anew for each try.
    pub fn audition(&self, newcomer: &Newcomer, job: &dyn Fn() -> Option<Arc<Job>>) -> Result<Passed<'_>, Fault> {
        let place = self.place_of(newcomer)?;
        newcomer.0.device.memory()?;
        let draw = || job().map_or(Ok(()), |job| self.draw(newcomer, &job));
        match draw() {
            Err(fault) if fault.code == FaultCode::OutOfMemory => {
                let (pause, present) = (place.pause(), place.mount());
                if present.models().is_empty() {
                    return Err(fault);
                }
                tracing::info!(
                    device = place.label,
                    "both backends do not fit; waiting for the jobs of the present one"
                );
                let gone = present.clear(PATIENCE, &self.stop)?;
                match draw() {
                    Ok(()) => Ok(Passed(Some(pause))),
                    Err(fault) => {
                        present.bring_back(gone);
                        Err(fault)
                    }
                }
            }
            outcome => outcome.map(|()| Passed(None)),
        }
    }

    fn draw(&self, newcomer: &Newcomer, job: &Arc<Job>) -> Result<(), Fault> {
        let drawn = catch_unwind(AssertUnwindSafe(|| run::job(self, &newcomer.0, job)));
        drawn.unwrap_or_else(|_| Err(Fault::internal("the worker failed on the trial")))
    }

    /// Puts a newcomer in the place of the backend that serves its device.
    pub fn take_over(&self, newcomer: Newcomer, passed: Passed<'_>) -> Result<(), Fault> {
        let old = self.place_of(&newcomer)?.replace(newcomer.0);
        old.retire(None);
        drop(passed);
        Ok(())
    }
}
