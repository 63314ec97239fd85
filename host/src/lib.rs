//! The worker as a library: everything behind the programs `sd-worker` and `sd-worker-cpu | cuda | metal`.
#![forbid(unsafe_code)]

mod api;
pub mod app;
pub mod auth;
pub mod backends;
mod clerk;
pub mod cli;
pub mod config;
mod devices;
#[doc(hidden)]
pub mod doors;
pub mod embeddings;
pub mod engine;
pub mod fault;
pub mod hive;
pub mod jobs;
pub mod ledger;
pub mod library;
mod names;
pub mod outbound;
mod picture;
pub mod pulls;
mod recipe;
pub mod reload;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod upscalers;
pub mod webhook;
