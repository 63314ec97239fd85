//! What the integration tests and the benchmark share: a worker process, a client, a reader of event streams.

mod client;
mod worker;

pub use client::{Answer, Client, EventReader};
pub use worker::{Worker, WorkerOptions, bundled_models, program, root};
