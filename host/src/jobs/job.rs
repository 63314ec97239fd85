//! One job: its request, its state, its events and its pictures.

use super::{Ending, EventRing, JobSpec, Keeper, SettledSpec};
use crate::fault::{Fault, FaultCode};
use serde_json::{Map, Value, json};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
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

impl Picture {
    /// The file without a copy: a reader that fetches it slowly costs no memory.
    pub fn shared(&self) -> bytes::Bytes {
        struct Shared(Arc<Vec<u8>>);
        impl AsRef<[u8]> for Shared {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        bytes::Bytes::from_owner(Shared(self.bytes.clone()))
    }
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

/// The ids of the request that made a job, for logs and streams.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Origin {
    /// `X-Request-Id`.
    pub request_id: String,
    /// `X-Correlation-ID`.
    pub correlation_id: String,
    /// The trace of `traceparent`: 32 hexadecimal digits.
    pub trace_id: String,
}

/// What a job that comes back after a restart was before.
#[derive(Debug)]
pub struct Past {
    /// The id it had.
    pub id: JobId,
    /// When it came first.
    pub created: SystemTime,
    /// The number of the newest event that anybody can have seen.
    pub last_event: u64,
}

#[derive(Debug)]
struct Inner {
    state: JobState,
    /// Somebody is ending the job: its keeper is told, the others are not yet.
    ending: bool,
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

    /// A job that ended in a former program, with the `fields` of its last event. Nothing happens to it any more.
    pub fn ended_before(
        past: Past,
        owner: String,
        spec: JobSpec,
        state: JobState,
        pictures: Vec<Picture>,
        fields: Map<String, Value>,
    ) -> Arc<Self> {
        let job = Self::with_past(past, owner, spec, Origin::default());
        let event = match state {
            JobState::Completed => "complete",
            JobState::Cancelled => "cancelled",
            _ => "error",
        };
        let fault = (state == JobState::Failed).then(|| {
            let code = fields.get("code").and_then(Value::as_str).and_then(FaultCode::parse);
            let message = fields.get("message").and_then(Value::as_str).unwrap_or_default();
            Fault::new(code.unwrap_or(FaultCode::Internal), message)
        });
        {
            let mut inner = job.lock();
            (inner.state, inner.ending, inner.ended) = (state, true, Some(Instant::now()));
            (inner.fault, inner.pictures) = (fault, pictures);
        }
        let fields = job.with_picture(fields);
        job.events.publish(event, line(Some(job.id.as_str()), event, fields), true);
        job
    }

    /// The fields of the last event, and the first picture, if there is one.
    fn with_picture(&self, mut fields: Map<String, Value>) -> Map<String, Value> {
        use base64::Engine as _;
        if let Some(first) = self.lock().pictures.first() {
            let text = base64::engine::general_purpose::STANDARD.encode(first.bytes.as_slice());
            fields.insert("image_base64".into(), text.into());
        }
        fields
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

    /// Marks the job as running. `false` when it ended while it waited. The keeper hears of it before anybody else does.
    pub fn start(&self, device: &str) -> bool {
        let waits = |inner: &Inner| inner.state == JobState::Queued && !inner.ending;
        if !waits(&self.lock()) {
            return false;
        }
        if let Some(keeper) = self.keeper.get() {
            keeper.started(self);
        }
        {
            let mut inner = self.lock();
            if !waits(&inner) {
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

    /// Ends the job: exactly one terminal event, the first call wins. The keeper hears of it before anybody else does.
    pub fn finish(&self, outcome: Outcome) -> bool {
        self.end(outcome, false)
    }

    fn end(&self, outcome: Outcome, only_queued: bool) -> bool {
        let Some(ending) = self.decide(outcome, only_queued) else { return false };
        if let Some(keeper) = self.keeper.get() {
            keeper.ended(self, &ending);
        }
        {
            let mut inner = self.lock();
            inner.state = ending.state;
            inner.ended = Some(Instant::now());
            inner.fault = ending.fault;
            inner.pictures = ending.pictures;
        }
        let fields = self.with_picture(ending.fields);
        self.cancel.store(true, Ordering::Release);
        let first = self.events.publish(ending.event, line(Some(self.id.as_str()), ending.event, fields), true);
        if let Some(keeper) = self.keeper.get() {
            keeper.told(self);
        }
        first
    }

    /// Decides how the job ends. Only the first caller gets an answer.
    fn decide(&self, outcome: Outcome, only_queued: bool) -> Option<Ending> {
        let mut inner = self.lock();
        if inner.ending || (only_queued && inner.state != JobState::Queued) {
            return None;
        }
        inner.ending = true;
        let (state, event, fields, fault) = match outcome {
            Outcome::Complete => (JobState::Completed, "complete", self.complete_fields(&inner), None),
            Outcome::Cancelled => {
                let fields = json!({ "code": FaultCode::Cancelled.as_str(), "message": "the job was cancelled" });
                (JobState::Cancelled, "cancelled", fields, None)
            }
            Outcome::Failed(fault) => {
                let fields = json!({
                    "code": fault.code.as_str(), "message": fault.message, "field": fault.field,
                    "retriable": fault.code.retriable(),
                });
                (JobState::Failed, "error", fields, Some(fault))
            }
        };
        let pictures = if state == JobState::Completed { inner.pictures.clone() } else { Vec::new() };
        let fields = match fields {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        // Nothing but the end is published from here on.
        let event_id = self.events.last_id() + 1;
        Some(Ending { state, event, event_id, fields, pictures, fault, ran: inner.started.is_some() })
    }

    fn complete_fields(&self, inner: &Inner) -> Value {
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

/// Milliseconds of each phase.
pub(crate) fn timings_json(t: &Timings) -> Value {
    let ms = |d: Duration| (d.as_secs_f64() * 1e6).round() / 1e3;
    json!({
        "queue_ms": ms(t.queue), "load_ms": ms(t.load), "encode_ms": ms(t.encode),
        "denoise_ms": ms(t.denoise), "decode_ms": ms(t.decode), "write_ms": ms(t.write),
    })
}
