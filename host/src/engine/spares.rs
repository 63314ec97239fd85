//! Further plugins on one device: each serves the models that the ones before it could not load.

use super::{device::Device, mount::Mount};
use crate::fault::Fault;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Where further plugins come from.
pub trait Spare: std::fmt::Debug + Send + Sync {
    /// Whether a plugin offers a device, besides those that were opened from these files.
    fn any(&self, device: &str, used: &[String]) -> bool;

    /// Opens the best of them.
    fn open(&self, device: &str, used: &[String]) -> Option<Device>;
}

/// A model that another plugin serves than the first one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detour {
    /// The model.
    pub model: String,
    /// Why the plugins before it do not.
    pub reason: String,
}

#[derive(Debug, Default)]
struct State {
    /// In the order in which they are tried.
    mounts: Vec<Arc<Mount>>,
    /// Models, each with the place of its plugin in `mounts`.
    detours: Vec<(Detour, usize)>,
}

/// The further plugins of one device.
#[derive(Debug, Default)]
pub(super) struct Spares {
    state: Mutex<State>,
    /// Held while one is opened: others that want one wait, and find it.
    opening: Mutex<()>,
}

impl Spares {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The plugin for a job with these models, if it is not the first one.
    pub(super) fn of(&self, models: &[&str]) -> Option<Arc<Mount>> {
        let state = self.lock();
        let detours = state.detours.iter().filter(|(detour, _)| models.contains(&detour.model.as_str()));
        detours.map(|(_, at)| *at).max().and_then(|at| state.mounts.get(at).cloned())
    }

    /// All of them, each with its models.
    pub(super) fn all(&self) -> Vec<(Arc<Mount>, Vec<Detour>)> {
        let state = self.lock();
        let detours = |at: usize| state.detours.iter().filter(|(_, to)| *to == at).map(|(d, _)| d.clone()).collect();
        state.mounts.iter().enumerate().map(|(at, mount)| (mount.clone(), detours(at))).collect()
    }

    /// The plugin after the one that could not load a model; it serves the model from now on. `first` is the device's
    /// first plugin, `make` opens another one where none is left.
    pub(super) fn after(
        &self,
        failed: &Arc<Mount>,
        first: &Arc<Mount>,
        (model, fault): (&str, &Fault),
        make: impl FnOnce(&[String]) -> Option<Arc<Mount>>,
    ) -> Option<Arc<Mount>> {
        let _one = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, used) = {
            let state = self.lock();
            let at = if Arc::ptr_eq(failed, first) {
                0
            } else {
                // One that was let go meanwhile has none after it.
                state.mounts.iter().position(|mount| Arc::ptr_eq(mount, failed))? + 1
            };
            if let Some(mount) = state.mounts.get(at)
                && state.detours.iter().any(|(detour, to)| detour.model == model && *to == at)
            {
                return Some(mount.clone());
            }
            let all = [first].into_iter().chain(&state.mounts);
            let used: Vec<String> = all.map(|mount| mount.device.tag.file.to_string()).collect();
            (at, (at == state.mounts.len()).then_some(used))
        };
        let fresh = match used {
            Some(used) => Some(make(&used)?),
            None => None,
        };
        let mut state = self.lock();
        let at = match fresh {
            Some(mount) => {
                state.mounts.push(mount);
                state.mounts.len() - 1
            }
            None => at,
        };
        let here = format!("{}: {}", failed.device.tag, fault.message);
        let before = state.detours.extract_if(.., |(detour, _)| detour.model == model).next();
        let reason = before.map_or(here.clone(), |(detour, _)| format!("{}; {here}", detour.reason));
        state.detours.push((Detour { model: model.to_owned(), reason }, at));
        state.mounts.get(at).cloned()
    }

    /// Forgets that a model was led elsewhere: nobody could load it.
    pub(super) fn forget(&self, model: &str) {
        self.lock().detours.retain(|(detour, _)| detour.model != model);
    }

    /// Lets all of them go, each with its last job.
    pub(super) fn clear(&self) {
        let State { mounts, .. } = std::mem::take(&mut *self.lock());
        mounts.iter().for_each(|mount| mount.retire(None));
    }
}
