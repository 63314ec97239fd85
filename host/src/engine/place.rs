//! One device over time: the backend that serves there now, and whether it can.

use super::{
    mount::Mount,
    spares::Spares,
    spread::{Outlook, Pace},
};
use crate::fault::{Fault, FaultCode};
use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// The first pause before a backend that does not come back is tried again; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A device with its models, as lanes work on it.
#[derive(Debug)]
pub(super) struct Place {
    /// A label such as `cpu` or `cuda:0`.
    pub(super) label: String,
    /// Jobs that it runs at the same time.
    pub(super) lanes: usize,
    /// How fast it is.
    pub(super) pace: Pace,
    mount: RwLock<Arc<Mount>>,
    /// Further plugins, for models that the first one cannot load.
    pub(super) spares: Spares,
    broken: Mutex<Option<Broken>>,
    /// How many ask that no job be taken for now.
    pauses: AtomicUsize,
}

/// While it lives no lane takes a job here; those that run go on.
#[derive(Debug)]
pub(super) struct Pause<'p>(&'p Place);

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        self.0.pauses.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A backend that did not come back.
#[derive(Debug)]
struct Broken {
    reason: String,
    /// The model that it is tried with.
    model: String,
    pause: Duration,
    next: Instant,
}

/// What a lane may do at a place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// Take jobs.
    Fine,
    /// Nothing: a call in this process never came back.
    Stuck,
    /// Nothing yet, and soon everything.
    Paused,
    /// Nothing yet.
    Broken,
    /// Try the backend with this model; no other lane was told to.
    Try(String),
}

/// Whether a fault says that the backend itself is gone, and not that it refused.
pub(super) fn is_death(code: FaultCode) -> bool {
    matches!(code, FaultCode::BackendDied | FaultCode::BackendHung)
}

impl Place {
    pub(super) fn new(mount: Arc<Mount>, lanes: usize) -> Self {
        let label = mount.device.tag.device.to_string();
        Place {
            label,
            lanes,
            pace: Pace::default(),
            mount: RwLock::new(mount),
            spares: Spares::default(),
            broken: Mutex::default(),
            pauses: AtomicUsize::new(0),
        }
    }

    /// The backend that serves here now.
    pub(super) fn mount(&self) -> Arc<Mount> {
        self.mount.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The backend for a job with these models.
    pub(super) fn mount_for(&self, models: &[&str]) -> Arc<Mount> {
        self.spares.of(models).unwrap_or_else(|| self.mount())
    }

    /// All backends that serve here, the usual one first.
    pub(super) fn mounts(&self) -> Vec<Arc<Mount>> {
        let spares = self.spares.all().into_iter().map(|(mount, _)| mount);
        [self.mount()].into_iter().chain(spares).collect()
    }

    /// The models here, of each backend the one used last first.
    pub(super) fn models(&self) -> Vec<String> {
        self.mounts().iter().flat_map(|mount| mount.models()).collect()
    }

    /// Puts another backend in the place of the one that serves here, and answers that one. Whoever works with it goes on.
    pub(super) fn replace(&self, mount: Arc<Mount>) -> Arc<Mount> {
        let old = std::mem::replace(&mut *self.mount.write().unwrap_or_else(PoisonError::into_inner), mount);
        *self.broken() = None;
        self.spares.clear();
        old
    }

    /// Keeps lanes from taking jobs.
    pub(super) fn pause(&self) -> Pause<'_> {
        self.pauses.fetch_add(1, Ordering::AcqRel);
        Pause(self)
    }

    /// Whether lanes take jobs.
    pub(super) fn takes_jobs(&self) -> bool {
        self.pauses.load(Ordering::Acquire) == 0 && self.trouble().is_none()
    }

    fn broken(&self) -> std::sync::MutexGuard<'_, Option<Broken>> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why no job runs here; `None` when they do.
    pub(super) fn trouble(&self) -> Option<String> {
        if self.mount().device.is_stuck() {
            return Some("a call into the backend does not come back, and it runs in this process: restart the worker, and see --isolate".to_owned());
        }
        self.broken().as_ref().map(|b| b.reason.clone())
    }

    /// What can be expected of it now.
    pub(super) fn outlook(&self) -> Outlook {
        self.pace.outlook(self.lanes, self.models())
    }

    /// What a lane may do now.
    pub(super) fn condition(&self) -> Condition {
        if self.mount().device.is_stuck() {
            return Condition::Stuck;
        }
        if self.pauses.load(Ordering::Acquire) > 0 {
            return Condition::Paused;
        }
        match self.broken().as_mut() {
            None => Condition::Fine,
            Some(b) if b.next > Instant::now() => Condition::Broken,
            Some(b) => {
                // Until the outcome is told nobody else tries.
                b.next = Instant::now() + Duration::from_secs(3600);
                Condition::Try(b.model.clone())
            }
        }
    }

    /// The backend was tried with a model: says whether the place works from now on. It does when another one has taken
    /// over meanwhile.
    pub(super) fn tried(&self, mount: &Arc<Mount>, model: &str, failure: Option<&Fault>) -> bool {
        if !Arc::ptr_eq(mount, &self.mount()) {
            return true;
        }
        let mut broken = self.broken();
        match failure {
            Some(fault) if is_death(fault.code) || fault.code == FaultCode::BackendError => {
                let pause = broken.as_ref().map_or(FIRST_PAUSE, |b| (b.pause * 2).min(LONGEST_PAUSE));
                *broken = Some(Broken {
                    reason: format!("{}: {}", self.label, fault.message),
                    model: model.to_owned(),
                    pause,
                    next: Instant::now() + pause,
                });
                false
            }
            // Whatever else is wrong is wrong with the model.
            _ => {
                *broken = None;
                true
            }
        }
    }
}
