//! The host's services as a plugin sees them: the log, the cancel flag, the progress.

use crate::error::clean;
use backend_api::{
    Control, Control_TO, Ctl, Host, Host_TO, HostRef, LogLevel, Stage,
    abi_stable::{
        sabi_trait::prelude::TD_Opaque,
        std_types::{RArc, RStr},
    },
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// The longest log line taken from a plugin, in characters.
const LINE: usize = 4096;

/// A flag that stops calls. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A flag that is not set.
    pub fn new() -> Self {
        Cancel::default()
    }
    /// Asks every call that carries this flag to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }
    /// Whether it was asked.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

struct Call<F> {
    cancel: Cancel,
    progress: F,
}

impl<F: Fn(Stage, u64, u64) + Send + Sync> Control for Call<F> {
    fn cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }
    fn progress(&self, stage: Stage, done: u64, total: u64) {
        // A panic must not unwind into the plugin; the panic hook has told about it.
        let _ = catch_unwind(AssertUnwindSafe(|| (self.progress)(stage, done, total)));
    }
}

/// What a call into a plugin carries: a cancel flag, and a function that hears of its progress (from any thread).
pub fn control(cancel: &Cancel, progress: impl Fn(Stage, u64, u64) + Send + Sync + 'static) -> Ctl {
    Control_TO::from_ptr(RArc::new(Call { cancel: cancel.clone(), progress }), TD_Opaque)
}

struct Services<F>(Arc<F>);

impl<F> Clone for Services<F> {
    fn clone(&self) -> Self {
        Services(Arc::clone(&self.0))
    }
}

impl<F: Fn(LogLevel, &str, &str) + Send + Sync> Host for Services<F> {
    fn log(&self, level: LogLevel, target: RStr<'_>, message: RStr<'_>) {
        let (target, message) = (clean(target, 64), clean(message, LINE));
        // As above: nothing unwinds into the plugin.
        let _ = catch_unwind(AssertUnwindSafe(|| (self.0)(level, &target, &message)));
    }
}

/// A host whose log lines go to `sink` (level, target, message), from any thread.
pub fn host_ref(sink: impl Fn(LogLevel, &str, &str) + Send + Sync + 'static) -> HostRef {
    Host_TO::from_ptr(RArc::new(Services(Arc::new(sink))), TD_Opaque)
}

/// A host whose log lines become `tracing` events of target `plugin`, with the backend's id.
pub fn tracing_host(id: &str) -> HostRef {
    let id = id.to_owned();
    host_ref(move |level, target, message| match level {
        LogLevel::ERROR => tracing::error!(target: "plugin", backend = %id, part = target, "{message}"),
        LogLevel::WARN => tracing::warn!(target: "plugin", backend = %id, part = target, "{message}"),
        LogLevel::INFO => tracing::info!(target: "plugin", backend = %id, part = target, "{message}"),
        LogLevel::DEBUG => tracing::debug!(target: "plugin", backend = %id, part = target, "{message}"),
        _ => tracing::trace!(target: "plugin", backend = %id, part = target, "{message}"),
    })
}
