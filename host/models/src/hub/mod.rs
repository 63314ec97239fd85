//! The Hugging Face hub: its cache on disk, and fetching what a model needs.
//!
//! The `hf-hub` crate gives the layout of the shared cache ([`cache`]). The transfer is our own, on the same HTTP
//! client, because hf-hub 0.5 does not compare a file with its checksum, has no timeout for a hub that stops sending,
//! knows neither `HF_HUB_OFFLINE` nor cancellation, cannot list sizes, and folds every status into one error.

pub(crate) mod cache;
mod client;
mod error;
mod lock;
mod options;
mod plan;
mod pull;
mod transfer;

pub use error::HubError;
pub use options::HubOptions;
pub use pull::{OnEvent, PullEvent, Pulled, pull};
