//! `unet/config.json`: a UNet2DConditionModel, with the rules by which diffusers expands its short forms.

use super::Fields;
use crate::{error::Result, files::Json};
use serde_json::Value;

/// The middle of the UNet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mid {
    /// Two resnets around a transformer.
    CrossAttention,
    /// One resnet (SSD-1B, Vega).
    Resnet,
    /// Nothing (BK-SDM, Segmind small and tiny).
    None,
}

/// A block: its transformers by layer, empty where it has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    /// Channels that leave it.
    pub(crate) channels: u64,
    /// Resnets (down: `layers_per_block`, up: one more).
    pub(crate) layers: u64,
    /// Transformer depth of each layer; empty without attention.
    pub(crate) depth: Vec<u64>,
    /// Width of the text embedding that its attention reads.
    pub(crate) context: u64,
    /// Self-attention reads the text too.
    pub(crate) only_cross: bool,
}

/// What replaces or joins the time embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClassEmbed {
    /// Nothing.
    None,
    /// A table of this many entries.
    Table(u64),
    /// A two-layer network on a timestep embedding.
    Timestep,
    /// A two-layer network on a vector of this width.
    Projection(u64),
}

/// SDXL's size and crop conditioning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TextTime {
    /// Sinusoid width of each time id.
    pub(crate) time_dim: u64,
    /// Pooled text plus all time ids.
    pub(crate) input: u64,
}

/// A UNet's sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnetConfig {
    pub(crate) in_channels: u64,
    pub(crate) out_channels: u64,
    pub(crate) sample_size: u64,
    pub(crate) time_dim: u64,
    pub(crate) time_cond: Option<u64>,
    pub(crate) down: Vec<Block>,
    pub(crate) up: Vec<Block>,
    pub(crate) mid: Mid,
    pub(crate) mid_depth: u64,
    pub(crate) linear_projection: bool,
    pub(crate) class_embed: ClassEmbed,
    pub(crate) text_time: Option<TextTime>,
    pub(crate) conv_in_kernel: u64,
    pub(crate) conv_out_kernel: u64,
}

impl UnetConfig {
    /// Width of the text embedding.
    pub(crate) fn context(&self) -> u64 {
        self.down.iter().find(|block| !block.depth.is_empty()).or(self.down.last()).map_or(0, |block| block.context)
    }

    pub(crate) fn parse(json: &Json) -> Result<Self> {
        let fields = Fields::new(json);
        if let Some(class) = fields.text("_class_name")? {
            fields.class("_class_name", "UNet", class, &["UNet2DConditionModel"])?;
        }
        reject_unsupported(&fields)?;
        let channels = fields.uints("block_out_channels", &[320, 640, 1280, 1280], 8)?;
        let count = channels.len();
        let cross = "CrossAttnDownBlock2D";
        let down_types = fields.texts("down_block_types", &[cross, cross, cross, "DownBlock2D"])?;
        let cross = "CrossAttnUpBlock2D";
        let up_types = fields.texts("up_block_types", &["UpBlock2D", cross, cross, cross])?;
        for (field, types, known) in [
            ("down_block_types", &down_types, ["DownBlock2D", "CrossAttnDownBlock2D"]),
            ("up_block_types", &up_types, ["UpBlock2D", "CrossAttnUpBlock2D"]),
        ] {
            if types.len() != count {
                return Err(fields.bad(field, format!("has {} entries for {count} block_out_channels", types.len())));
            }
            types.iter().try_for_each(|found| fields.class(field, "UNet", found, &known))?;
        }
        let mid = match fields.json_text_or_null("mid_block_type")? {
            Some(Some("UNetMidBlock2DCrossAttn")) | None => Mid::CrossAttention,
            Some(Some("UNetMidBlock2D")) => Mid::Resnet,
            Some(None) => Mid::None,
            Some(Some(other)) => {
                fields.class("mid_block_type", "UNet", other, &["UNetMidBlock2DCrossAttn", "UNetMidBlock2D"])?;
                Mid::CrossAttention
            }
        };
        let layers = fields.per_block("layers_per_block", 2, count)?;
        if layers.iter().any(|&n| n > 16) {
            return Err(fields.bad("layers_per_block", "is above 16"));
        }
        let contexts = fields.per_block("cross_attention_dim", 1_280, count)?;
        // diffusers' own naming slip: `attention_head_dim` is the number of heads unless `num_attention_heads` is given.
        let heads_field =
            if fields.get("num_attention_heads").is_some() { "num_attention_heads" } else { "attention_head_dim" };
        let heads = fields.per_block(heads_field, 8, count)?;
        let only_cross = only_cross(&fields, count)?;
        let depths = Depths::parse(&fields, count)?;

        let mut down = Vec::with_capacity(count);
        let mut up = Vec::with_capacity(count);
        for i in 0..count {
            let with_attention = down_types[i] == "CrossAttnDownBlock2D";
            let depth = if with_attention { depths.down(&fields, i, layers[i])? } else { Vec::new() };
            down.push(Block {
                channels: channels[i],
                layers: layers[i],
                depth,
                context: contexts[i],
                only_cross: only_cross[i],
            });
            let j = count - 1 - i;
            let with_attention = up_types[i] == "CrossAttnUpBlock2D";
            let depth = if with_attention { depths.up(&fields, i, layers[j] + 1)? } else { Vec::new() };
            up.push(Block {
                channels: channels[j],
                layers: layers[j] + 1,
                depth,
                context: contexts[j],
                only_cross: only_cross[j],
            });
        }
        for (i, &heads) in heads.iter().enumerate() {
            if channels[i] % heads != 0 {
                return Err(
                    fields.bad(heads_field, format!("has {heads} heads for a block of {} channels", channels[i]))
                );
            }
        }
        let groups = fields.uint("norm_num_groups", 32)?;
        if let Some(channels) = channels.iter().find(|&&channels| channels % groups != 0) {
            return Err(
                fields.bad("norm_num_groups", format!("is {groups}, which does not divide {channels} channels"))
            );
        }
        let mid_depth = depths.mid(&fields)?;
        Ok(Self {
            in_channels: fields.uint("in_channels", 4)?,
            out_channels: fields.uint("out_channels", 4)?,
            sample_size: sample_size(&fields)?,
            time_dim: fields.uint("time_embedding_dim", channels[0] * 4)?,
            time_cond: fields.uint_opt("time_cond_proj_dim")?,
            down,
            up,
            mid,
            mid_depth,
            linear_projection: fields.bool("use_linear_projection", false)?,
            class_embed: class_embed(&fields)?,
            text_time: text_time(&fields)?,
            conv_in_kernel: fields.uint("conv_in_kernel", 3)?,
            conv_out_kernel: fields.uint("conv_out_kernel", 3)?,
        })
    }
}

/// Options of other pipelines that change the network in ways no backend of ours knows.
fn reject_unsupported(fields: &Fields<'_>) -> Result<()> {
    for (field, value) in [
        ("encoder_hid_dim_type", "none"),
        ("resnet_time_scale_shift", "default"),
        ("time_embedding_type", "positional"),
        ("attention_type", "default"),
        ("act_fn", "silu"),
    ] {
        if let Some(found) = fields.text(field)?
            && found != value
        {
            return Err(fields.bad(field, format!("is `{found:.32}`, and only `{value}` is supported")));
        }
    }
    for field in ["dual_cross_attention", "center_input_sample", "class_embeddings_concat"] {
        if fields.bool(field, false)? {
            return Err(fields.bad(field, "is true, which is not supported"));
        }
    }
    Ok(())
}

fn sample_size(fields: &Fields<'_>) -> Result<u64> {
    match fields.get("sample_size") {
        // Some checkpoints say [height, width]; the smaller one is the safe default size.
        Some(Value::Array(_)) => {
            let sizes = fields.uints("sample_size", &[], 2)?;
            Ok(sizes.into_iter().min().unwrap_or(64))
        }
        _ => fields.uint("sample_size", 64),
    }
}

fn only_cross(fields: &Fields<'_>, count: usize) -> Result<Vec<bool>> {
    match fields.get("only_cross_attention") {
        None => Ok(vec![false; count]),
        Some(Value::Bool(all)) => Ok(vec![*all; count]),
        Some(Value::Array(list)) if list.len() == count => {
            let read = |value: &Value| {
                value.as_bool().ok_or_else(|| fields.bad("only_cross_attention", "must hold true or false"))
            };
            list.iter().map(read).collect()
        }
        Some(_) => Err(fields.bad("only_cross_attention", "must be true, false or a list with an entry a block")),
    }
}

fn class_embed(fields: &Fields<'_>) -> Result<ClassEmbed> {
    match fields.text("class_embed_type")? {
        None => Ok(fields.uint_opt("num_class_embeds")?.map_or(ClassEmbed::None, ClassEmbed::Table)),
        Some("timestep") => Ok(ClassEmbed::Timestep),
        Some("projection") => Ok(ClassEmbed::Projection(fields.uint_needed("projection_class_embeddings_input_dim")?)),
        Some(other) => {
            fields.class("class_embed_type", "UNet", other, &["timestep", "projection"])?;
            Ok(ClassEmbed::None)
        }
    }
}

fn text_time(fields: &Fields<'_>) -> Result<Option<TextTime>> {
    let Some(kind) = fields.text("addition_embed_type")? else { return Ok(None) };
    fields.class("addition_embed_type", "UNet", kind, &["text_time"])?;
    let time_dim = fields.uint_needed("addition_time_embed_dim")?;
    let input = fields.uint_needed("projection_class_embeddings_input_dim")?;
    Ok(Some(TextTime { time_dim, input }))
}

/// `transformer_layers_per_block`: a number, a number a block, or a list a block.
struct Depths {
    down: Vec<Value>,
    up: Vec<Value>,
}

const DEPTHS: &str = "transformer_layers_per_block";

impl Depths {
    fn parse(fields: &Fields<'_>, count: usize) -> Result<Self> {
        let list = |field: &str, value: &Value| match value {
            Value::Array(list) if list.len() == count => Ok(list.clone()),
            Value::Array(list) => Err(fields.bad(field, format!("has {} entries for {count} blocks", list.len()))),
            one => Ok(vec![one.clone(); count]),
        };
        let down = list(DEPTHS, fields.get(DEPTHS).unwrap_or(&Value::from(1)))?;
        let reverse = "reverse_transformer_layers_per_block";
        let up = match fields.get(reverse) {
            Some(value) => list(reverse, value)?,
            None if down.iter().any(Value::is_array) => {
                return Err(fields.bad(reverse, "is missing, and the depths differ inside a block"));
            }
            None => down.iter().rev().cloned().collect(),
        };
        Ok(Self { down, up })
    }

    fn down(&self, fields: &Fields<'_>, block: usize, layers: u64) -> Result<Vec<u64>> {
        expand(fields, &self.down[block], layers)
    }

    fn up(&self, fields: &Fields<'_>, block: usize, layers: u64) -> Result<Vec<u64>> {
        expand(fields, &self.up[block], layers)
    }

    /// The middle block has one transformer, as deep as the last down block's first.
    fn mid(&self, fields: &Fields<'_>) -> Result<u64> {
        let last = self.down.last().unwrap_or(&Value::Null);
        let first = last.as_array().and_then(|list| list.first()).unwrap_or(last);
        depth(fields, first)
    }
}

fn expand(fields: &Fields<'_>, value: &Value, layers: u64) -> Result<Vec<u64>> {
    match value {
        Value::Array(list) if list.len() as u64 == layers => list.iter().map(|value| depth(fields, value)).collect(),
        Value::Array(list) => {
            Err(fields.bad(DEPTHS, format!("has {} depths for a block of {layers} layers", list.len())))
        }
        one => Ok(std::iter::repeat_n(depth(fields, one)?, usize::try_from(layers).unwrap_or(0)).collect()),
    }
}

fn depth(fields: &Fields<'_>, value: &Value) -> Result<u64> {
    match value.as_u64() {
        Some(n @ 1..=64) => Ok(n),
        _ => Err(fields.bad(DEPTHS, "must hold numbers from 1 to 64")),
    }
}

impl<'a> Fields<'a> {
    /// Tells `null` (`Some(None)`) from absent (`None`): for `mid_block_type` they differ.
    fn json_text_or_null(&self, field: &str) -> Result<Option<Option<&'a str>>> {
        if self.is_null(field) { Ok(Some(None)) } else { Ok(self.text(field)?.map(Some)) }
    }
}
