//! From pictures to latents and back: diffusers' `AutoencoderKL`.

use super::{
    Builder, poll,
    resnet::{Downsample, Resnet, ResnetSpec, Upsample},
};
use crate::{
    Result,
    config::VaeConfig,
    ops::{Act, Activation, AttentionSpec, Conv2d, ConvCall, ConvSpec, KeysValues, Linear, LinearSpec, Norm, Ops},
};
use backend_api::Ctl;

/// Eps of every norm, fixed in diffusers.
const EPS: f64 = 1e-6;

/// Attention over the pixels of the innermost level, one head.
struct PixelAttention {
    norm: Box<dyn Norm>,
    qkv: Box<dyn Linear>,
    out: Box<dyn Linear>,
}

impl PixelAttention {
    fn new(b: &Builder<'_>, channels: usize, groups: usize) -> Result<Self> {
        // Files saved before 2023 use other names.
        let q = b.vars.first_of(&["to_q", "query"], "weight");
        let k = b.vars.first_of(&["to_k", "key"], "weight");
        let v = b.vars.first_of(&["to_v", "value"], "weight");
        let out = b.vars.first_of(&["to_out.0", "proj_attn"], "weight");
        Ok(PixelAttention {
            norm: b.group_norm("group_norm", channels, groups, EPS, Act::Identity)?,
            qkv: b.fused(&[q, k, v], LinearSpec::plain(channels, 3 * channels))?,
            out: b.linear(out, LinearSpec::plain(channels, channels))?,
        })
    }

    fn forward(&self, ops: &dyn Ops, x: &Activation) -> Result<Activation> {
        let c = x.channels();
        let qkv = self.qkv.forward(&self.norm.forward(x)?, None)?;
        let kv = KeysValues::Batch(qkv.view(c, c), qkv.view(2 * c, c));
        let h = ops.attention(qkv.view(0, c), &kv, AttentionSpec { heads: 1, causal: false })?;
        self.out.forward(&h, Some(x))
    }
}

struct Middle {
    first: Resnet,
    attention: Option<PixelAttention>,
    second: Resnet,
}

impl Middle {
    fn new(b: &Builder<'_>, config: &VaeConfig, spec: ResnetSpec) -> Result<Self> {
        let c = config.block_out_channels.last().copied().unwrap_or(0);
        let attention = config
            .mid_block_add_attention
            .then(|| PixelAttention::new(&b.pp("attentions").pp(0), c, config.norm_num_groups));
        Ok(Middle {
            first: Resnet::new(&b.pp("resnets").pp(0), c, c, spec)?,
            attention: attention.transpose()?,
            second: Resnet::new(&b.pp("resnets").pp(1), c, c, spec)?,
        })
    }

    fn forward(&self, ops: &dyn Ops, x: &Activation, ctl: &Ctl) -> Result<Activation> {
        let mut h = self.first.forward(ops, x, None)?;
        poll(ctl)?;
        if let Some(attention) = &self.attention {
            h = attention.forward(ops, &h)?;
        }
        self.second.forward(ops, &h, None)
    }
}

struct Encoder {
    conv_in: Box<dyn Conv2d>,
    levels: Vec<(Vec<Resnet>, Option<Downsample>)>,
    middle: Middle,
    norm_out: Box<dyn Norm>,
    conv_out: Box<dyn Conv2d>,
    quant: Option<Box<dyn Conv2d>>,
}

struct Decoder {
    quant: Option<Box<dyn Conv2d>>,
    conv_in: Box<dyn Conv2d>,
    middle: Middle,
    levels: Vec<(Vec<Resnet>, Option<Upsample>)>,
    norm_out: Box<dyn Norm>,
    conv_out: Box<dyn Conv2d>,
}

/// The network. Works on unscaled latents and on pictures in −1 … 1.
pub struct Autoencoder {
    config: VaeConfig,
    encoder: Encoder,
    decoder: Decoder,
}

impl Autoencoder {
    /// Builds the network that the config describes.
    pub fn new(b: &Builder<'_>, config: VaeConfig) -> Result<Self> {
        config.check(b.vars.part_name())?;
        let spec = ResnetSpec { groups: config.norm_num_groups, eps: EPS, time: None, scale_shift: false, scale: 1.0 };
        let encoder = Encoder::new(b, &config, spec)?;
        let decoder = Decoder::new(b, &config, spec)?;
        Ok(Autoencoder { config, encoder, decoder })
    }

    /// The config that it was built from.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// `[n, h, w, latent channels]` → `[n, h·f, w·f, 3]`.
    pub fn decode(&self, ops: &dyn Ops, latents: &Activation, ctl: &Ctl) -> Result<Activation> {
        let d = &self.decoder;
        let quantised = match &d.quant {
            Some(layer) => Some(layer.forward(latents, ConvCall::default())?),
            None => None,
        };
        let mut h = d.conv_in.forward(quantised.as_ref().unwrap_or(latents), ConvCall::default())?;
        h = d.middle.forward(ops, &h, ctl)?;
        for (resnets, sampler) in &d.levels {
            for resnet in resnets {
                poll(ctl)?;
                h = resnet.forward(ops, &h, None)?;
            }
            if let Some(sampler) = sampler {
                poll(ctl)?;
                h = sampler.forward(&h, (h.height() * 2, h.width() * 2))?;
            }
        }
        d.conv_out.forward(&d.norm_out.forward(&h)?, ConvCall::default())
    }

    /// `[n, h·f, w·f, 3]` → `[n, h, w, 2 · latent channels]`: mean, then logarithm of the variance.
    pub fn encode(&self, ops: &dyn Ops, picture: &Activation, ctl: &Ctl) -> Result<Activation> {
        let e = &self.encoder;
        let mut h = e.conv_in.forward(picture, ConvCall::default())?;
        for (resnets, sampler) in &e.levels {
            for resnet in resnets {
                poll(ctl)?;
                h = resnet.forward(ops, &h, None)?;
            }
            if let Some(sampler) = sampler {
                h = sampler.forward(&h)?;
            }
        }
        h = e.middle.forward(ops, &h, ctl)?;
        let h = e.conv_out.forward(&e.norm_out.forward(&h)?, ConvCall::default())?;
        match &e.quant {
            Some(layer) => layer.forward(&h, ConvCall::default()),
            None => Ok(h),
        }
    }
}

fn resnets(b: &Builder<'_>, count: usize, inputs: usize, outputs: usize, spec: ResnetSpec) -> Result<Vec<Resnet>> {
    let width = |j| if j == 0 { inputs } else { outputs };
    (0..count).map(|j| Resnet::new(&b.pp("resnets").pp(j), width(j), outputs, spec)).collect()
}

impl Encoder {
    fn new(b: &Builder<'_>, config: &VaeConfig, spec: ResnetSpec) -> Result<Self> {
        let (root, b) = (b, b.pp("encoder"));
        let widths = &config.block_out_channels;
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let latents = 2 * config.latent_channels;
        let mut levels = Vec::new();
        let mut inputs = first;
        for (i, width) in widths.iter().enumerate() {
            let b = b.pp("down_blocks").pp(i);
            let sampler =
                (i + 1 < widths.len()).then(|| Downsample::new(&b.pp("downsamplers").pp(0), *width, 0)).transpose()?;
            levels.push((resnets(&b, config.layers_per_block, inputs, *width, spec)?, sampler));
            inputs = *width;
        }
        let quant = config.use_quant_conv.then(|| root.conv("quant_conv", ConvSpec::same(latents, latents, 1)));
        Ok(Encoder {
            conv_in: b.conv("conv_in", ConvSpec::same(3, first, 3))?,
            levels,
            middle: Middle::new(&b.pp("mid_block"), config, spec)?,
            norm_out: b.group_norm("conv_norm_out", last, spec.groups, EPS, Act::Silu)?,
            conv_out: b.conv("conv_out", ConvSpec::same(last, latents, 3))?,
            quant: quant.transpose()?,
        })
    }
}

impl Decoder {
    fn new(b: &Builder<'_>, config: &VaeConfig, spec: ResnetSpec) -> Result<Self> {
        let (root, b) = (b, b.pp("decoder"));
        let widths = &config.block_out_channels;
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let latents = config.latent_channels;
        let mut levels = Vec::new();
        let mut inputs = last;
        for (i, width) in widths.iter().rev().enumerate() {
            let b = b.pp("up_blocks").pp(i);
            let sampler =
                (i + 1 < widths.len()).then(|| Upsample::new(&b.pp("upsamplers").pp(0), *width)).transpose()?;
            levels.push((resnets(&b, config.layers_per_block + 1, inputs, *width, spec)?, sampler));
            inputs = *width;
        }
        let quant =
            config.use_post_quant_conv.then(|| root.conv("post_quant_conv", ConvSpec::same(latents, latents, 1)));
        Ok(Decoder {
            quant: quant.transpose()?,
            conv_in: b.conv("conv_in", ConvSpec::same(latents, last, 3))?,
            middle: Middle::new(&b.pp("mid_block"), config, spec)?,
            levels,
            norm_out: b.group_norm("conv_norm_out", first, spec.groups, EPS, Act::Silu)?,
            conv_out: b.conv("conv_out", ConvSpec::same(first, 3, 3))?,
        })
    }
}
