//! The worker's side of a fleet: says that it is ready, and every 30 s that it lives.
//!
//! Everything here is best effort on a thread of its own. A queen that is down, slow, wrong or has no such address never delays a job.

mod beat;
mod client;
#[cfg(test)]
mod tests;

pub use beat::{Beat, Heart, start};

use crate::outbound::BadUrl;
use std::time::Duration;

/// What the worker is doing, in the words of the heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Loading its model.
    Starting,
    /// Waiting for jobs.
    Ready,
    /// Making pictures.
    Busy,
    /// Draining.
    Stopping,
    /// Gone.
    Stopped,
}

impl Status {
    /// The word on the wire.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Busy => "busy",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }

    /// Whether jobs may be sent.
    #[must_use]
    pub fn is_available(self) -> bool {
        matches!(self, Self::Ready | Self::Busy)
    }
}

/// The part of a heartbeat that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerStatus {
    /// What the worker is doing.
    pub status: Status,
    /// The model in memory, or the one to be loaded.
    pub model_id: String,
    /// Such as `cpu:0` or `cuda:1`.
    pub device: String,
}

/// Whom to tell what.
#[derive(Clone, Debug)]
pub struct HiveConfig {
    /// `--queen-url`: gets `POST /v1/worker-heartbeat`.
    pub queen_url: Option<String>,
    /// `--callback-url`: gets one `POST /v1/workers/ready`.
    pub callback_url: Option<String>,
    /// `--worker-id`.
    pub worker_id: String,
    /// The port that the worker listens on.
    pub port: u16,
    /// Where others reach the worker.
    pub own_url: String,
    /// Such as `sd-worker-rbee-cpu`.
    pub implementation: String,
    /// Such as `cpu`, `cuda`, `metal`.
    pub backend: String,
    /// The program's version.
    pub version: String,
    /// Times; the default is right outside of tests.
    pub timing: Timing,
}

/// The times of the heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats. Queens declare a worker dead after three of these.
    pub interval: Duration,
    /// The first wait after a failure; doubled at each further one up to `interval`, with jitter.
    pub retry: Duration,
    /// For a whole request.
    pub timeout: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { interval: Duration::from_secs(30), retry: Duration::from_secs(1), timeout: Duration::from_secs(5) }
    }
}

/// Why heartbeats cannot start.
#[derive(Debug, thiserror::Error)]
pub enum HiveError {
    /// Not an address to send to.
    #[error(transparent)]
    Url(#[from] BadUrl),
    /// No thread could be started.
    #[error("the heartbeat thread cannot start: {0}")]
    Thread(#[from] std::io::Error),
}

impl HiveError {
    /// A stable name for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Url(_) => "invalid_hive_url",
            Self::Thread(_) => "hive_thread",
        }
    }
}
