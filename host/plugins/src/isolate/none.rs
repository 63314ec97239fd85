//! Systems without sealed shared memory: nothing is isolated, and the catalogue does not ask for it.

use super::Limits;
use crate::pinned::Pinned;
use backend_api::{AbiError, BackendBox, HostRef, HwDevice, Param};
use std::{ffi::OsString, sync::Arc};

/// As on Linux; here no process is started with it.
pub fn child_main(_: impl IntoIterator<Item = OsString>) -> i32 {
    tracing::error!("this system does not isolate plugins");
    2
}

/// As on Linux.
#[allow(dead_code, reason = "the catalogue fills it in on every system")]
pub(crate) struct Spec {
    pub(crate) command: Vec<OsString>,
    pub(crate) library: Arc<Pinned>,
    pub(crate) device: HwDevice,
    pub(crate) options: Vec<Param>,
    pub(crate) host: HostRef,
    pub(crate) limits: Limits,
}

/// Always refuses.
pub(crate) fn open(_: Spec) -> Result<BackendBox, AbiError> {
    Err(AbiError::unsupported("a process of its own on this system"))
}
