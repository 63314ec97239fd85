//! The worker: turns prompts into pictures over HTTP and streams every step.
#![forbid(unsafe_code)]

pub mod auth;
pub mod hive;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod webhook;
