//! Backend plugins: what hardware there is, which libraries are found, which of them may run, and the opening of one.
//!
//! ```text
//! Search ─ scan ─► Catalog ─ report ─► Report (every file: chosen, available, skipped or refused, and why)
//!                     └───── open(Choice, HostRef) ─► Opened { id, device, backend }
//! ```
//!
//! A library is never opened before its file was checked ([`precheck`], [`trust`]), never twice under the same path,
//! and never closed. [`Opened::backend`] is the interface's own trait object, whether the plugin runs in this process or
//! in a child; every answer passes [`vetted`], so callers need not distrust a description or an output.

mod catalog;
mod choose;
pub mod conformance;
mod control;
mod error;
pub mod hardware;
mod isolate;
mod load;
mod pinned;
pub mod precheck;
mod reopen;
mod report;
mod succession;
mod trust;
mod vetted;

pub use backend_api;
pub use catalog::{Catalog, Choice, Isolate, Opened, Search, is_path};
pub use choose::{Seat, Seats};
pub use control::{Cancel, control, host_ref, tracing_host};
pub use error::PluginError;
pub use isolate::{Limits, child_main};
pub use report::{DeviceReport, OfferReport, PluginReport, Report, State};
pub use succession::{Heir, Origin, Standing, Succession};
pub use trust::Trust;
#[doc(hidden)]
pub use trust::listed;
pub use vetted::NOT_FINITE;
