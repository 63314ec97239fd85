//! What is known of a job at one moment: its id, its state, its pictures, its times, and where it came from.

use crate::fault::Fault;
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
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

/// Milliseconds of each phase.
pub(crate) fn timings_json(t: &Timings) -> Value {
    let ms = |d: Duration| (d.as_secs_f64() * 1e6).round() / 1e3;
    json!({
        "queue_ms": ms(t.queue), "load_ms": ms(t.load), "encode_ms": ms(t.encode),
        "denoise_ms": ms(t.denoise), "decode_ms": ms(t.decode), "write_ms": ms(t.write),
    })
}
