//! Diffusion networks on candle: text encoders, UNets, autoencoders, built from a model's own JSON configs.
//!
//! Layers, each of which knows only those below it:
//! * [`session`]: a backend as the host sees it: loading, encoded texts, predictions, decoding in tiles;
//! * [`models`]: the networks, written once in their own terms;
//! * [`ops`]: the operations that networks are made of, one implementation a device;
//! * [`weights`] and [`config`]: files and JSON, checked before anything trusts them.
//!
//! The reference for every number is Hugging Face diffusers; `docs/PARITY-networks.md` says how close it is.

pub mod config;
mod error;
pub mod models;
pub mod ops;
pub mod session;
pub mod weights;

pub use error::{Error, Result};
pub use session::CandleBackend;
