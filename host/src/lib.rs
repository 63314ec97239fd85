//! The worker: turns prompts into pictures over HTTP and streams every step.
#![forbid(unsafe_code)]

pub mod auth;
pub mod server;
pub mod telemetry;
