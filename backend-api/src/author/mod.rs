//! The author's kit: plain Rust traits, and the wrappers that make them safe to export.
//!
//! Implement [`Plugin`], [`Backend`], [`Model`] and [`Diffusion`]; then `backend_api::export_backend!(MyPlugin);`.
//! The wrappers catch every panic, poison the object it came from, check tensor shapes before the call, and keep the
//! host's log at hand for [`log`].

mod emphasis;
mod export;
mod guard;
pub mod log;
mod memory;
mod shapes;
mod traits;

pub use emphasis::Emphasis;
pub use guard::{info_guarded, open_guarded, probe_guarded};
pub use memory::{memory_below, system_memory};
pub use shapes::{Shapes, only_text};
pub use traits::{Backend, Diffusion, Model, Plugin, Upscaler};
