//! Models on disk: names, catalogue, formats, header checks, hub, import.
//!
//! A name becomes a [`ResolvedModel`]: the safetensors files and JSON configs of every part, checked against each
//! other before anybody maps a byte of weights. Nothing here computes with weights, and nothing here knows HTTP
//! requests or backends; a backend gets plain paths and JSON texts ([`Source`]).
//!
//! What is never done: open a pickle, follow a link out of the models directory, read a config without a bound.

#![forbid(unsafe_code)]

pub mod aliases;
mod catalogue;
mod check;
mod config;
mod defaults;
mod drop_ins;
mod embedding;
mod error;
mod family;
mod files;
mod folder;
mod hash;
mod header;
mod hub;
mod import;
mod layout;
mod library;
mod memory;
mod name;
mod onnx;
mod previews;
#[cfg(test)]
mod published;
mod resolved;
mod single;
mod tokenizer;
mod upscaler;
mod weights;

pub use catalogue::{Entry, Origin};
pub use check::Report;
pub use defaults::{FamilyDefaults, Prediction, SchedulerFacts};
pub use embedding::{Embedding, EmbeddingFile};
pub use error::{ModelError, Result};
pub use family::{Family, Purpose};
pub use files::MAX_CONFIG_BYTES;
pub use folder::{Prefer, ResolveOptions};
pub use header::{Dtype, Header, MAX_HEADER_BYTES, TensorInfo};
pub use hub::{HubError, HubOptions, OnEvent, PullEvent, Pulled, cache::default_cache_dir, pull};
pub use library::{Library, bundled_dirs};
pub use memory::{MemoryEstimate, Precision, Weights};
pub use name::{HubId, MAX_NAME_BYTES, ModelName, ModelRef};
pub use resolved::{Format, ResolvedModel, Source, Tokenizer, TokenizerSource};
pub use tokenizer::TokenizerTexts;
pub use upscaler::{UpscalerFile, UpscalerModel};
