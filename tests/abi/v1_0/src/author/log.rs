//! The author's way into the host's log.
//!
//! A plugin has its own copy of every static, so `log` and `tracing` facades of the host do not reach it.

use crate::{HostRef, LogLevel};
use std::sync::RwLock;

static HOST: RwLock<Option<HostRef>> = RwLock::new(None);

/// Keeps the host's services; called by the export wrapper when a device is opened.
pub(super) fn install(host: HostRef) {
    if let Ok(mut slot) = HOST.write() {
        *slot = Some(host);
    }
}

/// Writes one line to the host's log. Lines before the first device is opened are lost.
pub fn write(level: LogLevel, target: &str, message: &str) {
    if let Ok(slot) = HOST.read()
        && let Some(host) = slot.as_ref()
    {
        host.log(level, target.into(), message.into());
    }
}

/// Writes an information line.
pub fn info(target: &str, message: &str) {
    write(LogLevel::INFO, target, message);
}

/// Writes a warning.
pub fn warn(target: &str, message: &str) {
    write(LogLevel::WARN, target, message);
}

/// Writes an error.
pub fn error(target: &str, message: &str) {
    write(LogLevel::ERROR, target, message);
}

/// Writes a detail line.
pub fn debug(target: &str, message: &str) {
    write(LogLevel::DEBUG, target, message);
}
