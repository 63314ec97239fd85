//! One opened device: a thread of its own makes every call into the plugin, and its drops too.
//!
//! [`Device`] is the lanes' hand on it: each call sends a command and waits for the answer. [`thread`] is the other
//! side: it holds the backend and any number of loaded [`model`]s. `predict` commands that wait at the same time for the
//! same model and the same latent size ride in one call, whatever their jobs and timesteps.

mod handle;
mod model;
mod pulse;
mod thread;

pub use handle::{Device, Tag};

use super::{
    tensor::{Item, Latents},
    tokens::AddedTokens,
};
use crate::fault::Fault;
use backend_api::{DiffusionDesc, MemReport, ModelPlan, ModelSource, UpscalerDesc};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64},
    mpsc,
};

/// Receives load progress: bytes done and in all.
pub type LoadProgress = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// Ids and weights for one encoder.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EncoderTokens {
    /// Tokens in a chunk.
    pub chunk_length: u32,
    /// Token ids of all chunks.
    pub tokens: Vec<u32>,
    /// Bits of the weights: comparable, unlike floats.
    pub weights: Vec<u32>,
    /// One chunk of the empty text.
    pub empty: Vec<u32>,
}

/// A text to encode; equal texts are encoded once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TextKey {
    /// One entry per encoder.
    pub encoders: Vec<EncoderTokens>,
    /// Parameters of the call, as pairs.
    pub params: Vec<(String, String)>,
}

/// An encoded text. While a handle lives the device keeps the states.
#[derive(Debug, Clone)]
pub struct Cond {
    /// The backend's id, within its model.
    pub id: u64,
    /// Length of the states in tokens.
    pub tokens: u32,
    lease: Arc<()>,
}

/// A model for denoising on a device.
#[derive(Debug, Clone)]
pub struct LoadedModel {
    /// The catalogue key.
    pub key: String,
    /// What the model takes.
    pub desc: Arc<DiffusionDesc>,
    /// What it holds.
    pub memory: MemReport,
    /// Tokens that were added to it.
    pub(super) tokens: Arc<AddedTokens>,
}

/// What a model is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Denoising.
    Diffusion,
    /// Enlarging pictures.
    Upscaling,
}

/// What an opened model takes.
#[derive(Debug, Clone)]
pub enum Desc {
    /// A denoiser with its encoders and decoder.
    Diffusion(Arc<DiffusionDesc>),
    /// An upscaler.
    Upscaling(Arc<UpscalerDesc>),
}

/// One model on one device; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ModelId(u64);

impl ModelId {
    pub(super) fn fresh() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        ModelId(NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
    }
}

/// Where an answer goes.
pub(super) type Reply<T> = mpsc::SyncSender<Result<T, Fault>>;

/// What lanes ask of the device as a whole.
enum Command {
    Inspect {
        source: Box<ModelSource>,
        reply: Reply<ModelPlan>,
    },
    Load {
        id: ModelId,
        task: Task,
        source: Box<ModelSource>,
        progress: LoadProgress,
        stop: Arc<AtomicBool>,
        reply: Reply<(Desc, MemReport)>,
    },
    Unload {
        id: ModelId,
        reply: Reply<()>,
    },
    Memory {
        reply: Reply<MemReport>,
    },
    Call(ModelId, Call),
}

/// What lanes ask of one model.
pub(super) enum Call {
    Text { key: TextKey, stop: Arc<AtomicBool>, reply: Reply<Cond> },
    Predict(Predict),
    Decode { latents: Latents, tile: Option<u32>, stop: Arc<AtomicBool>, reply: Reply<Vec<f32>> },
    Encode { pixels: Vec<f32>, size: [usize; 3], raw: bool, stop: Arc<AtomicBool>, reply: Reply<Latents> },
    Preview { latents: Latents, factor: usize, stop: Arc<AtomicBool>, reply: Reply<Vec<f32>> },
    AddTokens { encoder: u32, vectors: Vec<f32>, count: usize, reply: Reply<u32> },
    Upscale { pixels: Vec<f32>, size: [usize; 2], stop: Arc<AtomicBool>, reply: Reply<Vec<f32>> },
}

/// One prediction.
pub(super) struct Predict {
    pub(super) x: Latents,
    pub(super) items: Vec<Item>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) reply: Reply<Latents>,
}
