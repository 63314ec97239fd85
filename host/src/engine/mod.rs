//! The engine: lanes take jobs from the queue and run them on devices.
//!
//! A lane is a thread that runs one job at a time from start to end. It does the light work itself (noise, sampler
//! arithmetic, PNG) and asks its device's thread for the heavy work. Several lanes of one device let jobs share calls.
//! A device holds as many models as fit; a job holds a lease on each that it uses, and the one unused for longest makes
//! room for another.

mod canvas;
mod device;
mod hires;
mod mount;
mod pictures;
mod preview;
mod room;
mod run;
mod session;
mod shelf;
mod tensor;
mod text;
mod tokens;

pub use device::{Device, LoadProgress, LoadedModel};
pub use session::{Enlarger, Session};
pub(crate) use text::check as check_prompt;

use crate::{
    fault::{Fault, FaultCode},
    jobs::{Job, Outcome, Queue},
    library::Library,
    telemetry::{Metrics, Outcome as Ended, Stage},
};
use device::Task;
use mount::{Mount, Want};
use shelf::Source;
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

/// What a device is and holds, for people and programs.
#[derive(Debug, Clone)]
pub struct PlaceView {
    /// A label such as `cpu` or `cuda:0`.
    pub device: String,
    /// The plugin's id.
    pub backend: String,
    /// The models on it, the one used last first.
    pub models: Vec<String>,
}

/// A device with its models, as lanes work on it.
#[derive(Debug)]
struct Place {
    mount: Arc<Mount>,
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
    /// Starts a number of lanes for each device, which holds at most `max_models` models.
    pub fn start(
        devices: Vec<(Device, usize)>,
        queue: Arc<Queue>,
        library: Arc<Library>,
        metrics: Arc<Metrics>,
        idle_unload: Option<Duration>,
        max_models: usize,
    ) -> std::io::Result<Arc<Engine>> {
        let lanes: Vec<usize> = devices.iter().map(|(_, lanes)| *lanes).collect();
        let places = devices
            .into_iter()
            .map(|(device, _)| Arc::new(Place { mount: Mount::new(device, max_models, metrics.clone()) }))
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
                let name = format!("lane {lane} {}", place.mount.device.label);
                let handle = std::thread::Builder::new().name(name).spawn(move || engine_.lane(&place))?;
                engine.lanes.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
            }
        }
        Ok(engine)
    }

    /// The devices.
    pub fn devices(&self) -> Vec<Device> {
        self.places.iter().map(|p| p.mount.device.clone()).collect()
    }

    /// What each device is and holds.
    pub fn places(&self) -> Vec<PlaceView> {
        let view = |p: &Arc<Place>| PlaceView {
            device: p.mount.device.label.to_string(),
            backend: p.mount.device.backend.to_string(),
            models: p.mount.models(),
        };
        self.places.iter().map(view).collect()
    }

    /// The model used last on the first device that has one.
    pub fn loaded_model(&self) -> Option<String> {
        self.places.iter().find_map(|p| p.mount.models().into_iter().next())
    }

    /// All loaded models, each once.
    pub fn loaded_models(&self) -> Vec<String> {
        let mut all: Vec<String> = self.places.iter().flat_map(|p| p.mount.models()).collect();
        let mut seen = std::collections::HashSet::new();
        all.retain(|m| seen.insert(m.clone()));
        all
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
        self.places.iter().all(|p| p.mount.device.is_stuck())
    }

    /// Loads a model on the device that does least, outside any job. Blocks.
    pub fn load_model(&self, name: &str) -> Result<LoadedModel, Fault> {
        let place = self
            .places
            .iter()
            .find(|p| p.mount.holds(name))
            .or_else(|| self.places.iter().min_by_key(|p| p.mount.users()))
            .ok_or_else(|| Fault::new(FaultCode::NotReady, "there is no device"))?;
        let quiet: LoadProgress = Arc::new(|_, _| ());
        Ok(self.hold(place, name, &Arc::default(), &quiet)?.loaded.clone())
    }

    /// Gives a model's memory back. `false` when it was on no device; a fault while jobs use it.
    pub fn unload_model(&self, name: &str) -> Result<bool, Fault> {
        let mut found = false;
        for place in &self.places {
            found |= place.mount.take_down(name)?;
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
            if place.mount.device.is_stuck() {
                std::thread::sleep(IDLE);
                continue;
            }
            if let Some(limit) = self.idle_unload {
                place.mount.take_down_idle(limit);
            }
            let Some(job) = self.queue.pop(&|model| place.mount.holds(model), IDLE) else { continue };
            self.running.fetch_add(1, Ordering::AcqRel);
            self.run(place, &job);
            self.running.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn run(&self, place: &Place, job: &Arc<Job>) {
        if !job.start(&place.mount.device.label) {
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
            match fault.code {
                // With its process every model is gone.
                FaultCode::BackendDied | FaultCode::BackendHung => place.mount.retire(None),
                // After a caught panic the session refuses everything: the next job gets a fresh one.
                FaultCode::BackendPanic | FaultCode::OutOfMemory | FaultCode::BackendError => {
                    place.mount.retire(Some(&job.spec.model));
                }
                _ => {}
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

    /// Makes sure that a model is on the device, and keeps it there while the session lives.
    fn hold(
        &self,
        place: &Place,
        name: &str,
        stop: &Arc<AtomicBool>,
        progress: &LoadProgress,
    ) -> Result<Session, Fault> {
        let mut all = self.hold_all(place, &[name], stop, progress)?;
        all.pop().ok_or_else(|| Fault::internal("no model came"))
    }

    /// The same for several models that one job needs at the same time. Whoever holds a session must not ask for more.
    fn hold_all(
        &self,
        place: &Place,
        names: &[&str],
        stop: &Arc<AtomicBool>,
        progress: &LoadProgress,
    ) -> Result<Vec<Session>, Fault> {
        let finders: Vec<_> = names.iter().map(|name| || self.source(name)).collect();
        let wants: Vec<Want<'_>> =
            names.iter().zip(&finders).map(|(key, find)| Want { key, task: Task::Diffusion, find }).collect();
        place.mount.hold(&wants, stop, progress)?.into_iter().map(Session::new).collect()
    }

    fn source(&self, name: &str) -> Result<Source, Fault> {
        let resolved = self.library.resolve(name)?;
        Ok(Source { files: resolved.source(), fingerprint: resolved.model.fingerprint.clone() })
    }
}
