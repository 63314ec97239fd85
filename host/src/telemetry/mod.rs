//! What operators see: logs, request ids, metrics.

mod http;
mod ids;
mod logs;
mod metrics;
mod process;
mod rate;

pub use self::http::Observed;
pub use ids::{RequestIds, TraceContext};
pub use logs::{LogFormat, LogHandle, init, prompt_hash};
pub use metrics::{Kind, Metrics, Outcome, Stage};
pub use rate::Occasionally;

/// Why telemetry could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter is not understood.
    #[error("the log filter {filter:?} is not understood ({reason}); write for example info or sd_worker=debug,warn")]
    Filter {
        /// What was given.
        filter: String,
        /// The parser's complaint.
        reason: String,
    },
    /// Something else has installed a logger in this process.
    #[error("logging is already set up in this process")]
    AlreadySet,
    /// Two metrics share a name: a defect of ours.
    #[error("a metric cannot be registered: {0}")]
    Metric(#[from] prometheus::Error),
}

impl TelemetryError {
    /// A stable name for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Filter { .. } => "invalid_log_filter",
            Self::AlreadySet => "logging_already_set",
            Self::Metric(_) => "invalid_metric",
        }
    }
}
