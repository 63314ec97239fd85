//! One job: its request, its state, its events and its pictures.

use super::{EventRing, JobSpec, SettledSpec};
use crate::fault::{Fault, FaultCode};
use serde_json::{Map, Value, json};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// A job's id: `job-` and a random UUID.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(Arc<str>);

impl JobId {
    /// A fresh one.
    pub fn random() -> Self {
        JobId(format!("job-{}", uuid::Uuid::new_v4()).into())
    }

    /// Checks the text form: nothing else is ever looked up.
    pub fn parse(text: &str) -> Option<Self> {
        let uuid = text.strip_prefix("job-")?;
        let well_formed = uuid.len() == 36 && uuid.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit());
        (well_formed && uuid::Uuid::parse_str(uuid).is_ok()).then(|| JobId(text.into()))
    }

    /// The text form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for JobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobState {
    /// Waiting for a device.
    Queued,
    /// On a device.
    Running,
    /// Ended with pictures.
    Completed,
    /// Ended with a fault.
    Failed,
    /// Ended on request.
    Cancelled,
}

impl JobState {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Queued => "queued",
            JobState::Running => "running",
            JobState::Completed => "completed",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more will happen.
    pub fn is_terminal(self) -> bool {
        matches!(self, JobState::Completed | JobState::Failed | JobState::Cancelled)
    }

    /// The state of a wire name.
    pub fn parse(text: &str) -> Option<Self> {
        [JobState::Queued, JobState::Running, JobState::Completed, JobState::Failed, JobState::Cancelled]
            .into_iter()
            .find(|s| s.as_str() == text)
    }
}

/// A finished picture.
#[derive(Debug, Clone)]
pub struct Picture {
    /// The encoded file.
    pub bytes: Arc<Vec<u8>>,
    /// Its media type.
    pub media_type: &'static str,
    /// The seed it was made from.
    pub seed: u64,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// A1111's text form of the recipe.
    pub infotext: Arc<str>,
}

/// How a job ended.
#[derive(Debug)]
pub enum Outcome {
    /// With pictures.
    Complete,
    /// With a fault.
    Failed(Fault),
    /// On request.
    Cancelled,
}

/// Durations of a job's phases.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timings {
    /// Waiting in the queue.
    pub queue: Duration,
    /// Loading the model.
    pub load: Duration,
    /// Encoding texts and pictures.
    pub encode: Duration,
    /// The steps.
    pub denoise: Duration,
    /// Decoding latents.
    pub decode: Duration,
    /// Writing the files.
    pub write: Duration,
}

#[derive(Debug)]
struct Inner {
    state: JobState,
    started: Option<Instant>,
    ended: Option<Instant>,
    step: u32,
    total: u32,
    pictures: Vec<Picture>,
    fault: Option<Fault>,
    timings: Timings,
}

/// A consistent copy of what can change.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Where the job stands.
    pub state: JobState,
    /// Steps done.
    pub step: u32,
    /// Steps in all.
    pub total: u32,
    /// The pictures so far.
    pub pictures: Vec<Picture>,
    /// Why it failed.
    pub fault: Option<Fault>,
    /// How long each phase took.
    pub timings: Timings,
    /// Seconds since the run began, or until its end.
    pub run_seconds: Option<f64>,
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
    /// Its events.
    pub events: EventRing,
    /// When it came.
    pub created: SystemTime,
    /// When it came, for measuring.
    pub created_at: Instant,
    cancel: Arc<AtomicBool>,
    wrap_up: AtomicBool,
    readers: AtomicU32,
    inner: Mutex<Inner>,
}

impl Job {
    /// A queued job.
    pub fn new(owner: String, spec: JobSpec) -> Arc<Self> {
        Self::with_id(JobId::random(), owner, spec)
    }

    /// A queued job with an id it had before.
    pub fn with_id(id: JobId, owner: String, spec: JobSpec) -> Arc<Self> {
        let total = spec.steps;
        Arc::new(Job {
            id,
            owner,
            spec: SettledSpec::new(spec),
            events: EventRing::default(),
            created: SystemTime::now(),
            created_at: Instant::now(),
            cancel: Arc::default(),
            wrap_up: AtomicBool::new(false),
            readers: AtomicU32::new(0),
            inner: Mutex::new(Inner {
                state: JobState::Queued,
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
        self.cancel.store(true, Ordering::Release);
        let queued = {
            let inner = self.lock();
            if inner.state.is_terminal() {
                return false;
            }
            inner.state == JobState::Queued
        };
        if queued {
            self.finish(Outcome::Cancelled);
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

    /// Publishes an event. `fields` must be an object.
    pub fn publish(&self, name: &'static str, fields: Value) -> bool {
        self.events.publish(name, self.line(name, fields), false)
    }

    fn line(&self, name: &'static str, fields: Value) -> String {
        let mut object = Map::new();
        object.insert("event".into(), name.into());
        object.insert("type".into(), name.into());
        object.insert("job_id".into(), self.id.as_str().into());
        if let Value::Object(more) = fields {
            object.extend(more);
        }
        Value::Object(object).to_string()
    }

    /// Marks the job as running. `false` when it ended while it waited.
    pub fn start(&self, device: &str) -> bool {
        {
            let mut inner = self.lock();
            if inner.state != JobState::Queued {
                return false;
            }
            inner.state = JobState::Running;
            inner.started = Some(Instant::now());
            inner.timings.queue = self.created_at.elapsed();
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

    /// Ends the job: exactly one terminal event, the first call wins.
    pub fn finish(&self, outcome: Outcome) -> bool {
        let (name, fields) = {
            let mut inner = self.lock();
            if inner.state.is_terminal() {
                return false;
            }
            inner.ended = Some(Instant::now());
            match outcome {
                Outcome::Complete => {
                    inner.state = JobState::Completed;
                    ("complete", self.complete_fields(&inner))
                }
                Outcome::Cancelled => {
                    inner.state = JobState::Cancelled;
                    inner.pictures.clear();
                    ("cancelled", json!({ "code": FaultCode::Cancelled.as_str(), "message": "the job was cancelled" }))
                }
                Outcome::Failed(fault) => {
                    inner.state = JobState::Failed;
                    inner.pictures.clear();
                    let fields = json!({
                        "code": fault.code.as_str(), "message": fault.message, "field": fault.field,
                        "retriable": fault.code.retriable(),
                    });
                    inner.fault = Some(fault);
                    ("error", fields)
                }
            }
        };
        self.cancel.store(true, Ordering::Release);
        self.events.publish(name, self.line(name, fields), true)
    }

    fn complete_fields(&self, inner: &Inner) -> Value {
        use base64::Engine as _;
        let base64 = |p: &Picture| base64::engine::general_purpose::STANDARD.encode(p.bytes.as_slice());
        let images: Vec<Value> = inner
            .pictures
            .iter()
            .enumerate()
            .map(|(i, p)| {
                json!({ "index": i, "seed": p.seed, "width": p.width, "height": p.height,
                "media_type": p.media_type, "url": format!("/v1/jobs/{}/images/{i}", self.id) })
            })
            .collect();
        let first = inner.pictures.first();
        json!({
            "image_base64": first.map(base64),
            "format": self.spec.format.extension(),
            "seed": first.map_or(self.spec.seed, |p| p.seed),
            "seeds": inner.pictures.iter().map(|p| p.seed).collect::<Vec<_>>(),
            "images": images,
            "timings": timings_json(&inner.timings),
        })
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

/// Milliseconds of each phase.
pub(crate) fn timings_json(t: &Timings) -> Value {
    let ms = |d: Duration| (d.as_secs_f64() * 1e6).round() / 1e3;
    json!({
        "queue_ms": ms(t.queue), "load_ms": ms(t.load), "encode_ms": ms(t.encode),
        "denoise_ms": ms(t.denoise), "decode_ms": ms(t.decode), "write_ms": ms(t.write),
    })
}
