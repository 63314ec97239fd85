//! What the integration tests and the benchmark share: a worker process, a client, a reader of event streams.

#![allow(clippy::expect_used, clippy::panic, reason = "tests stop at the first surprise")]

mod client;
pub mod meter;
mod plugins;
mod random;
pub mod soak;
#[cfg(unix)]
mod terminal;
pub mod trials;
pub mod wire;
mod worker;

pub use client::{Answer, Client, EventReader};
pub use plugins::Plugins;
pub use random::Random;
#[cfg(unix)]
pub use terminal::{Answers, Terminal};
pub use worker::{Worker, WorkerOptions, bundled_models, copy_folder, program, root};
