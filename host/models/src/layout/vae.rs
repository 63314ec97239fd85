//! The tensors of an AutoencoderKL.

use super::Layout;
use crate::config::vae::VaeConfig;

/// Every tensor of encoder and decoder, under diffusers' names.
pub(crate) fn layout(config: &VaeConfig) -> Layout {
    let mut all = Layout::default();
    let blocks = &config.block_out;
    let (first, last) = (blocks.first().copied().unwrap_or(1), blocks.last().copied().unwrap_or(1));
    let latent = config.latent_channels;

    all.conv("encoder.conv_in", config.in_channels, first, 3);
    let mut input = first;
    for (i, &output) in blocks.iter().enumerate() {
        let block = format!("encoder.down_blocks.{i}");
        for j in 0..config.layers_per_block {
            all.resnet(&format!("{block}.resnets.{j}"), input, output, None);
            input = output;
        }
        if i + 1 < blocks.len() {
            all.conv(&format!("{block}.downsamplers.0.conv"), output, output, 3);
        }
    }
    mid(&mut all, "encoder", last, config.mid_attention);
    all.norm("encoder.conv_norm_out", last);
    all.conv("encoder.conv_out", last, 2 * latent, 3);
    if config.quant_conv {
        all.conv("quant_conv", 2 * latent, 2 * latent, 1);
    }
    if config.post_quant_conv {
        all.conv("post_quant_conv", latent, latent, 1);
    }

    all.conv("decoder.conv_in", latent, last, 3);
    mid(&mut all, "decoder", last, config.mid_attention);
    let mut input = last;
    for (i, &output) in blocks.iter().rev().enumerate() {
        let block = format!("decoder.up_blocks.{i}");
        for j in 0..=config.layers_per_block {
            all.resnet(&format!("{block}.resnets.{j}"), input, output, None);
            input = output;
        }
        if i + 1 < blocks.len() {
            all.conv(&format!("{block}.upsamplers.0.conv"), output, output, 3);
        }
    }
    all.norm("decoder.conv_norm_out", first);
    all.conv("decoder.conv_out", first, config.out_channels, 3);
    all
}

fn mid(all: &mut Layout, side: &str, channels: u64, attention: bool) {
    let block = format!("{side}.mid_block");
    if attention {
        all.norm(&format!("{block}.attentions.0.group_norm"), channels);
        for part in ["to_q", "to_k", "to_v", "to_out.0"] {
            all.linear(&format!("{block}.attentions.0.{part}"), channels, channels);
        }
    }
    for j in 0..2 {
        all.resnet(&format!("{block}.resnets.{j}"), channels, channels, None);
    }
}

/// The attention's names before diffusers 0.17, which most published VAE files still have.
pub(crate) fn spelling(name: &str) -> Option<String> {
    [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")].into_iter().find_map(
        |(new, old)| {
            let (head, tail) = name.split_once(&format!(".attentions.0.{new}."))?;
            Some(format!("{head}.attentions.0.{old}.{tail}"))
        },
    )
}
