//! `config.json` of the autoencoders.

use super::{bounded, divides};
use crate::{Error, Result};
use serde::Deserialize;

/// An `AutoencoderKL`, as diffusers describes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are those of diffusers")]
pub struct VaeConfig {
    pub in_channels: usize,
    pub out_channels: usize,
    pub down_block_types: Vec<String>,
    pub up_block_types: Vec<String>,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: usize,
    pub act_fn: String,
    pub latent_channels: usize,
    pub norm_num_groups: usize,
    pub scaling_factor: f32,
    pub shift_factor: Option<f32>,
    pub latents_mean: Option<Vec<f32>>,
    pub latents_std: Option<Vec<f32>>,
    pub use_quant_conv: bool,
    pub use_post_quant_conv: bool,
    pub mid_block_add_attention: bool,
    pub force_upcast: bool,
}

impl Default for VaeConfig {
    fn default() -> Self {
        VaeConfig {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec!["DownEncoderBlock2D".to_owned()],
            up_block_types: vec!["UpDecoderBlock2D".to_owned()],
            block_out_channels: vec![64],
            layers_per_block: 1,
            act_fn: "silu".to_owned(),
            latent_channels: 4,
            norm_num_groups: 32,
            scaling_factor: 0.18215,
            shift_factor: None,
            latents_mean: None,
            latents_std: None,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
            force_upcast: true,
        }
    }
}

impl VaeConfig {
    /// Refuses what these networks do not build.
    pub fn check(&self, part: &str) -> Result<()> {
        let levels = self.block_out_channels.len();
        bounded(part, "block_out_channels", levels, 1, 8)?;
        bounded(part, "layers_per_block", self.layers_per_block, 1, 16)?;
        bounded(part, "latent_channels", self.latent_channels, 1, 64)?;
        if self.in_channels != 3 || self.out_channels != 3 {
            return Err(Error::config(part, "pictures must have three channels"));
        }
        for (field, types, known) in [
            ("down_block_types", &self.down_block_types, "DownEncoderBlock2D"),
            ("up_block_types", &self.up_block_types, "UpDecoderBlock2D"),
        ] {
            if types.len() != levels {
                return Err(Error::config(part, format!("`{field}` has {} entries for {levels} levels", types.len())));
            }
            if let Some(value) = types.iter().find(|t| *t != known) {
                return Err(Error::Architecture { part: part.to_owned(), field, value: value.clone() });
            }
        }
        if !matches!(self.act_fn.as_str(), "silu" | "swish") {
            return Err(Error::Architecture { part: part.to_owned(), field: "act_fn", value: self.act_fn.clone() });
        }
        for width in &self.block_out_channels {
            bounded(part, "block_out_channels", *width, 1, 1 << 13)?;
            divides(part, "norm_num_groups", self.norm_num_groups, *width)?;
        }
        for (field, list) in [("latents_mean", &self.latents_mean), ("latents_std", &self.latents_std)] {
            if list.as_ref().is_some_and(|l| l.len() != self.latent_channels) {
                return Err(Error::config(part, format!("`{field}` needs one value a latent channel")));
            }
        }
        if !self.scaling_factor.is_finite() || self.scaling_factor == 0.0 {
            return Err(Error::config(part, "`scaling_factor` must be a number other than 0"));
        }
        Ok(())
    }

    /// Pixels per latent cell in each direction.
    pub fn factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}

/// An `AutoencoderTiny` (TAESD); only its decoder is used.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are those of diffusers")]
pub struct TinyConfig {
    pub decoder_block_out_channels: Vec<usize>,
    pub num_decoder_blocks: Vec<usize>,
    pub latent_channels: usize,
    pub out_channels: usize,
    pub act_fn: String,
    pub upsampling_scaling_factor: usize,
    pub scaling_factor: f32,
}

impl Default for TinyConfig {
    fn default() -> Self {
        TinyConfig {
            decoder_block_out_channels: vec![64; 4],
            num_decoder_blocks: vec![3, 3, 3, 1],
            latent_channels: 4,
            out_channels: 3,
            act_fn: "relu".to_owned(),
            upsampling_scaling_factor: 2,
            scaling_factor: 1.0,
        }
    }
}

impl TinyConfig {
    /// Refuses what this network does not build.
    pub fn check(&self, part: &str) -> Result<()> {
        bounded(part, "decoder_block_out_channels", self.decoder_block_out_channels.len(), 1, 8)?;
        if self.decoder_block_out_channels.len() != self.num_decoder_blocks.len() {
            return Err(Error::config(part, "`num_decoder_blocks` needs one entry a level"));
        }
        for (width, blocks) in self.decoder_block_out_channels.iter().zip(&self.num_decoder_blocks) {
            bounded(part, "decoder_block_out_channels", *width, 1, 4096)?;
            bounded(part, "num_decoder_blocks", *blocks, 0, 64)?;
        }
        if self.decoder_block_out_channels.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err(Error::config(part, "`decoder_block_out_channels` must all be equal"));
        }
        bounded(part, "latent_channels", self.latent_channels, 1, 64)?;
        bounded(part, "upsampling_scaling_factor", self.upsampling_scaling_factor, 1, 4)?;
        if self.act_fn != "relu" || self.out_channels != 3 {
            return Err(Error::Architecture { part: part.to_owned(), field: "act_fn", value: self.act_fn.clone() });
        }
        Ok(())
    }

    /// Pixels per latent cell in each direction.
    pub fn factor(&self) -> usize {
        self.upsampling_scaling_factor.pow(self.num_decoder_blocks.len() as u32 - 1)
    }
}
