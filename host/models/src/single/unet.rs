//! The config of a UNet, read from the shapes of its tensors under LDM names.

use super::tensors::Tensors;
use crate::error::{ModelError, Result};
use serde_json::{Map, Value, json};

/// The prefix of the UNet in a single file.
pub(crate) const PREFIX: &str = "model.diffusion_model.";

/// Networks whose first block is narrower than this are test models; every published one starts at 128 or more.
pub(crate) const NARROW: u64 = 64;

/// One resolution of the UNet.
struct Level {
    channels: u64,
    /// Transformer depth of each layer; 0 without.
    depths: Vec<u64>,
}

/// Derives `unet/config.json`.
///
/// Shapes tell everything but the number of attention heads and normalisation groups. Heads: networks with linear
/// projections (SD 2, SDXL) have 64 channels a head, the older ones 8 heads in every block; test networks have 8
/// channels a head or 4 heads. Groups: 32, or the greatest common divisor of the channels where 32 does not divide.
///
/// `pooled`: width of the second text encoder's pooled output, to split the added conditioning.
pub(crate) fn derive(tensors: &Tensors<'_>, pooled: Option<u64>, sample_size: u64) -> Result<Map<String, Value>> {
    let [first, in_channels, kernel, _] = tensors.need("input_blocks.0.0.weight")?;
    let down = down_levels(tensors)?;
    let up = up_levels(tensors, &down)?;
    let mid_depth = depth_at(tensors, "middle_block.1");
    let mid = match (mid_depth, tensors.has("middle_block.0.in_layers.2.weight")) {
        (0, false) => Value::Null,
        (0, true) => json!("UNetMidBlock2D"),
        _ => json!("UNetMidBlock2DCrossAttn"),
    };
    let channels: Vec<u64> = down.iter().map(|level| level.channels).collect();
    let linear = first_attention(tensors)
        .is_some_and(|name| tensors.shape(&format!("{name}.proj_in.weight")).is_some_and(|s| s.len() == 2));
    let context = first_attention(tensors)
        .map(|name| tensors.need::<2>(&format!("{name}.transformer_blocks.0.attn2.to_k.weight")))
        .transpose()?
        .map(|[_, context]| context);
    let [out_channels, _, _, _] = tensors.need("out.2.weight")?;
    let [time_dim, _] = tensors.need("time_embed.0.weight")?;
    let block_type = |level: &Level, plain: &str| {
        if level.depths.iter().any(|&depth| depth > 0) { format!("CrossAttn{plain}") } else { plain.to_owned() }
    };
    let mut config = json!({
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": one_or_all(channels.iter().map(|&c| heads(c, first, linear)).collect()),
        "block_out_channels": channels,
        "center_input_sample": false,
        "conv_in_kernel": kernel,
        "conv_out_kernel": 3,
        "cross_attention_dim": context,
        "down_block_types": down.iter().map(|level| block_type(level, "DownBlock2D")).collect::<Vec<_>>(),
        "downsample_padding": 1,
        "flip_sin_to_cos": true,
        "freq_shift": 0,
        "in_channels": in_channels,
        "layers_per_block": one_or_all(down.iter().map(|level| level.depths.len() as u64).collect()),
        "mid_block_scale_factor": 1,
        "mid_block_type": mid,
        "norm_eps": 1e-5,
        "norm_num_groups": groups(&channels),
        "only_cross_attention": false,
        "out_channels": out_channels,
        "sample_size": sample_size,
        "time_cond_proj_dim": tensors.shape("time_embed.cond_proj.weight").and_then(|shape| shape.get(1)),
        "time_embedding_dim": time_dim,
        "up_block_types": up.iter().map(|level| block_type(level, "UpBlock2D")).collect::<Vec<_>>(),
        // SD 2 overflows float16 in its attention scores; diffusers' configs of it say so.
        "upcast_attention": linear && !tensors.has("label_emb.0.0.weight"),
        "use_linear_projection": linear,
    });
    let Some(config) = config.as_object_mut() else { return Ok(Map::new()) };
    depths(config, &down, &up, mid_depth)?;
    text_time(config, tensors, pooled)?;
    Ok(std::mem::take(config))
}

/// diffusers writes one number where all blocks agree.
fn one_or_all(values: Vec<u64>) -> Value {
    match values.first() {
        Some(first) if values.iter().all(|value| value == first) => json!(first),
        _ => json!(values),
    }
}

/// Number of heads of a block; diffusers calls it `attention_head_dim`.
fn heads(channels: u64, first: u64, linear: bool) -> u64 {
    match (linear, first >= NARROW) {
        (true, true) if channels.is_multiple_of(64) => channels / 64,
        (false, true) if channels.is_multiple_of(8) => 8,
        (true, _) if channels.is_multiple_of(8) => channels / 8,
        (false, _) if channels.is_multiple_of(4) => 4,
        _ => 1,
    }
}

/// 32, or what divides every block's channels.
pub(crate) fn groups(channels: &[u64]) -> u64 {
    fn gcd(a: u64, b: u64) -> u64 {
        if b == 0 { a } else { gcd(b, a % b) }
    }
    channels.iter().fold(32, |groups, &c| gcd(groups, c)).max(1)
}

fn depth_at(tensors: &Tensors<'_>, name: &str) -> u64 {
    tensors.count(|k| format!("{name}.transformer_blocks.{k}.norm1.weight"))
}

fn first_attention(tensors: &Tensors<'_>) -> Option<String> {
    let below = (1..64).map(|n| format!("input_blocks.{n}.1"));
    below.chain(["middle_block.1".to_owned()]).find(|name| depth_at(tensors, name) > 0)
}

fn unsupported(what: &str) -> ModelError {
    ModelError::UnsupportedModel { what: format!("a UNet {what}") }
}

fn down_levels(tensors: &Tensors<'_>) -> Result<Vec<Level>> {
    let mut levels: Vec<Level> = Vec::new();
    let mut open = false;
    for n in 1..128 {
        if tensors.has(&format!("input_blocks.{n}.0.op.weight")) {
            open = false;
            continue;
        }
        let Some(shape) = tensors.shape(&format!("input_blocks.{n}.0.out_layers.3.weight")) else { break };
        let channels = shape.first().copied().unwrap_or(0);
        if !open {
            levels.push(Level { channels, depths: Vec::new() });
            open = true;
        }
        let Some(level) = levels.last_mut() else { break };
        if level.channels != channels {
            return Err(unsupported("whose width changes inside a level"));
        }
        level.depths.push(depth_at(tensors, &format!("input_blocks.{n}.1")));
    }
    if levels.is_empty() || levels.len() > 8 {
        return Err(unsupported("without the levels of Stable Diffusion"));
    }
    if levels.iter().any(|level| mixed(&level.depths)) {
        return Err(unsupported("with attention in a part of a level"));
    }
    Ok(levels)
}

fn up_levels(tensors: &Tensors<'_>, down: &[Level]) -> Result<Vec<Level>> {
    let mut at = 0;
    let mut levels = Vec::with_capacity(down.len());
    for level in down.iter().rev() {
        let mut depths = Vec::new();
        for _ in 0..=level.depths.len() {
            tensors.need::<4>(&format!("output_blocks.{at}.0.out_layers.3.weight"))?;
            depths.push(depth_at(tensors, &format!("output_blocks.{at}.1")));
            at += 1;
        }
        if mixed(&depths) {
            return Err(unsupported("with attention in a part of a level"));
        }
        levels.push(Level { channels: level.channels, depths });
    }
    Ok(levels)
}

fn mixed(depths: &[u64]) -> bool {
    depths.contains(&0) && depths.iter().any(|&depth| depth > 0)
}

/// Writes `transformer_layers_per_block` in its short form where the network allows it.
fn depths(config: &mut Map<String, Value>, down: &[Level], up: &[Level], mid_depth: u64) -> Result<()> {
    let uniform = |level: &Level| {
        let first = level.depths.first().copied().unwrap_or(0);
        level.depths.iter().all(|&depth| depth == first).then_some(first)
    };
    // A level without attention is not asked for its depth, except the last one, from which the middle takes its own.
    let filler = |depth: u64, last: bool| if depth == 0 { if last { mid_depth.max(1) } else { 1 } } else { depth };
    let short = |levels: &[Level], last_is_mid: bool| -> Vec<Value> {
        let last = levels.len() - 1;
        let entry = |(i, level): (usize, &Level)| match uniform(level) {
            Some(depth) => json!(filler(depth, last_is_mid && i == last)),
            None => json!(level.depths),
        };
        levels.iter().enumerate().map(entry).collect()
    };
    let (below, above) = (short(down, true), short(up, false));
    let asymmetric = below.iter().any(Value::is_array)
        || up.iter().zip(down.iter().rev()).any(|(up, down)| uniform(up) != uniform(down));
    let last = down.last().map_or(0, |level| level.depths.first().copied().unwrap_or(0));
    if mid_depth > 0 && last > 0 && mid_depth != last {
        return Err(unsupported("whose middle is deeper or shallower than its last level"));
    }
    config.insert("transformer_layers_per_block".into(), Value::Array(below));
    if asymmetric {
        config.insert("reverse_transformer_layers_per_block".into(), Value::Array(above));
    }
    Ok(())
}

/// SDXL's added conditioning: pooled text and six time ids (five with an aesthetic score).
fn text_time(config: &mut Map<String, Value>, tensors: &Tensors<'_>, pooled: Option<u64>) -> Result<()> {
    let Some([_, input]) = tensors.shape("label_emb.0.0.weight").and_then(|shape| <[u64; 2]>::try_from(shape).ok())
    else {
        return Ok(());
    };
    let Some(pooled) = pooled else { return Err(unsupported("that takes picture embeddings (unCLIP)")) };
    let rest = input.saturating_sub(pooled);
    // 256 in every published network, whatever the count of ids.
    let time_dim = match rest {
        1_536 | 1_280 => 256,
        rest if rest % 6 == 0 => rest / 6,
        rest => rest / 5,
    };
    config.insert("addition_embed_type".into(), json!("text_time"));
    config.insert("addition_time_embed_dim".into(), json!(time_dim));
    config.insert("projection_class_embeddings_input_dim".into(), json!(input));
    Ok(())
}
