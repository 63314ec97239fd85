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

/// How long a call into a child may take before the child is ended.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For a library to load and say what it is.
    pub probe: Duration,
    /// Without a sign of progress: for `open`, `load`, `decode`, and for the first call of a kind.
    pub first: Duration,
    /// The least for a later step; the limit itself is three times the slowest step so far.
    pub floor: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { probe: Duration::from_secs(10), first: Duration::from_secs(300), floor: Duration::from_secs(10) }
    }
}
