//! Estimated memory of a model, from the shapes of its networks.

use crate::{
    config::{unet::UnetConfig, vae::VaeConfig},
    header::{Dtype, Header, TensorInfo},
    resolved::Networks,
};
use std::collections::BTreeMap;

/// A number type to compute in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit.
    F32,
    /// 16-bit (float16 or bfloat16).
    Half,
}

impl Precision {
    /// Bytes of one number.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::Half => 2,
        }
    }
}

/// What the weight files hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Weights {
    /// Numbers in all tensors that are weights.
    pub parameters: u64,
    /// Bytes of tensors by number type, as on disk.
    pub bytes_by_dtype: BTreeMap<&'static str, u64>,
    /// Parameters of each part.
    pub parameters_by_part: BTreeMap<&'static str, u64>,
    /// Bytes of all weight files.
    pub file_bytes: u64,
}

impl Weights {
    pub(crate) fn add(&mut self, part: &'static str, header: &Header) {
        self.file_bytes += header.file_bytes;
        header.tensors.values().for_each(|tensor| self.add_tensor(part, tensor));
    }

    pub(crate) fn add_tensor(&mut self, part: &'static str, tensor: &TensorInfo) {
        let count = tensor.count();
        if tensor.dtype.is_weight() {
            self.parameters += count;
            *self.parameters_by_part.entry(part).or_default() += count;
        }
        *self.bytes_by_dtype.entry(tensor.dtype.name()).or_default() += count * tensor.dtype.bytes();
    }

    /// The number type of most bytes: `F16`, `F32` …
    #[must_use]
    pub fn precision(&self) -> &'static str {
        self.bytes_by_dtype.iter().max_by_key(|(_, bytes)| **bytes).map_or(Dtype::F32.name(), |(name, _)| name)
    }
}

/// Bytes that one picture needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Weights in the chosen precision.
    pub weights: u64,
    /// Feature maps of the UNet with guidance (a batch of two).
    pub unet: u64,
    /// Feature maps of the VAE's decoder.
    pub vae: u64,
    /// Weights and the larger of the two.
    pub peak: u64,
}

/// Adds up feature maps. Attention is taken as streamed (its scores are never whole in memory).
pub(crate) fn estimate(
    networks: &Networks,
    weights: &Weights,
    width: u64,
    height: u64,
    precision: Precision,
) -> MemoryEstimate {
    let weight_bytes = weights.parameters.saturating_mul(precision.bytes());
    let down = networks.vae.downscale();
    let latent = (width.div_ceil(down)).saturating_mul(height.div_ceil(down));
    let unet = unet_numbers(&networks.unet, latent).saturating_mul(2 * precision.bytes());
    let vae = vae_numbers(&networks.vae, latent).saturating_mul(precision.bytes());
    MemoryEstimate { weights: weight_bytes, unet, vae, peak: weight_bytes.saturating_add(unet.max(vae)) }
}

/// Every skip connection, and the widest block's working set: its input with the skip, two maps of a resnet, and
/// the gated feed-forward (eight times the width) where it has transformers.
fn unet_numbers(unet: &UnetConfig, latent: u64) -> u64 {
    let mut skips = 0_u64;
    let mut widest = 0_u64;
    for (level, block) in unet.down.iter().enumerate() {
        let pixels = (latent >> (2 * level.min(31))).max(1);
        let map = pixels.saturating_mul(block.channels);
        skips = skips.saturating_add(map.saturating_mul(block.layers + 1));
        let working = if block.depth.is_empty() { 5 } else { 11 };
        widest = widest.max(map.saturating_mul(working));
    }
    skips.saturating_add(widest)
}

/// The largest working set of the decoder: at each level the upsampled map of the level below and two of its own.
fn vae_numbers(vae: &VaeConfig, latent: u64) -> u64 {
    let mut largest = 0_u64;
    let mut input = vae.block_out.last().copied().unwrap_or(1);
    for (level, &output) in vae.block_out.iter().rev().enumerate() {
        let pixels = latent.saturating_mul(1 << (2 * level.min(15)));
        largest = largest.max(pixels.saturating_mul(input + 2 * output));
        input = output;
    }
    largest
}
