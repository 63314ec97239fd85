//! The tensors of a UNet2DConditionModel.

use super::Layout;
use crate::config::unet::{Block, ClassEmbed, Mid, UnetConfig};

/// Every tensor, under diffusers' names.
pub(crate) fn layout(config: &UnetConfig) -> Layout {
    let mut all = Layout::default();
    let first = config.down.first().map_or(1, |block| block.channels);
    let time = config.time_dim;
    all.conv("conv_in", config.in_channels, first, config.conv_in_kernel);
    if let Some(width) = config.time_cond {
        all.linear_without_bias("time_embedding.cond_proj", width, first);
    }
    two_layers(&mut all, "time_embedding", first, time);
    match config.class_embed {
        ClassEmbed::None => {}
        ClassEmbed::Table(count) => all.put("class_embedding.weight".into(), &[count, time]),
        ClassEmbed::Timestep => two_layers(&mut all, "class_embedding", first, time),
        ClassEmbed::Projection(width) => two_layers(&mut all, "class_embedding", width, time),
    }
    if let Some(text_time) = config.text_time {
        two_layers(&mut all, "add_embedding", text_time.input, time);
    }

    let mut input = first;
    // Channels of every feature map that the up blocks get back, in the order in which they are made.
    let mut skips = vec![first];
    for (i, block) in config.down.iter().enumerate() {
        let name = format!("down_blocks.{i}");
        for j in 0..block.layers {
            all.resnet(&format!("{name}.resnets.{j}"), input, block.channels, Some(time));
            attention(&mut all, &name, j, block, config.linear_projection);
            input = block.channels;
            skips.push(input);
        }
        if i + 1 < config.down.len() {
            all.conv(&format!("{name}.downsamplers.0.conv"), input, input, 3);
            skips.push(input);
        }
    }
    mid(&mut all, config, input, time);
    for (i, block) in config.up.iter().enumerate() {
        let name = format!("up_blocks.{i}");
        for j in 0..block.layers {
            let skip = skips.pop().unwrap_or(first);
            all.resnet(&format!("{name}.resnets.{j}"), input + skip, block.channels, Some(time));
            attention(&mut all, &name, j, block, config.linear_projection);
            input = block.channels;
        }
        if i + 1 < config.up.len() {
            all.conv(&format!("{name}.upsamplers.0.conv"), input, input, 3);
        }
    }
    all.norm("conv_norm_out", first);
    all.conv("conv_out", first, config.out_channels, config.conv_out_kernel);
    all
}

fn two_layers(all: &mut Layout, name: &str, input: u64, output: u64) {
    all.linear(&format!("{name}.linear_1"), input, output);
    all.linear(&format!("{name}.linear_2"), output, output);
}

fn mid(all: &mut Layout, config: &UnetConfig, channels: u64, time: u64) {
    let resnets = match config.mid {
        Mid::None => 0,
        Mid::Resnet => 1,
        Mid::CrossAttention => 2,
    };
    for j in 0..resnets {
        all.resnet(&format!("mid_block.resnets.{j}"), channels, channels, Some(time));
    }
    if config.mid == Mid::CrossAttention {
        let context = config.down.last().map_or(0, |block| block.context);
        let block = Block { channels, layers: 1, depth: vec![config.mid_depth], context, only_cross: false };
        attention(all, "mid_block", 0, &block, config.linear_projection);
    }
}

/// A transformer: `depth` times self-attention, cross-attention and a gated feed-forward.
fn attention(all: &mut Layout, block_name: &str, layer: u64, block: &Block, linear: bool) {
    let Some(&depth) = usize::try_from(layer).ok().and_then(|layer| block.depth.get(layer)) else { return };
    let name = format!("{block_name}.attentions.{layer}");
    let width = block.channels;
    all.norm(&format!("{name}.norm"), width);
    projection(all, &format!("{name}.proj_in"), width, linear);
    for k in 0..depth {
        let inner = format!("{name}.transformer_blocks.{k}");
        for (part, context) in [("1", if block.only_cross { block.context } else { width }), ("2", block.context)] {
            all.norm(&format!("{inner}.norm{part}"), width);
            let attn = format!("{inner}.attn{part}");
            all.linear_without_bias(&format!("{attn}.to_q"), width, width);
            all.linear_without_bias(&format!("{attn}.to_k"), context, width);
            all.linear_without_bias(&format!("{attn}.to_v"), context, width);
            all.linear(&format!("{attn}.to_out.0"), width, width);
        }
        all.norm(&format!("{inner}.norm3"), width);
        all.linear(&format!("{inner}.ff.net.0.proj"), width, 8 * width);
        all.linear(&format!("{inner}.ff.net.2"), 4 * width, width);
    }
    projection(all, &format!("{name}.proj_out"), width, linear);
}

fn projection(all: &mut Layout, name: &str, width: u64, linear: bool) {
    if linear { all.linear(name, width, width) } else { all.conv(name, width, width, 1) }
}
