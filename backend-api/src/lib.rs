//! The stable interface between the sd-worker host and its backend plugins.
//!
//! A plugin is a shared library `libsd_backend_*.so` (`.dylib`, `.dll`). It offers *components*, never the sampling
//! loop: encode a text, predict once for a batch of latents, decode latents, encode a picture. The host owns noise,
//! schedules, samplers, guidance, masks, batching, progress and cancellation, so that every sampler and every job kind
//! works on every plugin already shipped, and the same seed gives the same picture on every device.
//!
//! ```text
//! Plugin { info, probe, open } → Backend { memory, inspect, load } → Model { memory, diffusion, upscaler, llm }
//!   → Diffusion { encode_text, free_cond, predict, decode, encode, preview, add_tokens }
//! ```
//!
//! # Writing a backend
//! Implement the plain Rust traits of [`author`] and call [`export_backend!`]. The kit catches panics, checks shapes,
//! and carries log lines to the host.
//!
//! # The contract
//! * **Numbers** are little-endian and contiguous. Latents are `f32` NCHW in *sampler space* (after the VAE's scaling
//!   and shift). Pictures are NHWC RGB, `u8` (0–255) or `f32` (0–1).
//! * **Threads**: `Backend` and `Model` may be asked from any thread; one thread at a time calls a `Diffusion`.
//!   Everything made from a device is also dropped by the thread that drives this device.
//! * **Lifetimes**: borrowed tensors are valid during the call only. A plugin keeps nothing of them.
//! * **Panics** never cross: every call returns a [`Res`]. A library built with `panic = "abort"` does not compile
//!   against this crate.
//! * **Cancellation**: `ctl.cancelled()` is polled in `load`, `decode` and `encode`, and should be polled inside
//!   `predict`, at least between the blocks of a network.
//! * **Unloading**: a library once opened stays mapped until the process ends. Dropping a `Model` gives its memory back.
//!
//! # Growth
//! The interface began at 1.0.0. A minor version only *adds*: methods behind the last prefix field, each with a default
//! body that answers [`Code::UNSUPPORTED`]; new codes of the open enums; new keys in the `params` tail that each
//! struct carries. The host checks layouts in both directions, so an older plugin runs in a newer host and the reverse.
//! A change of any existing name, type or order is a new major version.

// The derive macros of abi_stable write impls inside functions and helper types in another case.
#![allow(non_local_definitions, non_camel_case_types, reason = "written by abi_stable's derive macros")]
#![deny(missing_docs)]

#[cfg(not(panic = "unwind"))]
compile_error!(
    "backends and hosts must be built with panic = \"unwind\": a panic is turned into an error at the boundary"
);

pub mod author;
mod codes;
mod control;
mod diffusion;
mod error;
mod hardware;
mod model;
mod module;
mod needs;
mod params;
mod tensor;

/// The symbol that a plugin exports: an `abi_stable::library::LibHeader` for [`Plugin`]. The number is the interface's
/// major version, so that a plugin for another major is recognised before it is opened.
pub const ENTRY_SYMBOL: &str = "SD_BACKEND_V1";

pub use abi_stable;
pub use codes::{Code, DType, HwKind, LogLevel, Stage, Task};
pub use control::{Control, Control_TO, Ctl, Host, Host_TO, HostRef};
pub use diffusion::{
    Diffusion, Diffusion_TO, DiffusionBox, DiffusionDesc, DiffusionOpen, EncoderDesc, EncoderInput, PredictItem,
    StepStats, TextEncoded, TextRequest, UpscaleOpen, Upscaler, Upscaler_TO, UpscalerBox, UpscalerDesc, extra,
};
pub use error::{AbiError, Res};
pub use hardware::{HwDevice, Offer, PluginInfo};
pub use model::{
    Backend, Backend_TO, BackendBox, Llm, Llm_TO, LlmBox, LlmDesc, LlmOpen, MemReport, Model, Model_TO, ModelBox,
    ModelPlan, ModelSource, role,
};
pub use module::{Plugin, Plugin_Ref};
pub use needs::NEEDS;
pub use params::{Param, find};
pub use tensor::{TensorMut, TensorRef};
