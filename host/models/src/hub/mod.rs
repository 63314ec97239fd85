//! The Hugging Face hub: its cache on disk, and fetching what a model needs.

pub(crate) mod cache;
mod error;

pub use error::HubError;
