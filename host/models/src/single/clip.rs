//! The config of a text encoder, read from the shapes of its tensors under CLIP's or OpenCLIP's names.

use super::tensors::Tensors;
use crate::{error::Result, header::Header};
use serde_json::{Map, Value, json};

/// Whose naming a text encoder follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Naming {
    /// transformers' `text_model.encoder.layers.0…` (CLIP ViT-L, quick_gelu).
    Clip,
    /// OpenCLIP's `transformer.resblocks.0…` (ViT-H, ViT-bigG, gelu).
    OpenClip,
}

/// A text encoder of a single file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Encoder {
    /// `text_encoder` or `text_encoder_2`.
    pub(crate) role: &'static str,
    pub(crate) prefix: &'static str,
    pub(crate) naming: Naming,
    /// Layers at the end that the model does not use: SD 2 reads the one before the last.
    pub(crate) drop: u64,
    /// Has a pooled, projected output (`CLIPTextModelWithProjection`).
    pub(crate) projected: bool,
}

/// The text encoders of the file: SDXL's two, the refiner's one, or that of SD 1 or 2.
pub(crate) fn encoders(header: &Header) -> Vec<Encoder> {
    let encoder = |role, prefix, naming, drop, projected| Encoder { role, prefix, naming, drop, projected };
    let has = |prefix: &str| Tensors::new(header, prefix).any();
    if has("conditioner.embedders.1.model.") {
        let first = ["conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.0.transformer."];
        let first = first.into_iter().find(|prefix| has(prefix)).unwrap_or("conditioner.embedders.0.transformer.");
        return vec![
            encoder("text_encoder", first, Naming::Clip, 0, false),
            encoder("text_encoder_2", "conditioner.embedders.1.model.", Naming::OpenClip, 0, true),
        ];
    }
    if has("conditioner.embedders.0.model.") {
        return vec![encoder("text_encoder_2", "conditioner.embedders.0.model.", Naming::OpenClip, 0, true)];
    }
    if has("cond_stage_model.model.") {
        return vec![encoder("text_encoder", "cond_stage_model.model.", Naming::OpenClip, 1, false)];
    }
    // Some merges of SD 1 lack the level `text_model`.
    ["cond_stage_model.transformer.text_model.", "cond_stage_model.transformer."]
        .into_iter()
        .find(|prefix| has(prefix))
        .map(|prefix| encoder("text_encoder", prefix, Naming::Clip, 0, false))
        .into_iter()
        .collect()
}

/// Derives `text_encoder/config.json`. Heads are 64 wide in every published CLIP; test models have heads of 8.
pub(crate) fn derive(tensors: &Tensors<'_>, encoder: &Encoder) -> Result<Map<String, Value>> {
    let open = encoder.naming == Naming::OpenClip;
    let [vocab, hidden] =
        tensors.need(if open { "token_embedding.weight" } else { "embeddings.token_embedding.weight" })?;
    let [positions, _] =
        tensors.need(if open { "positional_embedding" } else { "embeddings.position_embedding.weight" })?;
    let layers = tensors.count(|n| match encoder.naming {
        Naming::OpenClip => format!("transformer.resblocks.{n}.ln_1.weight"),
        Naming::Clip => format!("encoder.layers.{n}.layer_norm1.weight"),
    });
    let [intermediate, _] = tensors.need(if open {
        "transformer.resblocks.0.mlp.c_fc.weight"
    } else {
        "encoder.layers.0.mlp.fc1.weight"
    })?;
    // OpenCLIP keeps a matrix [hidden, projection], transformers a linear layer [projection, hidden].
    let projection = match (tensors.shape("text_projection"), tensors.shape("text_projection.weight")) {
        (Some([_, projection]), _) | (None, Some([projection, _])) => *projection,
        _ => hidden,
    };
    let heads = if hidden % 64 == 0 { hidden / 64 } else { (hidden / 8).max(1) };
    let config = json!({
        "architectures": [if encoder.projected { "CLIPTextModelWithProjection" } else { "CLIPTextModel" }],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        // transformers reads 2 as "the position of the highest id", which is the end token of every CLIP vocabulary.
        "eos_token_id": 2,
        "hidden_act": if open { "gelu" } else { "quick_gelu" },
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": positions,
        "model_type": "clip_text_model",
        "num_attention_heads": heads,
        "num_hidden_layers": layers.saturating_sub(encoder.drop),
        "pad_token_id": 1,
        "projection_dim": projection,
        "vocab_size": vocab,
    });
    match config {
        Value::Object(config) => Ok(config),
        _ => Ok(Map::new()),
    }
}
