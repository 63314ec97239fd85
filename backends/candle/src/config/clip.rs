//! `config.json` of a CLIP text encoder.

use super::bounded;
use crate::{Error, Result, ops::Act};
use serde::Deserialize;

/// A CLIP text encoder, as transformers describes it.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs, reason = "the names are those of transformers")]
pub struct ClipConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    #[serde(default = "positions")]
    pub max_position_embeddings: usize,
    #[serde(default = "quick_gelu")]
    pub hidden_act: String,
    #[serde(default = "eps")]
    pub layer_norm_eps: f64,
    #[serde(default)]
    pub projection_dim: Option<usize>,
    #[serde(default = "eos")]
    pub eos_token_id: Option<u32>,
    #[serde(default)]
    pub architectures: Option<Vec<String>>,
}

fn positions() -> usize {
    77
}
fn quick_gelu() -> String {
    "quick_gelu".to_owned()
}
fn eps() -> f64 {
    1e-5
}
fn eos() -> Option<u32> {
    Some(49_407)
}

impl ClipConfig {
    /// Refuses sizes that cannot be built.
    pub fn check(&self, part: &str) -> Result<()> {
        bounded(part, "vocab_size", self.vocab_size, 1, 1 << 20)?;
        bounded(part, "hidden_size", self.hidden_size, 1, 1 << 14)?;
        bounded(part, "intermediate_size", self.intermediate_size, 1, 1 << 16)?;
        bounded(part, "num_hidden_layers", self.num_hidden_layers, 1, 128)?;
        bounded(part, "num_attention_heads", self.num_attention_heads, 1, 256)?;
        bounded(part, "max_position_embeddings", self.max_position_embeddings, 1, 4096)?;
        super::divides(part, "num_attention_heads", self.num_attention_heads, self.hidden_size)
    }

    /// The activation of the MLPs.
    pub fn act(&self, part: &str) -> Result<Act> {
        match self.hidden_act.as_str() {
            "quick_gelu" => Ok(Act::QuickGelu),
            "gelu" => Ok(Act::Gelu),
            other => Err(Error::Architecture { part: part.to_owned(), field: "hidden_act", value: other.to_owned() }),
        }
    }
}
