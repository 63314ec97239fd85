//! The small decoder for previews: the decoder of diffusers' `AutoencoderTiny` (TAESD).

use super::Builder;
use crate::{
    Result,
    config::TinyConfig,
    ops::{Act, Activation, Conv2d, ConvCall, ConvSpec, Ops},
};

enum Layer {
    Conv(Box<dyn Conv2d>),
    /// conv → ReLU → conv → ReLU → conv, plus the input, ReLU.
    Block([Box<dyn Conv2d>; 3]),
    /// Enlarges, then convolves.
    Up(Box<dyn Conv2d>, usize),
}

/// The decoder. Takes latents in sampler space, gives pictures in 0 … 1.
pub struct TinyDecoder {
    config: TinyConfig,
    layers: Vec<Layer>,
}

impl TinyDecoder {
    /// Builds the decoder that the config describes.
    pub fn new(b: &Builder<'_>, config: TinyConfig) -> Result<Self> {
        config.check(b.vars.part_name())?;
        let b = b.pp("decoder.layers");
        let relu = |inputs, outputs| ConvSpec { act: Act::Relu, ..ConvSpec::same(inputs, outputs, 3) };
        let widths = &config.decoder_block_out_channels;
        let mut layers = vec![Layer::Conv(b.conv(0, relu(config.latent_channels, widths[0]))?)];
        // Modules without weights (activations, enlargements) take a number too.
        let mut index = 2;
        for (i, (width, blocks)) in widths.iter().zip(&config.num_decoder_blocks).enumerate() {
            for _ in 0..*blocks {
                let b = b.pp(index).pp("conv");
                layers.push(Layer::Block([
                    b.conv(0, relu(*width, *width))?,
                    b.conv(2, relu(*width, *width))?,
                    b.conv(4, relu(*width, *width))?,
                ]));
                index += 1;
            }
            if i + 1 < widths.len() {
                let conv = b.conv(index + 1, ConvSpec::same(*width, *width, 3))?;
                layers.push(Layer::Up(conv, config.upsampling_scaling_factor));
                index += 2;
            } else {
                layers.push(Layer::Conv(b.conv(index, ConvSpec::same(*width, 3, 3))?));
            }
        }
        Ok(TinyDecoder { config, layers })
    }

    /// The config that it was built from.
    pub fn config(&self) -> &TinyConfig {
        &self.config
    }

    /// `[n, h, w, latent channels]` → `[n, h·f, w·f, 3]`.
    pub fn decode(&self, ops: &dyn Ops, latents: &Activation) -> Result<Activation> {
        // Soft limits of ±3, in which the network was trained.
        let mut h = ops.affine(latents, self.config.scaling_factor.recip() / 3.0, 0.0)?;
        h = ops.affine(&ops.map(&h, Act::Tanh)?, 3.0, 0.0)?;
        for layer in &self.layers {
            h = match layer {
                Layer::Conv(conv) => conv.forward(&h, ConvCall::default())?,
                Layer::Block([a, b, c]) => {
                    let inner = b.forward(&a.forward(&h, ConvCall::default())?, ConvCall::default())?;
                    c.forward(&inner, ConvCall { residual: Some(&h), ..ConvCall::default() })?
                }
                Layer::Up(conv, factor) => {
                    let resize = Some((h.height() * factor, h.width() * factor));
                    conv.forward(&h, ConvCall { resize, ..ConvCall::default() })?
                }
            };
        }
        Ok(h)
    }
}
