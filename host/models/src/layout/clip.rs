//! The tensors of a CLIP text tower.

use super::Layout;
use crate::config::clip::ClipConfig;

/// Every tensor, under transformers' published names (with the `text_model.` prefix).
pub(crate) fn layout(config: &ClipConfig) -> Layout {
    let mut all = Layout::default();
    let (hidden, inner) = (config.hidden, config.intermediate);
    all.put("text_model.embeddings.token_embedding.weight".into(), &[config.vocab, hidden]);
    all.put("text_model.embeddings.position_embedding.weight".into(), &[config.positions, hidden]);
    for i in 0..config.layers {
        let layer = format!("text_model.encoder.layers.{i}");
        all.norm(&format!("{layer}.layer_norm1"), hidden);
        for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            all.linear(&format!("{layer}.self_attn.{part}"), hidden, hidden);
        }
        all.norm(&format!("{layer}.layer_norm2"), hidden);
        all.linear(&format!("{layer}.mlp.fc1"), hidden, inner);
        all.linear(&format!("{layer}.mlp.fc2"), inner, hidden);
    }
    all.norm("text_model.final_layer_norm", hidden);
    if let Some(projection) = config.projection {
        all.linear_without_bias("text_projection", hidden, projection);
    }
    all
}

/// transformers 5 writes the tower without its prefix.
pub(crate) fn spelling(name: &str) -> Option<String> {
    name.strip_prefix("text_model.").map(str::to_owned)
}
