//! What a plugin may ask of the host: log lines, cancellation, progress.

use crate::{LogLevel, Stage};
use abi_stable::{
    sabi_trait,
    std_types::{RArc, RStr},
};

/// The host's services for as long as a backend is open.
#[sabi_trait]
pub trait Host: Send + Sync + Clone {
    /// Hands one log line to the host's log.
    #[sabi(last_prefix_field)]
    fn log(&self, level: LogLevel, target: RStr<'_>, message: RStr<'_>);
    /// New in 1.1. A host that does not know it answers 7.
    fn mood(&self) -> u64 {
        7
    }
}

/// The caller's hand on one call.
#[sabi_trait]
pub trait Control: Send + Sync {
    /// Whether the caller wants the call to stop. Cheap: it may be polled between any two kernels.
    fn cancelled(&self) -> bool;
    /// Tells how far the call is: `done` of `total` in the stage's unit.
    #[sabi(last_prefix_field)]
    fn progress(&self, stage: Stage, done: u64, total: u64);
}

/// A host, as a plugin holds it.
pub type HostRef = Host_TO<'static, RArc<()>>;
/// A control, as a call receives it.
pub type Ctl = Control_TO<'static, RArc<()>>;
