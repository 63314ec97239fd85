//! `config.json` of a `UNet2DConditionModel`.

use super::{PerLevel, bounded, divides};
use crate::{Error, Result};
use serde::Deserialize;
use serde_json::Value;

/// Transformer layers of one level: the same for each attention of the level, or a list.
pub type Depths = PerLevel<usize>;

const PART: &str = "unet";

/// A `UNet2DConditionModel`, as diffusers describes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are those of diffusers")]
pub struct UnetConfig {
    pub sample_size: Value,
    pub in_channels: usize,
    pub out_channels: usize,
    pub center_input_sample: bool,
    pub flip_sin_to_cos: bool,
    pub freq_shift: f32,
    pub down_block_types: Vec<String>,
    pub mid_block_type: Option<String>,
    pub up_block_types: Vec<String>,
    pub only_cross_attention: PerLevel<bool>,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: PerLevel<usize>,
    pub downsample_padding: usize,
    pub mid_block_scale_factor: f32,
    pub act_fn: String,
    pub norm_num_groups: Option<usize>,
    pub norm_eps: f64,
    pub cross_attention_dim: PerLevel<usize>,
    pub transformer_layers_per_block: PerLevel<Depths>,
    pub reverse_transformer_layers_per_block: Option<Vec<Depths>>,
    pub attention_head_dim: PerLevel<usize>,
    pub num_attention_heads: Option<PerLevel<usize>>,
    pub use_linear_projection: bool,
    pub class_embed_type: Option<String>,
    pub num_class_embeds: Option<usize>,
    pub projection_class_embeddings_input_dim: Option<usize>,
    pub addition_embed_type: Option<String>,
    pub addition_time_embed_dim: Option<usize>,
    pub resnet_time_scale_shift: String,
    pub resnet_skip_time_act: bool,
    pub resnet_out_scale_factor: f32,
    pub time_embedding_dim: Option<usize>,
    pub time_cond_proj_dim: Option<usize>,
    pub conv_in_kernel: usize,
    pub conv_out_kernel: usize,
    /// Fields that change the wiring in ways not built here; checked to hold their defaults.
    #[serde(flatten)]
    pub others: serde_json::Map<String, Value>,
}

impl Default for UnetConfig {
    fn default() -> Self {
        let cross = "CrossAttnDownBlock2D".to_owned();
        let up = "CrossAttnUpBlock2D".to_owned();
        UnetConfig {
            sample_size: Value::Null,
            in_channels: 4,
            out_channels: 4,
            center_input_sample: false,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            down_block_types: vec![cross.clone(), cross.clone(), cross, "DownBlock2D".to_owned()],
            mid_block_type: Some("UNetMidBlock2DCrossAttn".to_owned()),
            up_block_types: vec!["UpBlock2D".to_owned(), up.clone(), up.clone(), up],
            only_cross_attention: PerLevel::One(false),
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: PerLevel::One(2),
            downsample_padding: 1,
            mid_block_scale_factor: 1.0,
            act_fn: "silu".to_owned(),
            norm_num_groups: Some(32),
            norm_eps: 1e-5,
            cross_attention_dim: PerLevel::One(1280),
            transformer_layers_per_block: PerLevel::One(PerLevel::One(1)),
            reverse_transformer_layers_per_block: None,
            attention_head_dim: PerLevel::One(8),
            num_attention_heads: None,
            use_linear_projection: false,
            class_embed_type: None,
            num_class_embeds: None,
            projection_class_embeddings_input_dim: None,
            addition_embed_type: None,
            addition_time_embed_dim: None,
            resnet_time_scale_shift: "default".to_owned(),
            resnet_skip_time_act: false,
            resnet_out_scale_factor: 1.0,
            time_embedding_dim: None,
            time_cond_proj_dim: None,
            conv_in_kernel: 3,
            conv_out_kernel: 3,
            others: serde_json::Map::new(),
        }
    }
}

/// One level of the way down or up.
#[derive(Debug, Clone)]
pub struct Level {
    /// Channels that the level gives.
    pub channels: usize,
    /// Transformer layers of each attention; `None` for a level without attention.
    pub depths: Option<Vec<usize>>,
    /// Residual blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the text's states.
    pub context: usize,
    /// The first attention of each transformer layer looks at the text too.
    pub only_cross: bool,
}

impl UnetConfig {
    /// Group count of every norm.
    pub fn groups(&self) -> usize {
        self.norm_num_groups.unwrap_or(0)
    }

    /// Width of the time embedding.
    pub fn time_width(&self) -> usize {
        self.time_embedding_dim.unwrap_or(self.block_out_channels[0] * 4)
    }

    /// Side of the training pictures in latent cells; 0 if the config does not say.
    pub fn side(&self) -> u32 {
        let side = self.sample_size.as_u64().or_else(|| self.sample_size.get(0).and_then(Value::as_u64));
        side.and_then(|s| u32::try_from(s).ok()).unwrap_or(0)
    }

    /// Refuses what this network does not build.
    pub fn check(&self) -> Result<()> {
        let levels = self.block_out_channels.len();
        bounded(PART, "block_out_channels", levels, 1, 8)?;
        for width in &self.block_out_channels {
            bounded(PART, "block_out_channels", *width, 1, 1 << 13)?;
            divides(PART, "norm_num_groups", self.groups(), *width)?;
        }
        bounded(PART, "in_channels", self.in_channels, 1, 64)?;
        bounded(PART, "out_channels", self.out_channels, 1, 64)?;
        bounded(PART, "downsample_padding", self.downsample_padding, 0, 1)?;
        for (field, kernel) in [("conv_in_kernel", self.conv_in_kernel), ("conv_out_kernel", self.conv_out_kernel)] {
            if !matches!(kernel, 1 | 3 | 5 | 7) {
                return Err(Error::config(PART, format!("`{field}` = {kernel} is not 1, 3, 5 or 7")));
            }
        }
        let refuse =
            |field, value: &str| Err(Error::Architecture { part: PART.to_owned(), field, value: value.to_owned() });
        if !matches!(self.act_fn.as_str(), "silu" | "swish") {
            return refuse("act_fn", &self.act_fn);
        }
        if !matches!(self.resnet_time_scale_shift.as_str(), "default" | "scale_shift") {
            return refuse("resnet_time_scale_shift", &self.resnet_time_scale_shift);
        }
        match self.mid_block_type.as_deref() {
            None | Some("UNetMidBlock2DCrossAttn" | "UNetMidBlock2D") => {}
            Some(other) => return refuse("mid_block_type", other),
        }
        match self.addition_embed_type.as_deref() {
            None | Some("text_time") => {}
            Some(other) => return refuse("addition_embed_type", other),
        }
        match self.class_embed_type.as_deref() {
            None | Some("timestep" | "identity" | "projection" | "simple_projection") => {}
            Some(other) => return refuse("class_embed_type", other),
        }
        for (field, plain) in [
            ("dual_cross_attention", Value::Bool(false)),
            ("attention_type", Value::from("default")),
            ("encoder_hid_dim", Value::Null),
            ("encoder_hid_dim_type", Value::Null),
            ("time_embedding_type", Value::from("positional")),
            ("time_embedding_act_fn", Value::Null),
            ("timestep_post_act", Value::Null),
            ("cross_attention_norm", Value::Null),
            ("class_embeddings_concat", Value::Bool(false)),
        ] {
            if let Some(value) = self.others.get(field).filter(|v| **v != plain && !v.is_null()) {
                return refuse(field, &value.to_string());
            }
        }
        self.down_levels().map(|_| ())?;
        self.up_levels().map(|_| ())
    }

    fn heads(&self) -> Result<Vec<usize>> {
        let heads = self.num_attention_heads.as_ref().unwrap_or(&self.attention_head_dim);
        heads.each(PART, "attention_head_dim", self.block_out_channels.len())
    }

    fn levels(&self, types: &[String], field: &'static str, names: [&str; 2], up: bool) -> Result<Vec<Level>> {
        let n = self.block_out_channels.len();
        if types.len() != n {
            return Err(Error::config(PART, format!("`{field}` has {} entries for {n} levels", types.len())));
        }
        let heads = self.heads()?;
        let context = self.cross_attention_dim.each(PART, "cross_attention_dim", n)?;
        let only_cross = self.only_cross_attention.each(PART, "only_cross_attention", n)?;
        let layers = self.layers_per_block.each(PART, "layers_per_block", n)?;
        let depths = self.transformer_layers_per_block.each(PART, "transformer_layers_per_block", n)?;
        let mut levels = Vec::with_capacity(n);
        for (position, kind) in types.iter().enumerate() {
            // The way up walks the lists backwards.
            let i = if up { n - 1 - position } else { position };
            let depths = match (&self.reverse_transformer_layers_per_block, up) {
                (Some(list), true) => list.get(position).cloned().ok_or_else(|| {
                    Error::config(PART, format!("`reverse_transformer_layers_per_block` needs {n} entries"))
                })?,
                _ => depths[i].clone(),
            };
            let count = bounded(PART, "layers_per_block", layers[i], 1, 16)? + usize::from(up);
            let depths = match kind.as_str() {
                k if k == names[0] => Some(depths.each(PART, "transformer_layers_per_block", count)?),
                k if k == names[1] => None,
                other => {
                    let (part, value) = (PART.to_owned(), other.to_owned());
                    return Err(Error::Architecture { part, field, value });
                }
            };
            for depth in depths.iter().flatten() {
                bounded(PART, "transformer_layers_per_block", *depth, 0, 64)?;
            }
            let channels = self.block_out_channels[i];
            if depths.is_some() {
                divides(PART, "attention_head_dim", heads[i], channels)?;
            }
            let (heads, context, only_cross) = (heads[i], context[i], only_cross[i]);
            bounded(PART, "cross_attention_dim", context, 1, 1 << 14)?;
            levels.push(Level { channels, depths, layers: count, heads, context, only_cross });
        }
        Ok(levels)
    }

    /// The levels on the way down, outermost first.
    pub fn down_levels(&self) -> Result<Vec<Level>> {
        let names = ["CrossAttnDownBlock2D", "DownBlock2D"];
        self.levels(&self.down_block_types, "down_block_types", names, false)
    }

    /// The levels on the way up, innermost first.
    pub fn up_levels(&self) -> Result<Vec<Level>> {
        self.levels(&self.up_block_types, "up_block_types", ["CrossAttnUpBlock2D", "UpBlock2D"], true)
    }

    /// The middle: the innermost width with the innermost level's heads. `depths` is one entry; empty without
    /// attention.
    pub fn middle(&self) -> Result<Level> {
        let n = self.block_out_channels.len();
        let last = n - 1;
        let channels = self.block_out_channels[last];
        let attention = self.mid_block_type.as_deref() == Some("UNetMidBlock2DCrossAttn");
        let depths = if attention {
            let depths = self.transformer_layers_per_block.each(PART, "transformer_layers_per_block", n)?;
            Some(match &depths[last] {
                PerLevel::One(depth) => vec![*depth],
                PerLevel::Each(list) => list.iter().take(1).copied().collect(),
            })
        } else {
            None
        };
        let heads = self.heads()?[last];
        if attention {
            divides(PART, "attention_head_dim", heads, channels)?;
        }
        let context = self.cross_attention_dim.each(PART, "cross_attention_dim", n)?[last];
        // Only the simple kind of middle block looks at `mid_block_only_cross_attention`.
        let only_cross = false;
        Ok(Level { channels, depths, layers: 2, heads, context, only_cross })
    }
}
