//! Plugins in processes of their own: a crash, a hang or an out-of-memory kill costs one job.
//!
//! ```text
//! host                                             child (`sd-worker plugin-child FILE`)
//!  RemoteBackend ─ Process ── work socket ───────►  main thread: open, load, predict …, one call at a time
//!        │            ├────── side socket ───────►  side thread: memory, inspect, pings; log lines come back
//!        │            └────── sealed memfd ──────►  tensors; a flag that cancels the running call
//!        └ a new process at the next `load` or `inspect`, with a growing pause after each failure
//! ```
//!
//! Messages are JSON in frames with a length; tensors never cross the sockets. The host believes nothing: a frame that
//! is too long, does not parse or answers another question ends the child.
//!
//! Only Linux has sealed memory; elsewhere every plugin runs in the host's process.

#[cfg(target_os = "linux")]
mod child;
#[cfg(not(target_os = "linux"))]
mod none;
pub(crate) mod probe;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
mod remote;
#[cfg(target_os = "linux")]
mod sandbox;
#[cfg(target_os = "linux")]
mod shared;
#[cfg(target_os = "linux")]
mod wire;

#[cfg(target_os = "linux")]
pub use child::child_main;
#[cfg(not(target_os = "linux"))]
pub use none::child_main;
#[cfg(not(target_os = "linux"))]
pub(crate) use none::{Spec, open};
#[cfg(target_os = "linux")]
pub(crate) use remote::{Spec, open};

use std::time::Duration;

/// Whether this system can isolate plugins.
pub(crate) const AVAILABLE: bool = cfg!(target_os = "linux");

/// The name of a signal that programs die of, in brackets.
#[cfg(unix)]
pub(crate) fn signal_name(signal: i32) -> &'static str {
    match signal {
        libc::SIGSEGV => " (SIGSEGV)",
        libc::SIGABRT => " (SIGABRT)",
        libc::SIGBUS => " (SIGBUS)",
        libc::SIGILL => " (SIGILL)",
        libc::SIGFPE => " (SIGFPE)",
        libc::SIGKILL => " (SIGKILL)",
        #[cfg(target_os = "linux")]
        libc::SIGSYS => " (SIGSYS)",
        _ => "",
    }
}

/// How long a call into a child may take before the child is ended, and how much memory it may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For a library to load and say what it is.
    pub probe: Duration,
    /// Without a sign of progress: for `open`, `load`, `decode`, and for the first call of a kind.
    pub first: Duration,
    /// The least for a later step; the limit itself is three times the slowest step so far.
    pub floor: Duration,
    /// Bytes of memory that the child may take after it opened its device; `None` = as many as there are.
    pub room: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        let [probe, first, floor] = [10, 300, 10].map(Duration::from_secs);
        Limits { probe, first, floor, room: None }
    }
}
