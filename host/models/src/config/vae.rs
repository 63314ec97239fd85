//! `vae/config.json`: an AutoencoderKL.

use super::Fields;
use crate::{error::Result, files::Json};

/// A VAE's sizes (diffusers' `AutoencoderKL`).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct VaeConfig {
    pub(crate) in_channels: u64,
    pub(crate) out_channels: u64,
    pub(crate) latent_channels: u64,
    pub(crate) block_out: Vec<u64>,
    pub(crate) layers_per_block: u64,
    pub(crate) quant_conv: bool,
    pub(crate) post_quant_conv: bool,
    pub(crate) mid_attention: bool,
    pub(crate) sample_size: u64,
    pub(crate) scaling_factor: f64,
}

impl VaeConfig {
    pub(crate) fn parse(json: &Json) -> Result<Self> {
        let fields = Fields::new(json);
        if let Some(class) = fields.text("_class_name")? {
            fields.class("_class_name", "VAE", class, &["AutoencoderKL"])?;
        }
        let block_out = fields.uints("block_out_channels", &[64], 8)?;
        for (field, class) in [("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")] {
            let types = fields.texts(field, &[class])?;
            if types.len() != block_out.len() {
                return Err(fields
                    .bad(field, format!("has {} entries for {} block_out_channels", types.len(), block_out.len())));
            }
            types.iter().try_for_each(|found| fields.class(field, "VAE", found, &[class]))?;
        }
        let groups = fields.uint("norm_num_groups", 32)?;
        if let Some(channels) = block_out.iter().find(|&&channels| channels % groups != 0) {
            return Err(
                fields.bad("norm_num_groups", format!("is {groups}, which does not divide {channels} channels"))
            );
        }
        let layers_per_block = fields.uint("layers_per_block", 1)?;
        if layers_per_block > 16 {
            return Err(fields.bad("layers_per_block", "is above 16"));
        }
        let scaling_factor = fields.float("scaling_factor", 0.18215)?;
        if scaling_factor <= 0.0 {
            return Err(fields.bad("scaling_factor", "must be above 0"));
        }
        Ok(Self {
            in_channels: fields.uint("in_channels", 3)?,
            out_channels: fields.uint("out_channels", 3)?,
            latent_channels: fields.uint("latent_channels", 4)?,
            block_out,
            layers_per_block,
            quant_conv: fields.bool("use_quant_conv", true)?,
            post_quant_conv: fields.bool("use_post_quant_conv", true)?,
            mid_attention: fields.bool("mid_block_add_attention", true)?,
            sample_size: fields.uint("sample_size", 32)?,
            scaling_factor,
        })
    }

    /// Pixels of a picture per latent pixel.
    pub(crate) fn downscale(&self) -> u64 {
        1 << (self.block_out.len() - 1)
    }
}
