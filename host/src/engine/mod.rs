//! The engine: lanes take jobs from the queue and run them on devices.
//!
//! A lane is a thread that runs one job at a time from start to end. It does the light work itself (noise, sampler
//! arithmetic, PNG) and asks its device's thread for the heavy work. Several lanes of one device let jobs share calls.
//! A device holds as many models as fit; a job holds a lease on each that it uses, and the one unused for longest makes
//! room for another.

mod again;
mod canvas;
mod device;
mod enlarge;
mod hires;
mod mount;
mod pictures;
mod place;
mod preview;
mod refine;
mod room;
mod run;
mod session;
mod shelf;
mod spares;
mod spread;
mod swap;
mod tensor;
mod text;
mod tokens;
mod until;

pub use device::{Device, LoadProgress, LoadedModel, Tag};
pub use session::{Enlarger, Session};
pub use spares::{Detour, Spare};
pub use swap::{Newcomer, Passed};
pub(crate) use text::check as check_prompt;

use crate::{
    fault::{Fault, FaultCode},
    jobs::{AtHand, Job, Operation, Outcome, Queue, Taker},
    library::Library,
    telemetry::{Metrics, Stage},
};
use again::Way;
use device::Task;
use mount::{Mount, Want};
use place::{Condition, Place, is_death};
use shelf::Source;
use spread::Outlook;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use until::Until;

/// How long a lane waits for a job before it looks after its device.
const IDLE: Duration = Duration::from_millis(500);
/// How often a lane looks at a device that does not work.
const LOOK: Duration = Duration::from_millis(50);

/// What a device is and holds, for people and programs.
#[derive(Debug, Clone)]
pub struct PlaceView {
    /// A label such as `cpu` or `cuda:0`.
    pub device: String,
    /// The plugin's id.
    pub backend: String,
    /// The plugin's version.
    pub version: String,
    /// The name of the file that it was opened from.
    pub file: String,
    /// The models on it, the one used last first.
    pub models: Vec<String>,
    /// Why no job runs there; `None` when they do.
    pub trouble: Option<String>,
    /// Further plugins that serve models which the first one cannot load.
    pub stand_ins: Vec<StandIn>,
}

/// A plugin that serves models which the first one of its device cannot load.
#[derive(Debug, Clone)]
pub struct StandIn {
    /// What it is.
    pub tag: Tag,
    /// The models, each with the reason.
    pub models: Vec<Detour>,
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
    max_models: usize,
    /// Where further plugins come from.
    spares: Option<Arc<dyn Spare>>,
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
        spares: Option<Arc<dyn Spare>>,
    ) -> std::io::Result<Arc<Engine>> {
        let places = devices
            .into_iter()
            .map(|(device, lanes)| Arc::new(Place::new(Mount::new(device, max_models, metrics.clone()), lanes)))
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
            max_models,
            spares,
            lanes: Mutex::default(),
        });
        for place in &engine.places {
            for lane in 0..place.lanes {
                let (engine_, place) = (engine.clone(), place.clone());
                let name = format!("lane {lane} {}", place.label);
                let handle = std::thread::Builder::new().name(name).spawn(move || engine_.lane(&place))?;
                engine.lanes.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
            }
        }
        Ok(engine)
    }

    /// The devices.
    pub fn devices(&self) -> Vec<Device> {
        self.places.iter().map(|p| p.mount().device.clone()).collect()
    }

    /// What each device is and holds.
    pub fn places(&self) -> Vec<PlaceView> {
        let view = |p: &Arc<Place>| {
            let mount = p.mount();
            let tag = &mount.device.tag;
            PlaceView {
                device: p.label.clone(),
                backend: tag.backend.to_string(),
                version: tag.version.to_string(),
                file: tag.file.to_string(),
                models: p.models(),
                trouble: p.trouble(),
                stand_ins: p
                    .spares
                    .all()
                    .into_iter()
                    .map(|(mount, models)| StandIn { tag: mount.device.tag.clone(), models })
                    .collect(),
            }
        };
        self.places.iter().map(view).collect()
    }

    /// The model used last on the first device that has one.
    pub fn loaded_model(&self) -> Option<String> {
        self.places.iter().find_map(|p| p.models().into_iter().next())
    }

    /// All loaded models, each once.
    pub fn loaded_models(&self) -> Vec<String> {
        let mut all: Vec<String> = self.places.iter().flat_map(|p| p.models()).collect();
        let mut seen = std::collections::HashSet::new();
        all.retain(|m| seen.insert(m.clone()));
        all
    }

    /// What decides the order of the waiting jobs beside themselves: the models on the devices that work, how many they
    /// hold, and how fast jobs follow each other.
    pub fn at_hand(&self) -> AtHand {
        let working: Vec<&Arc<Place>> = self.places.iter().filter(|p| p.trouble().is_none()).collect();
        let mut models = Vec::<String>::new();
        let running = working.iter().flat_map(|p| p.pace.running_models());
        for model in running.chain(working.iter().flat_map(|p| p.models())) {
            if !models.contains(&model) {
                models.push(model);
            }
        }
        let room = working.iter().map(|p| p.mount().room()).fold(0, usize::saturating_add);
        let lanes: usize = working.iter().map(|p| p.lanes).sum();
        AtHand::new(models, room, self.mean_job() / u32::try_from(lanes).unwrap_or(u32::MAX).max(1))
    }

    /// Jobs on a device now.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }

    /// How long a job takes, from those of late.
    pub fn mean_job(&self) -> Duration {
        Duration::from_millis(self.mean_job_ms.load(Ordering::Relaxed) as u64)
    }

    /// Why no job runs on any device; `None` when one works.
    pub fn broken(&self) -> Option<String> {
        if self.places.is_empty() {
            return None;
        }
        let reasons: Option<Vec<String>> = self.places.iter().map(|p| p.trouble()).collect();
        reasons.map(|all| all.join("; "))
    }

    /// Loads a model outside any job: on the devices that have it, else on the one with the fewest users of its models.
    /// Blocks.
    pub fn load_model(&self, name: &str) -> Result<LoadedModel, Fault> {
        self.load_model_watched(name, &(Arc::new(|_, _| ()) as LoadProgress))
    }

    /// The same, telling how it goes on.
    pub fn load_model_watched(&self, name: &str, progress: &LoadProgress) -> Result<LoadedModel, Fault> {
        let working = || self.places.iter().filter(|p| p.trouble().is_none());
        let place = working()
            .find(|p| p.mounts().iter().any(|mount| mount.holds(name, Task::Diffusion)))
            .or_else(|| working().min_by_key(|p| p.mounts().iter().map(|mount| mount.users()).sum::<usize>()))
            .ok_or_else(|| Fault::new(FaultCode::NotReady, "there is no device that works"))?;
        self.load_at(place, name, progress)
    }

    /// Loads a model on every device, on all at the same time. The error is that of the first, when none has it then.
    pub fn load_everywhere(&self, name: &str) -> Result<(), Fault> {
        let outcomes: Vec<Result<(), Fault>> = std::thread::scope(|scope| {
            let load = |p: &'_ Arc<Place>| {
                let place = p.clone();
                scope.spawn(move || self.load_at(&place, name, &(Arc::new(|_, _| ()) as LoadProgress)).map(|_| ()))
            };
            let running: Vec<_> = self.places.iter().map(load).collect();
            let broken = || Err(Fault::internal("the model could not be loaded"));
            running.into_iter().map(|r| r.join().unwrap_or_else(|_| broken())).collect()
        });
        let mut faults = Vec::new();
        for outcome in outcomes {
            match outcome {
                Ok(()) => return Ok(()),
                Err(fault) => faults.push(fault),
            }
        }
        faults.into_iter().next().map_or(Ok(()), Err)
    }

    fn load_at(&self, place: &Place, name: &str, progress: &LoadProgress) -> Result<LoadedModel, Fault> {
        let mut mount = place.mount_for(&[name]);
        let (since, was_there) = (Instant::now(), mount.holds(name, Task::Diffusion));
        let (mut died, mut first) = (false, None);
        let loaded = loop {
            let fault = match self.hold(&mount, name, &Until::default(), progress) {
                Ok(session) => break session.loaded.clone(),
                Err(fault) => fault,
            };
            if is_death(fault.code) {
                mount.retire(None);
                // Before a lesser plugin takes over, a fresh process has its chance.
                if !died && !mount.device.is_stuck() && self.has_spare(place) {
                    died = true;
                    continue;
                }
            }
            if let Some(next) = self.spare_for_load(place, &mount, name, &fault) {
                first.get_or_insert((mount, fault));
                (mount, died) = (next, false);
                continue;
            }
            if first.is_some() {
                place.spares.forget(name);
            }
            let (mount, fault) = first.unwrap_or((mount, fault));
            if is_death(fault.code) {
                place.tried(&mount, name, Some(&fault));
            }
            return Err(fault);
        };
        if !was_there {
            place.pace.loaded(name, since.elapsed().as_secs_f64());
        }
        Ok(loaded)
    }

    /// Lets the usual plugin of each device try again what it could not load before.
    pub fn forget_stand_ins(&self) {
        self.places.iter().for_each(|place| place.spares.clear());
    }

    /// Gives a model's memory back. `false` when it was on no device; a fault while jobs use it.
    pub fn unload_model(&self, name: &str) -> Result<bool, Fault> {
        let mut found = false;
        for mount in self.places.iter().flat_map(|place| place.mounts()) {
            found |= mount.take_down(name)?;
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
            match place.condition() {
                Condition::Fine => {}
                Condition::Try(model) => {
                    self.revive(place, &model);
                    continue;
                }
                Condition::Paused => {
                    std::thread::sleep(LOOK);
                    continue;
                }
                Condition::Stuck | Condition::Broken => {
                    self.refuse_waiting();
                    std::thread::sleep(LOOK);
                    continue;
                }
            }
            if let Some(limit) = self.idle_unload {
                place.mounts().iter().for_each(|mount| mount.take_down_idle(limit));
            }
            let Some(job) = self.queue.pop(|| self.looking(place), IDLE) else { continue };
            self.running.fetch_add(1, Ordering::AcqRel);
            place.pace.begin(&job.id, job.spec.models(), place.outlook().expected((&*job.spec).into()));
            self.run(place, &job);
            place.pace.end(&job.id);
            self.running.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// A free lane looks at the queue: its own device, and the others that work.
    fn looking(&self, place: &Place) -> Looking {
        let others = self.places.iter().filter(|p| p.label != place.label && p.trouble().is_none());
        Looking { works: place.takes_jobs(), mine: place.outlook(), others: others.map(|p| p.outlook()).collect() }
    }

    /// Tries whether the backend works again, by loading a model.
    fn revive(&self, place: &Place, model: &str) {
        let quiet: LoadProgress = Arc::new(|_, _| ());
        let mount = place.mount();
        let outcome = self.hold(&mount, model, &Until::default(), &quiet).map(|_| ());
        if place.tried(&mount, model, outcome.as_ref().err()) {
            tracing::info!(device = place.label, "the backend works again");
        } else if let Err(fault) = &outcome {
            mount.retire(None);
            tracing::error!(device = place.label, message = %fault.message, "the backend does not come back; it is tried again");
        }
    }

    /// When no device works, waiting jobs would wait for ever.
    fn refuse_waiting(&self) {
        let Some(reason) = self.broken() else { return };
        for job in self.queue.take_all() {
            let fault = Fault::new(FaultCode::BackendDied, format!("no device works: {reason}"));
            job.finish(Outcome::Failed(fault));
        }
    }

    fn run(&self, first: &Place, job: &Arc<Job>) {
        let (id, from) = (job.id.as_str(), &job.origin);
        let (request_id, correlation_id, trace_id) = (&*from.request_id, &*from.correlation_id, &*from.trace_id);
        let span = tracing::info_span!("job", job_id = id, request_id, correlation_id, trace_id);
        let _in = span.enter();
        if !job.start(&first.label) {
            return;
        }
        let since = Instant::now();
        let mut way = Way::new(first, job);
        let outcome = loop {
            match self.attempt(&way, job) {
                Outcome::Failed(fault) if is_death(fault.code) && job.cancel_requested() => break Outcome::Cancelled,
                Outcome::Failed(fault) => {
                    let (code, device) = (fault.code.as_str(), way.place.label.clone());
                    match way.on(self, job, fault) {
                        Ok(why) => {
                            tracing::warn!(code, device, message = why, "running the job once more");
                            job.restart(&why);
                        }
                        Err(fault) => break Outcome::Failed(fault),
                    }
                }
                outcome => break outcome,
            }
        };
        if job.is_parked() && matches!(outcome, Outcome::Cancelled) {
            tracing::info!("the shutdown's deadline has stopped this job; it runs again after the restart");
            return job.release();
        }
        let label = match &outcome {
            Outcome::Complete => "ok",
            Outcome::Cancelled => "cancelled",
            Outcome::Failed(fault) => fault.code.as_str(),
        };
        let took = since.elapsed();
        tracing::info!(outcome = label, seconds = took.as_secs_f64(), "job ended");
        if let Outcome::Failed(fault) = &outcome {
            tracing::warn!(code = fault.code.as_str(), message = %fault.message, "job failed");
        }
        if matches!(outcome, Outcome::Complete) {
            let mean = self.mean_job_ms.load(Ordering::Relaxed) as u64;
            let next = (mean * 7 + took.as_millis() as u64) / 8;
            self.mean_job_ms.store(next as usize, Ordering::Relaxed);
        }
        self.measure(job, &outcome, took);
        job.finish(outcome);
        for suspect in way.suspects {
            // Twice in a row: is it the job, or does the backend not come back at all?
            self.revive(suspect, &job.spec.model);
        }
    }

    /// Runs a job, from its start to its end on one backend, and takes down what its failure spoiled.
    fn attempt(&self, way: &Way<'_>, job: &Arc<Job>) -> Outcome {
        let Way { place, mount, .. } = way;
        let task = if job.spec.operation == Operation::Upscale { Task::Upscaling } else { Task::Diffusion };
        let was_there = mount.holds(&job.spec.model, task);
        match catch_unwind(AssertUnwindSafe(|| run::job(self, mount, job))) {
            Ok(Ok(())) => {
                let t = job.snapshot().timings;
                if !was_there {
                    place.pace.loaded(&job.spec.model, t.load.as_secs_f64());
                }
                place.pace.drawn((&*job.spec).into(), (t.encode + t.denoise + t.decode + t.write).as_secs_f64());
                Outcome::Complete
            }
            Ok(Err(fault)) if fault.code == FaultCode::Cancelled => Outcome::Cancelled,
            Ok(Err(fault)) => {
                match fault.code {
                    // With its process every model is gone.
                    FaultCode::BackendDied | FaultCode::BackendHung => {
                        self.metrics.backend_died(&place.label);
                        mount.retire(None);
                    }
                    // After a caught panic the session refuses everything: the next job gets a fresh one.
                    FaultCode::BackendPanic | FaultCode::OutOfMemory | FaultCode::BackendError => {
                        job.spec.models().for_each(|model| mount.retire(Some(model)));
                    }
                    _ => {}
                }
                Outcome::Failed(fault)
            }
            Err(_) => Outcome::Failed(Fault::internal("the worker failed on this job")),
        }
    }

    fn measure(&self, job: &Job, outcome: &Outcome, took: Duration) {
        let now = job.snapshot();
        let (m, t) = (&self.metrics, now.timings);
        m.job_started(t.queue);
        m.job_ran(job.spec.operation.into(), took);
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
    fn hold(&self, mount: &Arc<Mount>, name: &str, until: &Until, progress: &LoadProgress) -> Result<Session, Fault> {
        let mut all = self.hold_all(mount, &[name], until, progress)?;
        all.pop().ok_or_else(|| Fault::internal("no model came"))
    }

    /// The same for several models that one job needs at the same time. Whoever holds a session must not ask for more.
    fn hold_all(
        &self,
        mount: &Arc<Mount>,
        names: &[&str],
        until: &Until,
        progress: &LoadProgress,
    ) -> Result<Vec<Session>, Fault> {
        let finders: Vec<_> = names.iter().map(|name| || self.source(name)).collect();
        let wants: Vec<Want<'_>> =
            names.iter().zip(&finders).map(|(key, find)| Want { key, task: Task::Diffusion, find }).collect();
        mount.hold(&wants, until, progress)?.into_iter().map(Session::new).collect()
    }

    fn source(&self, name: &str) -> Result<Source, Fault> {
        let resolved = self.library.resolve(name)?;
        Ok(Source { files: resolved.source(), fingerprint: resolved.model.fingerprint.clone() })
    }
}

/// A lane at the queue.
struct Looking {
    /// It may have stopped working while the lane waited.
    works: bool,
    mine: Outlook,
    others: Vec<Outlook>,
}

impl Taker for Looking {
    fn holds(&self, model: &str) -> bool {
        self.mine.holds(model)
    }

    fn leaves(&mut self, job: &Job) -> bool {
        !self.works || spread::leaves(&self.mine, &mut self.others, (&*job.spec).into())
    }
}
