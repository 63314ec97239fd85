//! One job over its life: its request, its state, its events and its pictures.

mod end;

use super::{
    EventRing, JobId, JobSpec, JobState, Keeper, Origin, Outcome, Past, Picture, SettledSpec, Snapshot, Timings,
};
use crate::fault::Fault;
use serde_json::{Map, Value, json};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

#[derive(Debug)]
struct Inner {
    state: JobState,
    /// Somebody is ending the job: its keeper is told, the others are not yet.
    ending: bool,
    /// It waits for another program and does not start in this one any more.
    suspended: bool,
    started: Option<Instant>,
    ended: Option<Instant>,
    step: u32,
    total: u32,
    pictures: Vec<Picture>,
    fault: Option<Fault>,
    timings: Timings,
}

/// One job.
#[derive(Debug)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// Whose it is: the name of the API key, or empty.
    pub owner: String,
    /// What it is asked to do.
    pub spec: SettledSpec,
    /// The request that made it.
    pub origin: Origin,
    /// Its events.
    pub events: EventRing,
    /// When it came.
    pub created: SystemTime,
    /// When it came, for measuring.
    pub created_at: Instant,
    cancel: Arc<AtomicBool>,
    wrap_up: AtomicBool,
    /// To be taken off its device without an end.
    parked: AtomicBool,
    /// The keeper has the job's end, so that memory need not hold it.
    kept: Arc<AtomicBool>,
    keeper: OnceLock<Arc<dyn Keeper>>,
    readers: AtomicU32,
    inner: Mutex<Inner>,
}

impl Job {
    /// A queued job.
    pub fn new(owner: String, spec: JobSpec, origin: Origin) -> Arc<Self> {
        Self::with_past(Past { id: JobId::random(), created: SystemTime::now(), last_event: 0 }, owner, spec, origin)
    }

    /// A queued job that a former program accepted.
    pub fn with_past(past: Past, owner: String, spec: JobSpec, origin: Origin) -> Arc<Self> {
        let total = spec.steps;
        let now = Instant::now();
        // A clock that was set back, and a machine that started later than the job came, give no age.
        let age = past.created.elapsed().unwrap_or_default();
        Arc::new(Job {
            id: past.id,
            owner,
            spec: SettledSpec::new(spec),
            origin,
            events: EventRing::after_id(past.last_event),
            created: past.created,
            created_at: now.checked_sub(age).unwrap_or(now),
            cancel: Arc::default(),
            wrap_up: AtomicBool::new(false),
            parked: AtomicBool::new(false),
            kept: Arc::default(),
            keeper: OnceLock::new(),
            readers: AtomicU32::new(0),
            inner: Mutex::new(Inner {
                state: JobState::Queued,
                ending: false,
                suspended: false,
                started: None,
                ended: None,
                step: 0,
                total,
                pictures: Vec::new(),
                fault: None,
                timings: Timings::default(),
            }),
        })
    }

    /// Gives the job a keeper, before anybody can start or end it.
    pub fn keep_with(&self, keeper: Arc<dyn Keeper>) {
        // A job has one keeper for life.
        let _ = self.keeper.set(keeper);
    }

    /// The keeper has the job's end.
    pub fn set_kept(&self) {
        self.kept.store(true, Ordering::Release);
    }

    /// The flag behind [`Job::set_kept`], for those who know it later.
    pub fn kept_flag(&self) -> Arc<AtomicBool> {
        self.kept.clone()
    }

    /// Whether the job's end is kept outside of memory.
    pub fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A consistent copy of what can change.
    pub fn snapshot(&self) -> Snapshot {
        let inner = self.lock();
        Snapshot {
            state: inner.state,
            step: inner.step,
            total: inner.total,
            pictures: inner.pictures.clone(),
            fault: inner.fault.clone(),
            timings: inner.timings,
            run_seconds: inner.started.map(|s| (inner.ended.unwrap_or_else(Instant::now) - s).as_secs_f64()),
        }
    }

    /// Where the job stands.
    pub fn state(&self) -> JobState {
        self.lock().state
    }

    /// When it ended, if it has.
    pub fn ended(&self) -> Option<Instant> {
        self.lock().ended
    }

    /// Seconds since 1970 at which the job came.
    pub fn created_unix(&self) -> f64 {
        self.created.duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
    }

    /// The flag that stops the job. Shared with calls into the backend.
    pub fn cancel_flag(&self) -> Arc<AtomicBool> {
        self.cancel.clone()
    }

    /// Whether somebody asked to stop it.
    pub fn cancel_requested(&self) -> bool {
        self.cancel.load(Ordering::Acquire)
    }

    /// Asks to stop. A queued job ends at once; a running one within a step. `false` when it had already ended.
    pub fn request_cancel(&self) -> bool {
        self.parked.store(false, Ordering::Release);
        self.cancel.store(true, Ordering::Release);
        let queued = {
            let inner = self.lock();
            if inner.ending {
                return false;
            }
            inner.state == JobState::Queued
        };
        if queued {
            // If a lane takes it this very moment, the flag stops it there.
            self.end(Outcome::Cancelled, true);
        }
        true
    }

    /// Asks a running job to end after the present step with the pictures as they are then. `false` when it does not run.
    pub fn request_wrap_up(&self) -> bool {
        let running = self.state() == JobState::Running;
        if running {
            self.wrap_up.store(true, Ordering::Release);
        }
        running
    }

    /// Whether somebody asked to end with what there is.
    pub fn wraps_up(&self) -> bool {
        self.wrap_up.load(Ordering::Acquire)
    }

    /// Asks to stop a running job so that it can run again later. It has no end then.
    pub fn park(&self) {
        if self.state() == JobState::Running {
            self.parked.store(true, Ordering::Release);
            self.cancel.store(true, Ordering::Release);
        }
    }

    /// Whether it was stopped to run again later.
    pub fn is_parked(&self) -> bool {
        self.parked.load(Ordering::Acquire)
    }

    /// Takes a parked job off its device: it waits again, for another program.
    pub fn release(&self) {
        {
            let mut inner = self.lock();
            inner.state = JobState::Queued;
            inner.pictures.clear();
        }
        if let Some(keeper) = self.keeper.get() {
            keeper.released(self);
        }
        self.suspend();
    }

    /// Suspends a job that waits. `false` when it has begun or ended: whoever begins it is either seen by this or sees it.
    pub fn suspend_waiting(&self) -> bool {
        {
            let mut inner = self.lock();
            if inner.state != JobState::Queued || inner.ending {
                return false;
            }
            inner.suspended = true;
        }
        self.suspend();
        true
    }

    /// Ends the streams of a job that goes on in another program. It has no end of its own here.
    pub fn suspend(&self) {
        let human = "the worker is being restarted; the job is kept and goes on after that: read this stream again";
        let mut fields = Map::new();
        fields.insert("action".into(), "shutdown".into());
        fields.insert("human".into(), human.into());
        self.events.publish("narration", line(Some(self.id.as_str()), "narration", fields), true);
    }

    /// Publishes an event. `fields` must be an object.
    pub fn publish(&self, name: &'static str, fields: Value) -> bool {
        let Value::Object(fields) = fields else { return false };
        self.events.publish(name, line(Some(self.id.as_str()), name, fields), false)
    }

    /// Publishes the first event. `before`: how many jobs stand before this one.
    pub fn announce(&self, before: usize) {
        let origin = &self.origin;
        self.publish(
            "queued",
            json!({ "position": before, "model": self.spec.model, "request_id": origin.request_id,
                "correlation_id": origin.correlation_id, "trace_id": origin.trace_id }),
        );
    }

    /// Marks the job as running. `false` when it ended or was suspended while it waited. The keeper hears of it before
    /// anybody else does.
    pub fn start(&self, device: &str) -> bool {
        let waits = |inner: &Inner| inner.state == JobState::Queued && !inner.ending && !inner.suspended;
        if !waits(&self.lock()) {
            return false;
        }
        if let Some(keeper) = self.keeper.get() {
            keeper.started(self);
        }
        let (begun, suspended) = {
            let mut inner = self.lock();
            let begun = waits(&inner);
            if begun {
                inner.state = JobState::Running;
                inner.started = Some(Instant::now());
                inner.timings.queue = self.created_at.elapsed();
            }
            (begun, inner.suspended && !inner.ending)
        };
        if !begun {
            // The keeper has heard of a start that there was not. Of an end it hears by itself.
            if let Some(keeper) = self.keeper.get().filter(|_| suspended) {
                keeper.released(self);
            }
            return false;
        }
        self.publish(
            "started",
            json!({
                "operation": self.spec.operation.as_str(), "model": self.spec.model, "device": device,
                "width": self.spec.finished_size().0, "height": self.spec.finished_size().1, "steps": self.spec.steps,
                "seed": self.spec.seed, "n": self.spec.n,
            }),
        )
    }

    /// Says what the job is asked to do in full, once its model is here. Only the first call counts, and only while the
    /// job waits.
    pub fn settle(&self, spec: JobSpec) {
        self.set_total(spec.steps);
        self.spec.settle(spec);
    }

    /// Corrects the number of steps once the sampler's plan is known.
    pub fn set_total(&self, total: u32) {
        self.lock().total = total;
    }

    /// Publishes a step.
    pub fn progress(&self, step: u32, total: u32) {
        {
            let mut inner = self.lock();
            inner.step = step;
            inner.total = total;
        }
        let percent = (f64::from(step) * 100.0 / f64::from(total.max(1))).round();
        self.publish("progress", json!({ "step": step, "total": total, "percent": percent }));
    }

    /// Changes the timings.
    pub fn time(&self, f: impl FnOnce(&mut Timings)) {
        f(&mut self.lock().timings);
    }

    /// Adds the finished picture of an index. `false` when it replaces one that was there before the job ran again.
    pub fn add_picture(&self, index: usize, picture: Picture) -> bool {
        let mut inner = self.lock();
        match inner.pictures.get_mut(index) {
            Some(old) => {
                *old = picture;
                false
            }
            None => {
                inner.pictures.push(picture);
                true
            }
        }
    }

    /// The job runs again from its start. Pictures that are there stay: the same seed gives the same ones.
    pub fn restart(&self, why: &str) {
        {
            let mut inner = self.lock();
            inner.step = 0;
            inner.timings = Timings { queue: inner.timings.queue, ..Timings::default() };
        }
        self.publish("narration", json!({ "action": "retry", "human": why }));
    }

    /// When the run began.
    pub fn started(&self) -> Option<Instant> {
        self.lock().started
    }

    /// Counts a reader of the stream in.
    pub fn reader_joined(&self) {
        self.readers.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts a reader out; the last one to leave an unfinished job may end it, by the job's own policy.
    pub fn reader_left(&self) {
        let last = self.readers.fetch_sub(1, Ordering::AcqRel) == 1;
        if last && self.spec.on_disconnect == super::OnDisconnect::Cancel && !self.state().is_terminal() {
            tracing::info!(job_id = %self.id, "the last reader left; cancelling as the job asked");
            self.request_cancel();
        }
    }
}

/// An event as one line of JSON.
pub(crate) fn line(job: Option<&str>, name: &str, fields: Map<String, Value>) -> String {
    let mut object = Map::new();
    object.insert("event".into(), name.into());
    object.insert("type".into(), name.into());
    if let Some(job) = job {
        object.insert("job_id".into(), job.into());
    }
    object.extend(fields);
    Value::Object(object).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::Ending;

    /// Writes down what it hears; with `race`, the job is suspended or cancelled while its start is being kept.
    #[derive(Debug, Default)]
    struct Notes {
        heard: Mutex<Vec<&'static str>>,
        race: Option<fn(&Job) -> bool>,
    }

    impl Notes {
        fn note(&self, what: &'static str) {
            self.heard.lock().unwrap().push(what);
        }
    }

    impl Keeper for Notes {
        fn started(&self, job: &Job) {
            self.note("started");
            if let Some(race) = self.race {
                race(job);
            }
        }
        fn ended(&self, _: &Job, _: &Ending) {
            self.note("ended");
        }
        fn released(&self, _: &Job) {
            self.note("released");
        }
    }

    fn begun(race: Option<fn(&Job) -> bool>) -> (Arc<Job>, Arc<Notes>, bool) {
        let job = Job::new(String::new(), JobSpec::default(), Origin::default());
        let notes = Arc::new(Notes { race, ..Notes::default() });
        job.keep_with(notes.clone());
        let begun = job.start("cpu");
        (job, notes, begun)
    }

    #[test]
    fn a_job_that_is_suspended_or_cancelled_while_it_starts_does_not_run() {
        for (race, starts, state, heard) in [
            (None, true, JobState::Running, &["started"][..]),
            (Some(Job::suspend_waiting as fn(&Job) -> bool), false, JobState::Queued, &["started", "released"]),
            (Some(Job::request_cancel), false, JobState::Cancelled, &["started", "ended"]),
        ] {
            let (job, notes, begun) = begun(race);
            assert_eq!((begun, job.state(), &**notes.heard.lock().unwrap()), (starts, state, heard));
            assert_eq!(job.suspend_waiting(), state == JobState::Queued, "only one that waits can be suspended");
        }
    }
}
