//! `text_encoder/config.json`: a CLIP text tower.

use super::Fields;
use crate::{error::Result, files::Json};

/// A text encoder's sizes (transformers' `CLIPTextConfig`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClipConfig {
    pub(crate) vocab: u64,
    pub(crate) hidden: u64,
    pub(crate) intermediate: u64,
    pub(crate) layers: u64,
    pub(crate) heads: u64,
    pub(crate) positions: u64,
    /// Width of the pooled output; `None` without a projection.
    pub(crate) projection: Option<u64>,
    pub(crate) act: String,
}

impl ClipConfig {
    /// `projected`: whether the class has a text projection (`CLIPTextModelWithProjection`).
    pub(crate) fn parse(json: &Json, projected: bool) -> Result<Self> {
        let fields = Fields::new(json);
        if let Some(kind) = fields.text("model_type")? {
            fields.class("model_type", "text encoder", kind, &["clip_text_model", "clip"])?;
        }
        let hidden = fields.uint("hidden_size", 512)?;
        let heads = fields.uint("num_attention_heads", 8)?;
        if hidden % heads != 0 {
            return Err(
                fields.bad("num_attention_heads", format!("is {heads}, which does not divide hidden_size {hidden}"))
            );
        }
        let act = fields.text("hidden_act")?.unwrap_or("quick_gelu").to_owned();
        fields.class("hidden_act", "text encoder", &act, &["quick_gelu", "gelu"])?;
        let layers = fields.uint("num_hidden_layers", 12)?;
        if layers > 256 {
            return Err(fields.bad("num_hidden_layers", "is above 256"));
        }
        Ok(Self {
            vocab: fields.uint("vocab_size", 49_408)?,
            hidden,
            intermediate: fields.uint("intermediate_size", 2_048)?,
            layers,
            heads,
            positions: fields.uint("max_position_embeddings", 77)?,
            projection: if projected { Some(fields.uint("projection_dim", 512)?) } else { None },
            act,
        })
    }
}
