//! The components of a diffusion model and of an upscaler.

use crate::{AbiError, Ctl, Param, Res, TensorMut, TensorRef};
use abi_stable::{
    StableAbi, sabi_trait,
    std_types::{RBox, RErr, RSlice, RString, RVec},
};

/// Names of the extra tensors of a [`PredictItem`]. All are `f32`.
pub mod extra {
    /// SDXL's sizes and crop, `[6]` (height, width, top, left, target height, target width); `[5]` with the aesthetic
    /// score last for a refiner.
    pub const TIME_IDS: &str = "time_ids";
    /// The inpainting mask in latent size, `[1, h, w]`, 1 = repaint.
    pub const MASK: &str = "mask";
    /// The encoded masked picture, `[c, h, w]`, in sampler space.
    pub const MASKED_LATENTS: &str = "masked_latents";
    /// The encoded picture of an instruct edit, `[c, h, w]`, unscaled (diffusers feeds the raw mode).
    pub const IMAGE_LATENTS: &str = "image_latents";
    /// The guidance scale that a distilled model takes as an input, `[1]`.
    pub const GUIDANCE: &str = "guidance_scale";
}

/// One text encoder of a model.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct EncoderDesc {
    /// The role of its weights: `text_encoder` or `text_encoder_2`.
    pub name: RString,
    /// Tokens in a chunk, start and end included: 77 for CLIP.
    pub max_length: u32,
    /// Width of a hidden state.
    pub hidden_size: u32,
    /// Number of known tokens, before any that were added.
    pub vocab_size: u32,
    /// Room to grow.
    pub params: RVec<Param>,
}

/// What a diffusion model is and takes.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct DiffusionDesc {
    /// Channels of the latents that the sampler moves: 4 for Stable Diffusion.
    pub latent_channels: u32,
    /// Pixels per latent cell, in each direction: 8 for Stable Diffusion.
    pub vae_factor: u32,
    /// The side of the training pictures in latent cells; 0 where the model does not say.
    pub sample_size: u32,
    /// The most items of one `predict` call.
    pub max_batch: u32,
    /// The text encoders, in the order in which `encode_text` takes their tokens.
    pub encoders: RVec<EncoderDesc>,
    /// The extra tensors that every item must bring (see [`extra`]).
    pub inputs: RVec<RString>,
    /// Room to grow. Known: `mixed_batch=0` when all items of a batch must share a timestep; `encode=1` when pictures
    /// can be encoded; `preview_factor=8` when [`Diffusion::preview`] works.
    pub params: RVec<Param>,
}

/// The tokens for one text encoder.
#[repr(C)]
#[derive(StableAbi, Debug, Clone, Copy)]
pub struct EncoderInput<'a> {
    /// Which encoder: the index into [`DiffusionDesc::encoders`].
    pub encoder: u32,
    /// Tokens in a chunk, start and end included.
    pub chunk_length: u32,
    /// `chunks × chunk_length` token ids.
    pub tokens: RSlice<'a, u32>,
    /// A weight for each token; 1 = unchanged.
    pub weights: RSlice<'a, f32>,
    /// One chunk with the tokens of the empty text, for emphasis that interpolates from it.
    pub empty: RSlice<'a, u32>,
    /// Room to grow.
    pub params: RSlice<'a, Param>,
}

/// A text to encode. Every encoder gets the same number of chunks.
#[repr(C)]
#[derive(StableAbi, Debug, Clone, Copy)]
pub struct TextRequest<'a> {
    /// One entry per encoder.
    pub inputs: RSlice<'a, EncoderInput<'a>>,
    /// Room to grow. Known: `clip_skip` (0 = the model's own layer, 1 = skip the last layer …; diffusers' count),
    /// `emphasis` (`a1111` scales and restores the mean, `no_norm` only scales, `comfy` interpolates from the empty
    /// text, `none` ignores weights), `zero=1` (answer all zeros: SDXL's empty negative prompt).
    pub params: RSlice<'a, Param>,
}

/// An encoded text. The states stay on the device.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct TextEncoded {
    /// The id that `predict` takes, valid until `free_cond`.
    pub cond: u64,
    /// Length of the states: chunks × chunk length.
    pub tokens: u32,
    /// Bytes it holds on the device.
    pub bytes: u64,
    /// Room to grow.
    pub params: RVec<Param>,
}

/// One item of a batch. Items of one call may differ in everything but the latents' size.
#[repr(C)]
#[derive(StableAbi, Debug, Clone, Copy)]
pub struct PredictItem<'a> {
    /// The encoded text.
    pub cond: u64,
    /// The timestep in the model's units: 0–999, may lie between whole numbers.
    pub timestep: f32,
    /// The noise level (variance-exploding sigma) at this timestep; for backends that work in sigma.
    pub sigma: f32,
    /// Further inputs by name (see [`extra`]).
    pub extra: RSlice<'a, TensorRef<'a>>,
    /// Room to grow.
    pub params: RSlice<'a, Param>,
}

/// What a call cost.
#[repr(C)]
#[derive(StableAbi, Debug, Clone, Copy, Default)]
pub struct StepStats {
    /// Nanoseconds on the device.
    pub device_ns: u64,
}

impl StepStats {
    /// All the time since then, for devices that do nothing else meanwhile.
    pub fn since(start: std::time::Instant) -> Self {
        StepStats { device_ns: u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX) }
    }
}

/// An opened diffusion model. One caller at a time, which `&mut` enforces.
#[sabi_trait]
pub trait Diffusion: Send {
    /// Encodes a text for every encoder of the model. Errors: `INVALID` for token ids out of range or wrong lengths.
    fn encode_text(&mut self, request: TextRequest<'_>, ctl: &Ctl) -> Res<TextEncoded>;
    /// Forgets an encoded text. Unknown ids are ignored.
    fn free_cond(&mut self, cond: u64);
    /// Runs the denoiser once. `x`: `[n, latent_channels, h, w]` `f32`, already scaled as the model expects (the host
    /// applies the schedule's input scale); `items`: n; `out`: the same shape, the network's raw output.
    fn predict(
        &mut self,
        x: TensorRef<'_>,
        items: RSlice<'_, PredictItem<'_>>,
        out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Res<StepStats>;
    /// Decodes latents. `latents`: `[n, c, h, w]` `f32` in sampler space; `out`: `[n, h·f, w·f, 3]`, `u8` or `f32` 0–1.
    /// `options`: `tile` = side of a tile in latent cells, 0 = whole, absent = the backend's choice.
    #[sabi(last_prefix_field)]
    fn decode(
        &mut self,
        latents: TensorRef<'_>,
        options: RSlice<'_, Param>,
        out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Res<StepStats>;
    /// Encodes pictures. `image`: `[n, h·f, w·f, 3]`, `u8` or `f32` 0–1; `out`: `[n, 2c, h, w]` `f32`: the mean, then the
    /// standard deviation of the latents, both in sampler space (the mean with shift and scaling, the deviation with
    /// scaling). `options`: as in `decode`; `raw=1` asks for both without shift and scaling.
    fn encode(
        &mut self,
        image: TensorRef<'_>,
        options: RSlice<'_, Param>,
        out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Res<StepStats> {
        let _ = (image, options, out, ctl);
        RErr(AbiError::unsupported("encoding of pictures"))
    }
    /// Decodes latents fast and roughly with the model's preview network; shapes as in `decode`, with the factor from
    /// the description.
    fn preview(&mut self, latents: TensorRef<'_>, out: TensorMut<'_>, ctl: &Ctl) -> Res<StepStats> {
        let _ = (latents, out, ctl);
        RErr(AbiError::unsupported("previews by a network"))
    }
    /// Adds token embeddings (textual inversion) to one encoder: `vectors` `[n, hidden_size]` `f32`. Answers the id of
    /// the first new token; the others follow.
    fn add_tokens(&mut self, encoder: u32, vectors: TensorRef<'_>) -> Res<u32> {
        let _ = (encoder, vectors);
        RErr(AbiError::unsupported("added tokens"))
    }
}

/// An opened diffusion model, as the host holds it.
pub type DiffusionBox = Diffusion_TO<'static, RBox<()>>;

/// A description and the session it describes.
#[repr(C)]
#[derive(StableAbi)]
pub struct DiffusionOpen {
    /// What the model is and takes.
    pub desc: DiffusionDesc,
    /// The session.
    pub session: DiffusionBox,
}

/// What an upscaler does.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct UpscalerDesc {
    /// Output pixels per input pixel, in each direction.
    pub factor: u32,
    /// The side of a tile in input pixels that the backend prefers.
    pub tile: u32,
    /// Input pixels around a tile that its output depends on.
    pub overlap: u32,
    /// Room to grow.
    pub params: RVec<Param>,
}

/// An opened upscaler.
#[sabi_trait]
pub trait Upscaler: Send {
    /// Enlarges one picture: `image` `[h, w, 3]` `f32` 0–1, `out` `[h·factor, w·factor, 3]` `f32` 0–1. The host tiles.
    #[sabi(last_prefix_field)]
    fn upscale(&mut self, image: TensorRef<'_>, out: TensorMut<'_>, ctl: &Ctl) -> Res<StepStats>;
}

/// An opened upscaler, as the host holds it.
pub type UpscalerBox = Upscaler_TO<'static, RBox<()>>;

/// A description and the session it describes.
#[repr(C)]
#[derive(StableAbi)]
pub struct UpscaleOpen {
    /// What it does.
    pub desc: UpscalerDesc,
    /// The session.
    pub session: UpscalerBox,
}
