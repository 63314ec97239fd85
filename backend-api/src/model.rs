//! Devices and models.

use crate::{AbiError, Ctl, DiffusionOpen, Param, Res, StepStats, Task, UpscaleOpen};
use abi_stable::{
    StableAbi, sabi_trait,
    std_types::{RBox, RErr, RSlice, RSliceMut, RStr, RString, RVec},
};

/// Names of the parts in [`ModelSource::files`] and [`ModelSource::configs`].
pub mod role {
    /// The first text encoder's weights or config.
    pub const TEXT_ENCODER: &str = "text_encoder";
    /// The second text encoder's weights or config.
    pub const TEXT_ENCODER_2: &str = "text_encoder_2";
    /// The UNet's weights or config.
    pub const UNET: &str = "unet";
    /// The VAE's weights or config.
    pub const VAE: &str = "vae";
    /// The small decoder for previews (TAESD): weights or config.
    pub const TAESD: &str = "taesd";
    /// A single file that holds every part under the original (LDM) key names.
    pub const CHECKPOINT: &str = "checkpoint";
    /// The first text encoder as an ONNX graph; its config stands under [`TEXT_ENCODER`].
    pub const ONNX_TEXT_ENCODER: &str = "onnx_text_encoder";
    /// The UNet as an ONNX graph; its config stands under [`UNET`].
    pub const ONNX_UNET: &str = "onnx_unet";
    /// The VAE's decoder as an ONNX graph; its config stands under [`VAE`].
    pub const ONNX_VAE_DECODER: &str = "onnx_vae_decoder";
    /// The VAE's encoder as an ONNX graph.
    pub const ONNX_VAE_ENCODER: &str = "onnx_vae_encoder";
    /// An upscaler's weights.
    pub const UPSCALER: &str = "upscaler";
}

/// Where a model lies and how it is built. The host has resolved names, read the JSON files and checked every header.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct ModelSource {
    /// A name for log lines.
    pub name: RString,
    /// Role → absolute path of a safetensors file, or of an ONNX graph for the roles of that name. A sharded part repeats its role, in order.
    pub files: RVec<Param>,
    /// Role → the text of the part's JSON config (as diffusers and transformers write them).
    pub configs: RVec<Param>,
    /// Further wishes. Known: `precision` (`f32`, `f16`, `bf16`), `vae_scale` overrides … unknown keys are ignored.
    pub options: RVec<Param>,
}

/// What loading a model would need; answered from configs and headers alone.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct ModelPlan {
    /// What the model is for.
    pub task: Task,
    /// Bytes that its weights will hold on the device.
    pub weight_bytes: u64,
    /// The most bytes while loading and while making one picture of the model's own size.
    pub peak_bytes: u64,
    /// Room to grow.
    pub params: RVec<Param>,
}

/// Memory in bytes; 0 where a figure is unknown.
#[repr(C)]
#[derive(StableAbi, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemReport {
    /// All memory of the device.
    pub device_total: u64,
    /// What is free on the device.
    pub device_free: u64,
    /// What weights hold.
    pub weights: u64,
    /// What buffers hold.
    pub scratch: u64,
}

/// One opened device.
#[sabi_trait]
pub trait Backend: Send + Sync {
    /// The device's memory.
    fn memory(&self) -> MemReport;
    /// Says what loading would need, reading configs and headers only.
    fn inspect(&self, source: &ModelSource) -> Res<ModelPlan>;
    /// Loads a model. Polls `ctl` and reports [`crate::Stage::LOAD`].
    #[sabi(last_prefix_field)]
    fn load(&self, source: &ModelSource, ctl: &Ctl) -> Res<ModelBox>;
}

/// An opened device, as the host holds it.
pub type BackendBox = Backend_TO<'static, RBox<()>>;

/// Loaded weights. Sessions share them and keep them alive.
#[sabi_trait]
pub trait Model: Send + Sync {
    /// What this model holds.
    fn memory(&self) -> MemReport;
    /// Opens the model for denoising.
    #[sabi(last_prefix_field)]
    fn diffusion(&self, options: RSlice<'_, Param>) -> Res<DiffusionOpen> {
        let _ = options;
        RErr(AbiError::unsupported("diffusion for this model"))
    }
    /// Opens the model for enlarging pictures.
    fn upscaler(&self, options: RSlice<'_, Param>) -> Res<UpscaleOpen> {
        let _ = options;
        RErr(AbiError::unsupported("upscaling for this model"))
    }
    /// Opens the model for text.
    fn llm(&self, options: RSlice<'_, Param>) -> Res<LlmOpen> {
        let _ = options;
        RErr(AbiError::unsupported("text generation for this model"))
    }
}

/// A loaded model, as the host holds it.
pub type ModelBox = Model_TO<'static, RBox<()>>;

/// What a language model is.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct LlmDesc {
    /// Number of tokens it knows.
    pub vocab: u32,
    /// The longest context in tokens.
    pub context: u32,
    /// Tokens that end a text.
    pub eos: RVec<u32>,
    /// Room to grow.
    pub params: RVec<Param>,
}

/// An opened language model.
#[sabi_trait]
pub trait Llm: Send {
    /// Text to token ids.
    fn tokenize(&self, text: RStr<'_>) -> Res<RVec<u32>>;
    /// Token ids to UTF-8 bytes; a piece may end inside a character.
    fn detokenize(&self, tokens: RSlice<'_, u32>) -> Res<RVec<u8>>;
    /// Feeds tokens at a position (many = prefill) and fills the logits (`vocab` values) after the last one.
    #[sabi(last_prefix_field)]
    fn step(&mut self, position: u64, tokens: RSlice<'_, u32>, logits: RSliceMut<'_, f32>, ctl: &Ctl)
    -> Res<StepStats>;
}

/// An opened language model, as the host holds it.
pub type LlmBox = Llm_TO<'static, RBox<()>>;

/// A description and the session it describes.
#[repr(C)]
#[derive(StableAbi)]
pub struct LlmOpen {
    /// What the model is.
    pub desc: LlmDesc,
    /// The session.
    pub session: LlmBox,
}
