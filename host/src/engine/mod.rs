//! The engine: lanes take jobs from the queue and run them on devices.
//!
//! A lane is a thread that runs one job at a time from start to end. It does the light work itself (noise, sampler
//! arithmetic, PNG) and asks its device's thread for the heavy work. Several lanes of one device let jobs share calls.

mod canvas;
mod device;
mod gate;
mod hires;
mod pictures;
mod preview;
mod run;
mod tensor;
mod text;
mod tokens;

pub use device::{Device, LoadProgress, LoadedModel};
pub(crate) use text::check as check_prompt;

use crate::{
    fault::{Fault, FaultCode},
    jobs::{Job, Outcome, Queue},
    library::Library,
    telemetry::{Metrics, Outcome as Ended, Stage},
};
use gate::Gate;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How long a lane waits for a job before it looks after its device.
const IDLE: Duration = Duration::from_millis(500);

/// A device and who uses its model.
#[derive(Debug)]
struct Place {
    device: Device,
    gate: Gate,
    last_used: Mutex<Instant>,
}

/// All devices and their lanes.
#[derive(Debug)]
pub struct Engine {
    places: Vec<Arc<Place>>,
    queue: Arc<Queue>,
    library: Arc<Library>,
    metrics: Arc<Metrics>,
    stop: AtomicBool,
    running: AtomicUsize,
    /// Seconds a job took lately, as a moving mean, in milliseconds.
    mean_job_ms: AtomicUsize,
    idle_unload: Option<Duration>,
    lanes: Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    /// Starts `lanes` lanes for each device.
    pub fn start(
        devices: Vec<(Device, usize)>,
        queue: Arc<Queue>,
        library: Arc<Library>,
        metrics: Arc<Metrics>,
        idle_unload: Option<Duration>,
    ) -> std::io::Result<Arc<Engine>> {
        let lanes: Vec<usize> = devices.iter().map(|(_, lanes)| *lanes).collect();
        let places = devices
            .into_iter()
            .map(|(device, _)| Arc::new(Place { device, gate: Gate::default(), last_used: Mutex::new(Instant::now()) }))
            .collect();
        let engine = Arc::new(Engine {
            places,
            queue,
            library,
            metrics,
            stop: AtomicBool::new(false),
            running: AtomicUsize::new(0),
            mean_job_ms: AtomicUsize::new(1000),
            idle_unload,
            lanes: Mutex::default(),
        });
        for (place, count) in engine.places.iter().zip(lanes) {
            for lane in 0..count {
                let (engine_, place) = (engine.clone(), place.clone());
                let name = format!("lane {lane} {}", place.device.label);
                let handle = std::thread::Builder::new().name(name).spawn(move || engine_.lane(&place))?;
                engine.lanes.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
            }
        }
        Ok(engine)
    }

    /// The devices.
    pub fn devices(&self) -> Vec<Device> {
        self.places.iter().map(|p| p.device.clone()).collect()
    }

    /// The model on the first device that has one.
    pub fn loaded_model(&self) -> Option<String> {
        self.places.iter().find_map(|p| p.device.loaded()).map(|m| m.key)
    }

    /// All loaded models.
    pub fn loaded_models(&self) -> Vec<String> {
        self.places.iter().filter_map(|p| p.device.loaded()).map(|m| m.key).collect()
    }

    /// Jobs on a device now.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }

    /// How long a job takes, from those of late.
    pub fn mean_job(&self) -> Duration {
        Duration::from_millis(self.mean_job_ms.load(Ordering::Relaxed) as u64)
    }

    /// Whether every device hangs.
    pub fn is_broken(&self) -> bool {
        self.places.iter().all(|p| p.device.is_stuck())
    }

    /// Loads a model on the device that does least, outside any job. Blocks.
    pub fn load_model(&self, name: &str) -> Result<LoadedModel, Fault> {
        let place = self
            .places
            .iter()
            .find(|p| p.device.loaded().is_some_and(|m| m.key == name))
            .or_else(|| self.places.iter().min_by_key(|p| p.gate.users()))
            .ok_or_else(|| Fault::new(FaultCode::NotReady, "there is no device"))?;
        let never = Arc::new(AtomicBool::new(false));
        let (loaded, _use) = self.ensure(place, name, &never, &(Arc::new(|_, _| ()) as LoadProgress))?;
        Ok(loaded)
    }

    /// Gives a model's memory back. `false` when it was on no device; a fault while jobs use it.
    pub fn unload_model(&self, name: &str) -> Result<bool, Fault> {
        let mut found = false;
        for place in self.places.iter().filter(|p| p.device.loaded().is_some_and(|m| m.key == name)) {
            let Some(_alone) = place.gate.try_alone() else {
                return Err(Fault::new(FaultCode::Conflict, "jobs use this model; wait for them or cancel them"));
            };
            place.device.unload()?;
            found = true;
        }
        Ok(found)
    }

    /// Tells the lanes to end after their present job and waits for them, at most until the limit. `true` when all ended.
    pub fn join(&self, limit: Duration) -> bool {
        self.stop.store(true, Ordering::Release);
        let until = Instant::now() + limit;
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        while lanes.iter().any(|l| !l.is_finished()) {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        lanes.drain(..).for_each(|lane| {
            // A lane catches the panics of its jobs; one of its own has been printed already.
            let _ = lane.join();
        });
        true
    }

    fn lane(&self, place: &Place) {
        while !self.stop.load(Ordering::Acquire) {
            if place.device.is_stuck() {
                std::thread::sleep(IDLE);
                continue;
            }
            let loaded = place.device.loaded().map(|m| m.key);
            let Some(job) = self.queue.pop(loaded.as_deref(), IDLE) else {
                self.unload_idle(place);
                continue;
            };
            self.running.fetch_add(1, Ordering::AcqRel);
            self.run(place, &job);
            self.running.fetch_sub(1, Ordering::AcqRel);
            *place.last_used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }

    fn run(&self, place: &Place, job: &Arc<Job>) {
        if !job.start(&place.device.label) {
            return;
        }
        let since = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| run::job(self, place, job)));
        let outcome = match outcome {
            Ok(Ok(())) => Outcome::Complete,
            Ok(Err(fault)) if fault.code == FaultCode::Cancelled => Outcome::Cancelled,
            Ok(Err(fault)) => Outcome::Failed(fault),
            Err(_) => Outcome::Failed(Fault::internal("the worker failed on this job")),
        };
        let label = match &outcome {
            Outcome::Complete => "ok",
            Outcome::Cancelled => "cancelled",
            Outcome::Failed(fault) => fault.code.as_str(),
        };
        let took = since.elapsed();
        tracing::info!(job_id = %job.id, outcome = label, seconds = took.as_secs_f64(), "job ended");
        if let Outcome::Failed(fault) = &outcome {
            tracing::warn!(job_id = %job.id, code = fault.code.as_str(), message = %fault.message, "job failed");
            // After a caught panic the session refuses everything: the next job gets a fresh one.
            if matches!(
                fault.code,
                FaultCode::BackendPanic | FaultCode::BackendDied | FaultCode::OutOfMemory | FaultCode::BackendError
            ) && let Some(_alone) = place.gate.try_alone()
                && let Err(fault) = place.device.unload()
            {
                tracing::warn!(code = fault.code.as_str(), "the model could not be dropped after a fault");
            }
        }
        if matches!(outcome, Outcome::Complete) {
            let mean = self.mean_job_ms.load(Ordering::Relaxed) as u64;
            let next = (mean * 7 + took.as_millis() as u64) / 8;
            self.mean_job_ms.store(next as usize, Ordering::Relaxed);
        }
        self.measure(job, &outcome, took);
        job.finish(outcome);
    }

    fn measure(&self, job: &Job, outcome: &Outcome, took: Duration) {
        let ended = match outcome {
            Outcome::Complete => Ended::Ok,
            Outcome::Cancelled => Ended::Cancelled,
            Outcome::Failed(fault) => Ended::Failed(fault.code.as_str()),
        };
        let now = job.snapshot();
        let (m, t) = (&self.metrics, now.timings);
        m.job_started(t.queue);
        m.job_finished(job.spec.operation.into(), ended, Some(took));
        m.images_total.inc_by(now.pictures.len() as u64);
        if now.step > 0 {
            m.step(&job.spec.model, t.denoise / now.step);
        }
        if matches!(outcome, Outcome::Complete) {
            for (stage, time) in [
                (Stage::Encode, t.encode),
                (Stage::Denoise, t.denoise),
                (Stage::Decode, t.decode),
                (Stage::Png, t.write),
            ] {
                m.stage(stage, time);
            }
        }
    }

    /// Makes sure that a model is on the device, and keeps it there while the guard lives.
    fn ensure<'p>(
        &self,
        place: &'p Place,
        name: &str,
        stop: &Arc<AtomicBool>,
        progress: &LoadProgress,
    ) -> Result<(LoadedModel, gate::Use<'p>), Fault> {
        loop {
            if stop.load(Ordering::Acquire) {
                return Err(Fault::cancelled());
            }
            let shared = place.gate.enter();
            if let Some(loaded) = place.device.loaded().filter(|m| m.key == name) {
                return Ok((loaded, shared));
            }
            drop(shared);
            // Checked before the present model goes: a broken one must not cost the one that serves.
            let resolved = self.library.resolve(name)?;
            let Some(_alone) = place.gate.alone(Duration::from_millis(200)) else { continue };
            if place.device.loaded().is_some_and(|m| m.key == name) {
                continue;
            }
            self.swap(place, name, &resolved, stop, progress)?;
        }
    }

    /// Loads a model in place of another. When that fails the other one comes back.
    fn swap(
        &self,
        place: &Place,
        name: &str,
        resolved: &crate::library::Resolved,
        stop: &Arc<AtomicBool>,
        progress: &LoadProgress,
    ) -> Result<(), Fault> {
        let before = place.device.loaded().map(|m| m.key);
        let since = Instant::now();
        tracing::info!(model = name, device = %place.device.label, replaces = before.as_deref(), "loading a model");
        let outcome = place.device.load(name, resolved.source(), progress.clone(), stop);
        self.metrics.model_swap(outcome.is_ok());
        match outcome {
            Ok(loaded) => {
                self.metrics.model_loaded(name, &resolved.model.fingerprint, since.elapsed());
                tracing::info!(
                    model = name,
                    seconds = since.elapsed().as_secs_f64(),
                    weights_bytes = loaded.memory.weights,
                    "model loaded"
                );
                Ok(())
            }
            Err(fault) => {
                tracing::warn!(model = name, code = fault.code.as_str(), message = %fault.message, "model not loaded");
                if let Some(old) = before
                    && let Ok(resolved) = self.library.resolve(&old)
                {
                    let never = Arc::new(AtomicBool::new(false));
                    match place.device.load(&old, resolved.source(), Arc::new(|_, _| ()), &never) {
                        Ok(_) => tracing::info!(model = old, "the model that served before is back"),
                        Err(again) => tracing::error!(
                            model = old,
                            code = again.code.as_str(),
                            "the model that served before did not come back"
                        ),
                    }
                }
                Err(fault)
            }
        }
    }

    fn unload_idle(&self, place: &Place) {
        let Some(limit) = self.idle_unload else { return };
        let idle = place.last_used.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        if idle > limit
            && let Some(loaded) = place.device.loaded()
            && let Some(_alone) = place.gate.try_alone()
        {
            tracing::info!(model = loaded.key, "idle; giving the model's memory back");
            if let Err(fault) = place.device.unload() {
                tracing::warn!(code = fault.code.as_str(), "the idle model could not be dropped");
            }
        }
    }
}
