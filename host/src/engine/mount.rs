//! One opened backend in service: its device, the models on it, and how they come and go.

use super::{
    device::{Call, Device, LoadProgress, ModelId, Reply, Task},
    place::is_death,
    room,
    shelf::{Entry, Shelf, Source},
    until::Until,
};
use crate::{
    fault::{Fault, FaultCode},
    telemetry::Metrics,
};
use backend_api::ModelPlan;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// A wish for a model.
pub(super) struct Want<'a> {
    /// The catalogue name.
    pub(super) key: &'a str,
    /// What for.
    pub(super) task: Task,
    /// Looks the model up on disk. Asked before anything that serves goes: a broken model must not cost another.
    pub(super) find: &'a dyn Fn() -> Result<Source, Fault>,
}

/// A device and its models.
#[derive(Debug)]
pub(super) struct Mount {
    pub(super) device: Device,
    shelf: Shelf,
    max_models: usize,
    /// How many models were held when another one last had to go for the memory's sake.
    seen_room: AtomicUsize,
    metrics: Arc<Metrics>,
    /// The models that could not be loaded for a reason of the plugin's, with the last fault.
    declined: Mutex<HashMap<String, Fault>>,
}

/// Most models of which a plugin's failure is remembered.
const MOST_DECLINED: usize = 256;

/// Whether another plugin may load what this one could not: it does not know the model's kind, fails or dies over it. A
/// broken or missing model, a lack of memory and a user's wish to stop would be the same with every other.
pub(super) fn is_of_plugin(code: FaultCode) -> bool {
    matches!(code, FaultCode::Unsupported | FaultCode::BackendError | FaultCode::BackendPanic) || is_death(code)
}

/// A model that stays on its device while this lives.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) entry: Entry,
    mount: Arc<Mount>,
}

impl Lease {
    /// Calls the model.
    pub(super) fn call<T>(&self, stop: Option<&AtomicBool>, make: impl FnOnce(Reply<T>) -> Call) -> Result<T, Fault> {
        self.mount.device.call(self.entry.id, stop, make)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Its models go with it, on the device's own thread.
        for gone in self.shelf.entries() {
            self.metrics.model_unloaded(&gone.key, &gone.source.fingerprint);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.mount.shelf.release(self.entry.id) {
            self.mount.device.forget(self.entry.id);
        }
    }
}

impl Mount {
    pub(super) fn new(device: Device, max_models: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Mount {
            device,
            shelf: Shelf::default(),
            max_models,
            seen_room: AtomicUsize::new(usize::MAX),
            metrics,
            declined: Mutex::default(),
        })
    }

    /// The names of its models, the one used last first.
    pub(super) fn models(&self) -> Vec<String> {
        self.shelf.entries().into_iter().map(|e| e.key).collect()
    }

    /// How many models are held at most, as far as is known: what the memory has room for shows when it lacks.
    pub(super) fn room(&self) -> usize {
        self.max_models.min(self.seen_room.load(Ordering::Relaxed))
    }

    /// Whether a model is here for a task.
    pub(super) fn holds(&self, key: &str, task: Task) -> bool {
        self.shelf.has(key, task)
    }

    /// How many times its models are held.
    pub(super) fn users(&self) -> usize {
        self.shelf.users()
    }

    /// Makes sure that all these models are on the device, and keeps them there while the leases live.
    ///
    /// A job that needs several asks for all of them here: while it waits for room it holds none, so that two jobs
    /// cannot wait for each other. Whoever holds a lease must not call this again.
    pub(super) fn hold(
        self: &Arc<Self>,
        wants: &[Want<'_>],
        until: &Until,
        progress: &LoadProgress,
    ) -> Result<Vec<Lease>, Fault> {
        if wants.len() > self.max_models {
            let text = format!(
                "the job needs {} models at the same time, and this worker holds at most {}; see --max-models",
                wants.len(),
                self.max_models
            );
            return Err(Fault::new(FaultCode::Unsupported, text).about("model"));
        }
        let mut hungry = None;
        loop {
            let mut held: Vec<Lease> = Vec::with_capacity(wants.len());
            let mut missing = None;
            for want in wants {
                let first = hungry.is_some() || !held.is_empty();
                match self.shelf.hold(want.key, want.task, first, until) {
                    Some(entry) => held.push(Lease { entry, mount: self.clone() }),
                    None => {
                        missing = Some(want);
                        break;
                    }
                }
            }
            until.check()?;
            let Some(want) = missing else { return Ok(held) };
            let source = Arc::new((want.find)()?);
            let turn = self.shelf.turn(until)?;
            if self.shelf.has(want.key, want.task) {
                continue;
            }
            let plan = self.noted(want.key, self.device.inspect(&source.files))?;
            let mut evicted = Vec::new();
            if self.make_room(&plan, &held, &mut evicted)? {
                self.noted(want.key, self.load(want, source, &plan, evicted, &until.stop, progress))?;
                continue;
            }
            // Others hold what would have to go. Nothing is held while waiting for them.
            drop(turn);
            drop(held);
            hungry.get_or_insert_with(|| self.shelf.hunger());
            self.shelf.pause();
        }
    }

    /// Keeps in mind whether a model could be loaded, where that depends on the plugin.
    fn noted<T>(&self, key: &str, outcome: Result<T, Fault>) -> Result<T, Fault> {
        let mut declined = self.declined.lock().unwrap_or_else(PoisonError::into_inner);
        match &outcome {
            Err(fault) if is_of_plugin(fault.code) => {
                if declined.len() >= MOST_DECLINED {
                    declined.clear();
                }
                declined.insert(key.to_owned(), fault.clone());
            }
            _ => drop(declined.remove(key)),
        }
        outcome
    }

    /// Why the plugin could not load a model the last time, if it could not.
    pub(super) fn declined(&self, key: &str) -> Option<Fault> {
        self.declined.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// Takes models down until one more fits. `false` when others hold what is in the way.
    fn make_room(&self, plan: &ModelPlan, held: &[Lease], evicted: &mut Vec<Entry>) -> Result<bool, Fault> {
        let mine: Vec<ModelId> = held.iter().map(|l| l.entry.id).collect();
        loop {
            let entries = self.shelf.entries();
            let counted = entries.len() < self.max_models;
            if counted && room::fits(plan, &self.device.memory()?, &entries) {
                return Ok(true);
            }
            match self.shelf.take_oldest() {
                Some(old) => {
                    tracing::info!(model = old.key, device = %self.device.tag.device, "making room: taking a model down");
                    self.unload(&old)?;
                    evicted.push(old);
                }
                // With nothing else left an estimate is no reason to refuse: the backend itself knows.
                None => return Ok(counted && self.shelf.is_all_mine(&mine)),
            }
        }
    }

    /// Loads a model. When that fails, what went for it comes back, unless the caller gave up.
    fn load(
        &self,
        want: &Want<'_>,
        source: Arc<Source>,
        plan: &ModelPlan,
        mut evicted: Vec<Entry>,
        stop: &Arc<AtomicBool>,
        progress: &LoadProgress,
    ) -> Result<(), Fault> {
        tracing::info!(model = want.key, device = %self.device.tag.device, "loading a model");
        let outcome = loop {
            let outcome = self.bring(want.key, want.task, &source, room::working(plan), stop, progress);
            let short = outcome.as_ref().is_err_and(|f| f.code == FaultCode::OutOfMemory);
            let Some(old) = short.then(|| self.shelf.take_oldest()).flatten() else { break outcome };
            tracing::info!(model = old.key, device = %self.device.tag.device, "out of memory: taking a model down");
            self.unload(&old)?;
            evicted.push(old);
        };
        self.metrics.model_swap(outcome.is_ok());
        if outcome.is_ok() {
            let now = self.shelf.entries().len();
            let seen = self.seen_room.load(Ordering::Relaxed);
            if !evicted.is_empty() || now > seen {
                self.seen_room.store(now, Ordering::Relaxed);
            }
        }
        if let Err(fault) = &outcome {
            tracing::warn!(model = want.key, code = fault.code.as_str(), message = %fault.message, "model not loaded");
            match fault.code {
                // With a dead process everything in it is gone, and comes back when it is asked for.
                FaultCode::BackendDied | FaultCode::BackendHung => {}
                // Nothing is wrong with any model, and whoever gave up does not wait for further loads.
                FaultCode::Cancelled => {}
                _ => self.bring_back(evicted),
            }
        }
        outcome
    }

    fn bring(
        &self,
        key: &str,
        task: Task,
        source: &Arc<Source>,
        working: u64,
        stop: &Arc<AtomicBool>,
        progress: &LoadProgress,
    ) -> Result<(), Fault> {
        let (since, id) = (Instant::now(), ModelId::fresh());
        let (desc, memory) = self.device.load(id, task, &source.files, progress.clone(), stop)?;
        self.metrics.model_loaded(key, &source.fingerprint, since.elapsed());
        tracing::info!(
            model = key,
            device = %self.device.tag.device,
            seconds = since.elapsed().as_secs_f64(),
            weights_bytes = memory.weights,
            "model loaded"
        );
        self.shelf.put(Entry {
            id,
            key: key.to_owned(),
            task,
            desc,
            memory,
            working,
            tokens: Arc::default(),
            source: source.clone(),
        });
        self.measure();
        Ok(())
    }

    /// Loads again what had been taken down in vain, the one used last first.
    pub(super) fn bring_back(&self, evicted: Vec<Entry>) {
        let quiet: LoadProgress = Arc::new(|_, _| ());
        for old in evicted.into_iter().rev() {
            match self.bring(&old.key, old.task, &old.source, old.working, &Arc::default(), &quiet) {
                Ok(()) => tracing::info!(model = old.key, "the model that served before is back"),
                Err(fault) => {
                    tracing::error!(
                        model = old.key,
                        code = fault.code.as_str(),
                        "the model that served before did not come back"
                    );
                    return;
                }
            }
        }
    }

    /// Drops a model that was taken from the shelf.
    fn unload(&self, gone: &Entry) -> Result<(), Fault> {
        self.metrics.model_unloaded(&gone.key, &gone.source.fingerprint);
        self.device.unload(gone.id)?;
        let held = self.measure();
        let known = self.shelf.entries().iter().map(|e| e.memory.weights).sum::<u64>();
        if held > known {
            tracing::error!(
                model = gone.key,
                held_bytes = held - known,
                "the backend holds weights of a model that was dropped; restart the worker if this grows"
            );
        }
        Ok(())
    }

    /// Takes a model down by name. `false` when it is not here; a fault while jobs hold it.
    pub(super) fn take_down(&self, key: &str) -> Result<bool, Fault> {
        let gone = self
            .shelf
            .take(key)
            .map_err(|()| Fault::new(FaultCode::Conflict, "jobs use this model; wait for them or cancel them"))?;
        gone.iter().try_for_each(|entry| self.unload(entry))?;
        Ok(!gone.is_empty())
    }

    /// Takes down what nobody has used for so long.
    pub(super) fn take_down_idle(&self, limit: Duration) {
        for gone in self.shelf.take_idle(limit) {
            tracing::info!(model = gone.key, device = %self.device.tag.device, "idle; giving the model's memory back");
            if let Err(fault) = self.unload(&gone) {
                tracing::warn!(code = fault.code.as_str(), "the idle model could not be dropped");
            }
        }
    }

    /// Takes every model down, once nobody holds it. The error says that somebody did not let go in time.
    pub(super) fn clear(&self, patience: Duration, stop: &AtomicBool) -> Result<Vec<Entry>, Fault> {
        let (since, mut gone) = (Instant::now(), Vec::new());
        loop {
            while let Some(old) = self.shelf.take_oldest() {
                self.unload(&old)?;
                gone.push(old);
            }
            if self.shelf.is_all_mine(&[]) {
                return Ok(gone);
            }
            if stop.load(Ordering::Acquire) || since.elapsed() > patience {
                self.bring_back(gone);
                return Err(Fault::new(FaultCode::OutOfMemory, "jobs hold the memory that is needed; try again later"));
            }
            self.shelf.pause();
        }
    }

    /// Lets no further job have a model that failed; all of them without a name. Each goes with the last that holds it.
    pub(super) fn retire(&self, key: Option<&str>) {
        for (gone, free) in self.shelf.retire(|e| key.is_none_or(|key| e.key == key)) {
            self.metrics.model_unloaded(&gone.key, &gone.source.fingerprint);
            if free {
                self.device.forget(gone.id);
            }
        }
    }

    /// Shows the device's memory in the figures, and answers what the backend itself says its weights hold.
    fn measure(&self) -> u64 {
        let Ok(memory) = self.device.memory() else { return 0 };
        let weights = self.shelf.entries().iter().map(|e| e.memory.weights).sum();
        let used = memory.device_total.saturating_sub(memory.device_free);
        for (state, bytes) in [("used", used), ("free", memory.device_free), ("model", weights)] {
            self.metrics.device_memory(&self.device.tag.device, state, bytes);
        }
        memory.weights
    }
}
