//! The config of an autoencoder, read from the shapes of its tensors under LDM names.

use super::{tensors::Tensors, unet::groups};
use crate::error::{ModelError, Result};
use serde_json::{Map, Value, json};

/// The prefix of the autoencoder in a single file.
pub(crate) const PREFIX: &str = "first_stage_model.";

/// Derives `vae/config.json`. The scaling factor is not in the file: 0.18215 for SD 1 and 2, 0.13025 for SDXL.
pub(crate) fn derive(tensors: &Tensors<'_>, xl: bool, sample_size: u64) -> Result<Map<String, Value>> {
    let [_, in_channels, _, _] = tensors.need("encoder.conv_in.weight")?;
    let [out_channels, _, _, _] = tensors.need("decoder.conv_out.weight")?;
    let [_, latent_channels, _, _] = tensors.need("decoder.conv_in.weight")?;
    let levels = tensors.count(|n| format!("encoder.down.{n}.block.0.conv1.weight"));
    if !(1..=8).contains(&levels) {
        return Err(ModelError::UnsupportedModel { what: "an autoencoder of another kind".into() });
    }
    let mut channels = Vec::new();
    for level in 0..levels {
        let [output, _, _, _] = tensors.need(&format!("encoder.down.{level}.block.0.conv1.weight"))?;
        channels.push(output);
    }
    let layers = tensors.count(|n| format!("encoder.down.0.block.{n}.conv1.weight"));
    let config = json!({
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": channels,
        "down_block_types": vec!["DownEncoderBlock2D"; channels.len()],
        "force_upcast": true,
        "in_channels": in_channels,
        "latent_channels": latent_channels,
        "layers_per_block": layers,
        "mid_block_add_attention": tensors.has("encoder.mid.attn_1.q.weight"),
        "norm_num_groups": groups(&channels),
        "out_channels": out_channels,
        "sample_size": sample_size,
        "scaling_factor": if xl { 0.13025 } else { 0.18215 },
        "up_block_types": vec!["UpDecoderBlock2D"; channels.len()],
        "use_post_quant_conv": tensors.has("post_quant_conv.weight"),
        "use_quant_conv": tensors.has("quant_conv.weight"),
    });
    match config {
        Value::Object(config) => Ok(config),
        _ => Ok(Map::new()),
    }
}
