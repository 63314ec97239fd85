//! Fetching models from the hub for jobs and loads that name one which is not here, if the operator allows it.
//!
//! Every download has a thread of its own (never one of the runtime's), told in the job's stream. Of several jobs that
//! name the same model the first one fetches; the others wait for it and then find the model.

use crate::{
    config::PullPolicy,
    fault::{Fault, FaultCode},
    jobs::Job,
    library::Library,
};
use sd_models::{HubId, HubOptions, ModelName, PullEvent};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::{
        Arc, Mutex, PoisonError, TryLockError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// The most jobs and loads that fetch, or wait for somebody who does.
const MAX_WAITING: usize = 32;
/// Progress is told at most this often.
const NARRATE_EVERY: Duration = Duration::from_millis(500);
/// How often one that waits looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(100);

/// A model of the hub that a request names and that is to be fetched for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The request's field.
    pub(crate) field: &'static str,
    /// Where it comes from.
    pub(crate) id: HubId,
}

/// Receives what is to be told: an event's fields.
pub(crate) type Narrate<'a> = dyn FnMut(Value) + 'a;

/// The downloads of a worker.
#[derive(Debug)]
pub struct Pulls {
    policy: PullPolicy,
    /// One lock for each model that is being fetched.
    running: Mutex<HashMap<String, Arc<Mutex<()>>>>,
    waiting: AtomicUsize,
}

impl Pulls {
    /// Downloads under a policy.
    #[must_use]
    pub fn new(policy: PullPolicy) -> Self {
        Pulls { policy, running: Mutex::default(), waiting: AtomicUsize::new(0) }
    }

    /// The hub's id behind a name, if the model is not here and may be fetched.
    pub(crate) fn wanted(&self, name: &str, library: &Library) -> Option<HubId> {
        if self.policy == PullPolicy::Never {
            return None;
        }
        let name = ModelName::parse(name).ok()?;
        // A model that is here is used as it is, whole or broken.
        if library.places().contains(&name) { None } else { name.hub() }
    }

    /// Fetches a model. Blocks; `stop` ends it between two pieces, and the next attempt resumes.
    pub(crate) fn fetch(
        &self,
        id: &HubId,
        library: &Library,
        stop: &AtomicBool,
        narrate: &mut Narrate<'_>,
    ) -> Result<(), Fault> {
        let waiting = self.waiting.fetch_add(1, Ordering::AcqRel);
        let _place = Place(&self.waiting);
        if waiting >= MAX_WAITING {
            let message = format!("{MAX_WAITING} jobs wait for models from the hub already; try again later");
            return Err(Fault::new(FaultCode::QueueFull, message));
        }
        let key = id.to_string();
        // Revisions of a repository share its files.
        let lock = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            // Locks that nobody holds or waits for are no longer needed.
            running.retain(|_, lock| Arc::strong_count(lock) > 1);
            running.entry(id.repo()).or_default().clone()
        };
        let mut told = false;
        let _alone = loop {
            match lock.try_lock() {
                Ok(guard) => break guard,
                Err(TryLockError::Poisoned(guard)) => break guard.into_inner(),
                Err(TryLockError::WouldBlock) => {}
            }
            if stop.load(Ordering::Acquire) {
                return Err(Fault::cancelled());
            }
            if !std::mem::replace(&mut told, true) {
                narrate(json!({ "action": "pull", "human": format!("waiting for another job that fetches {key}") }));
            }
            std::thread::sleep(LOOK);
        };
        // Whoever held the lock may have brought it.
        if ModelName::parse(&key).is_ok_and(|name| library.places().contains(&name)) {
            return Ok(());
        }
        self.pull(id, library, stop, narrate)
    }

    fn pull(&self, id: &HubId, library: &Library, stop: &AtomicBool, narrate: &mut Narrate<'_>) -> Result<(), Fault> {
        let cache = library.places().hub_cache.clone().ok_or_else(|| {
            Fault::new(FaultCode::HubError, "there is no cache directory for models of the hub: set HF_HOME or HOME")
        })?;
        tracing::info!(model = %id, "fetching a model from the hub");
        let since = Instant::now();
        let mut last: Option<(Instant, u64)> = None;
        let pulled = sd_models::pull(id, &HubOptions::from_env(cache), &mut |event| {
            match event {
                PullEvent::Planned { files, bytes } => narrate(json!({
                    "action": "pull", "bytes": 0, "total_bytes": bytes, "percent": 0,
                    "human": format!("fetching {id}: {files} files, {} MB", bytes / 1_000_000),
                })),
                PullEvent::Progress { total_done, total, .. } => {
                    let percent = total_done * 100 / (*total).max(1);
                    let due = last.is_none_or(|(at, told)| at.elapsed() >= NARRATE_EVERY && percent > told);
                    if due || (total_done == total && last.is_none_or(|(_, told)| told < 100)) {
                        last = Some((Instant::now(), percent));
                        narrate(json!({
                            "action": "pull", "bytes": total_done, "total_bytes": total, "percent": percent,
                            "human": format!("fetching {id}: {percent} %"),
                        }));
                    }
                }
                PullEvent::Retrying { reason, wait, .. } => {
                    tracing::warn!(model = %id, reason, "fetching is tried again");
                    narrate(json!({
                        "action": "pull",
                        "human": format!("fetching {id}: {reason}; trying again in {} s", wait.as_secs_f32().ceil()),
                    }));
                }
                _ => {}
            }
            if stop.load(Ordering::Acquire) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if stop.load(Ordering::Acquire) {
            return Err(Fault::cancelled());
        }
        let pulled = pulled?;
        tracing::info!(model = %id, files = pulled.files, bytes = pulled.bytes, seconds = since.elapsed().as_secs_f64(), "model fetched");
        Ok(())
    }

    /// As [`Pulls::fetch`], for all that a job wants, with what happens told in its stream.
    pub(crate) fn fetch_for(&self, job: &Job, wanted: &[Wanted], library: &Library) -> Result<(), Fault> {
        let stop = job.cancel_flag();
        let mut tell = |fields| {
            job.publish("narration", fields);
        };
        wanted.iter().try_for_each(|w| self.fetch(&w.id, library, &stop, &mut tell).map_err(|f| f.about(w.field)))
    }

    /// As [`Pulls::fetch`], with what happens told in the log.
    pub(crate) fn fetch_logged(&self, id: &HubId, library: &Library) -> Result<(), Fault> {
        let mut tenths = 0;
        self.fetch(id, library, &AtomicBool::new(false), &mut |fields| {
            let now = fields["percent"].as_u64().map_or(u64::MAX, |percent| percent / 10);
            if now > tenths {
                tenths = if now == u64::MAX { tenths } else { now };
                tracing::info!("{}", fields["human"].as_str().unwrap_or_default());
            }
        })
    }
}

/// Leaves the count when it goes.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
