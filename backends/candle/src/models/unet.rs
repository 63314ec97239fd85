//! The denoiser of the Stable Diffusion families: diffusers' `UNet2DConditionModel`.

use super::{
    Builder,
    embedding::{EmbeddingMlp, sinusoids},
    poll,
    resnet::{Downsample, Resnet, ResnetSpec, Upsample},
    transformer::{TextKeys, TextProjections, Texts, Transformer, TransformerSpec},
};
use crate::{
    Error, Result,
    config::{UnetConfig, unet::Level},
    ops::{Act, Activation, Conv2d, ConvCall, ConvSpec, Linear, LinearSpec, Norm, Ops},
};
use backend_api::Ctl;

/// What one item of a batch brings besides its latents.
pub struct UnetItem<'a> {
    /// 0–999, may lie between whole numbers.
    pub timestep: f32,
    /// Keys and values of its text.
    pub text: &'a TextKeys,
    /// Pooled text, where the network adds it.
    pub pooled: Option<&'a [f32]>,
    /// Sizes and crop (SDXL), where the network adds them.
    pub time_ids: Option<&'a [f32]>,
    /// The guidance embedding of a distilled network.
    pub condition: Option<&'a [f32]>,
    /// Class input, where the network has one: a class number, a timestep or a vector.
    pub class: Option<&'a [f32]>,
}

enum ClassEmbedding {
    Table { rows: Vec<f32>, count: usize },
    Identity,
    Timestep(EmbeddingMlp),
    Projection(EmbeddingMlp, usize),
    Linear(Box<dyn Linear>, usize),
}

/// One level: residual blocks, each with a transformer behind it where the level has attention.
struct Blocks {
    resnets: Vec<Resnet>,
    attentions: Vec<Transformer>,
}

/// The network.
pub struct Unet {
    config: UnetConfig,
    time: EmbeddingMlp,
    added: Option<EmbeddingMlp>,
    class: Option<ClassEmbedding>,
    conv_in: Box<dyn Conv2d>,
    down: Vec<(Blocks, Option<Downsample>)>,
    middle: Option<Blocks>,
    up: Vec<(Blocks, Option<Upsample>)>,
    norm_out: Box<dyn Norm>,
    conv_out: Box<dyn Conv2d>,
    projections: TextProjections,
}

impl Unet {
    /// Builds the network that the config describes.
    pub fn new(b: &Builder<'_>, config: UnetConfig) -> Result<Self> {
        config.check()?;
        let (width, groups, eps) = (config.time_width(), config.groups(), config.norm_eps);
        let first = config.block_out_channels[0];
        let spec = ResnetSpec {
            groups,
            eps,
            time: Some(width),
            scale_shift: config.resnet_time_scale_shift == "scale_shift",
            scale: config.resnet_out_scale_factor,
        };
        let mut projections = TextProjections::default();
        let time = EmbeddingMlp::new(&b.pp("time_embedding"), first, width, config.time_cond_proj_dim)?;
        let added = match (&config.addition_embed_type, config.projection_class_embeddings_input_dim) {
            (None, _) => None,
            (Some(_), Some(inputs)) => Some(EmbeddingMlp::new(&b.pp("add_embedding"), inputs, width, None)?),
            (Some(_), None) => {
                return Err(Error::config("unet", "`projection_class_embeddings_input_dim` is missing"));
            }
        };
        let class = class_embedding(b, &config, width)?;
        let conv_in = b.conv("conv_in", ConvSpec::same(config.in_channels, first, config.conv_in_kernel))?;

        let mut down = Vec::new();
        let mut skips = vec![first];
        let levels = config.down_levels()?;
        let mut channels = first;
        for (i, level) in levels.iter().enumerate() {
            let b = b.pp("down_blocks").pp(i);
            let inputs = (0..level.layers).map(|j| if j == 0 { channels } else { level.channels }).collect::<Vec<_>>();
            let blocks = Blocks::new(&b, &inputs, level, spec, &mut projections)?;
            channels = level.channels;
            skips.extend(std::iter::repeat_n(channels, level.layers));
            let last = i + 1 == levels.len();
            let sampler =
                (!last).then(|| Downsample::new(&b.pp("downsamplers").pp(0), channels, config.downsample_padding));
            if !last {
                skips.push(channels);
            }
            down.push((blocks, sampler.transpose()?));
        }

        let middle = match &config.mid_block_type {
            None => None,
            Some(_) => {
                let mut level = config.middle()?;
                let spec = ResnetSpec { scale: config.mid_block_scale_factor, ..spec };
                if level.depths.is_none() {
                    level.layers = 1;
                }
                let inputs = vec![channels; level.layers];
                Some(Blocks::new(&b.pp("mid_block"), &inputs, &level, spec, &mut projections)?)
            }
        };

        let mut up = Vec::new();
        let levels = config.up_levels()?;
        for (i, level) in levels.iter().enumerate() {
            let b = b.pp("up_blocks").pp(i);
            let mut inputs = Vec::with_capacity(level.layers);
            for _ in 0..level.layers {
                let Some(skip) = skips.pop() else {
                    return Err(Error::config("unet", "the way up has more layers than the way down"));
                };
                inputs.push(channels + skip);
                channels = level.channels;
            }
            let blocks = Blocks::new(&b, &inputs, level, spec, &mut projections)?;
            let last = i + 1 == levels.len();
            let sampler = (!last).then(|| Upsample::new(&b.pp("upsamplers").pp(0), channels));
            up.push((blocks, sampler.transpose()?));
        }
        if !skips.is_empty() {
            return Err(Error::config("unet", "the way up has fewer layers than the way down"));
        }
        let out = ConvSpec::same(first, config.out_channels, config.conv_out_kernel);
        Ok(Unet {
            time,
            added,
            class,
            conv_in,
            down,
            middle,
            up,
            norm_out: b.group_norm("conv_norm_out", first, groups, eps, Act::Silu)?,
            conv_out: b.conv("conv_out", out)?,
            projections,
            config,
        })
    }

    /// The config that it was built from.
    pub fn config(&self) -> &UnetConfig {
        &self.config
    }

    /// Keys and values of a text for [`UnetItem::text`]: `context` is `[1, 1, tokens, width]`.
    pub fn text_keys(&self, context: &Activation, ctl: &Ctl) -> Result<TextKeys> {
        let width = self.config.down_levels()?.first().map_or(0, |level| level.context);
        if context.channels() != width {
            let found = context.channels();
            return Err(Error::invalid(format!("the text's states are {found} wide, the network takes {width}")));
        }
        self.projections.keys(context, ctl)
    }

    /// One prediction. `x`: `[n, h, w, in_channels]`; answers `[n, h, w, out_channels]`.
    pub fn forward(&self, ops: &dyn Ops, x: &Activation, items: &[UnetItem<'_>], ctl: &Ctl) -> Result<Activation> {
        if x.channels() != self.config.in_channels || x.batch() != items.len() {
            let (found, wanted) = (x.channels(), self.config.in_channels);
            return Err(Error::invalid(format!("the denoiser takes {wanted} channels, got {found}")));
        }
        let time = ops.map(&self.embedding(ops, items)?, Act::Silu)?;
        let time = Some(&time);
        let texts = Texts(items.iter().map(|item| item.text).collect());
        let centred = if self.config.center_input_sample { Some(ops.affine(x, 2.0, -1.0)?) } else { None };
        let mut h = self.conv_in.forward(centred.as_ref().unwrap_or(x), ConvCall::default())?;
        let mut skips = vec![h.clone()];
        for (blocks, sampler) in &self.down {
            for (i, resnet) in blocks.resnets.iter().enumerate() {
                poll(ctl)?;
                h = resnet.forward(ops, &h, time)?;
                if let Some(attention) = blocks.attentions.get(i) {
                    h = attention.forward(ops, &h, &texts, ctl)?;
                }
                skips.push(h.clone());
            }
            if let Some(sampler) = sampler {
                h = sampler.forward(&h)?;
                skips.push(h.clone());
            }
        }
        if let Some(middle) = &self.middle {
            for (i, resnet) in middle.resnets.iter().enumerate() {
                poll(ctl)?;
                h = resnet.forward(ops, &h, time)?;
                // The middle has its attention between its two residual blocks.
                if let Some(attention) = middle.attentions.get(i) {
                    h = attention.forward(ops, &h, &texts, ctl)?;
                }
            }
        }
        for (blocks, sampler) in &self.up {
            for (i, resnet) in blocks.resnets.iter().enumerate() {
                poll(ctl)?;
                let skip = skips.pop().ok_or_else(|| Error::Operation("no skip is left".to_owned()))?;
                h = resnet.forward(ops, &ops.concat(&h, &skip)?, time)?;
                if let Some(attention) = blocks.attentions.get(i) {
                    h = attention.forward(ops, &h, &texts, ctl)?;
                }
            }
            if let (Some(sampler), Some(next)) = (sampler, skips.last()) {
                h = sampler.forward(&h, (next.height(), next.width()))?;
            }
        }
        self.conv_out.forward(&self.norm_out.forward(&h)?, ConvCall::default())
    }

    /// The embedding of time and of everything that is added to it: `[1, 1, n, width]`.
    fn embedding(&self, ops: &dyn Ops, items: &[UnetItem<'_>]) -> Result<Activation> {
        let config = &self.config;
        let rows = |values: Vec<f32>| {
            let width = values.len() / items.len();
            Activation::from_vec(values, [1, 1, items.len(), width], ops.device())
        };
        let waves = |values: &[f32], width| sinusoids(values, width, config.flip_sin_to_cos, config.freq_shift);
        let first = config.block_out_channels[0];
        let timesteps: Vec<f32> = items.iter().map(|item| item.timestep).collect();
        let condition = match config.time_cond_proj_dim {
            Some(width) => Some(rows(gather(items, width, "guidance_scale", |item| item.condition)?)?),
            None => None,
        };
        let mut emb = self.time.forward(&rows(waves(&timesteps, first))?, condition.as_ref())?;
        if let Some(class) = &self.class {
            let labels = match class {
                ClassEmbedding::Table { rows: table, count } => {
                    let width = config.time_width();
                    let mut out = Vec::with_capacity(items.len() * width);
                    for label in gather(items, 1, "class_labels", |item| item.class)? {
                        if !(0.0..*count as f32).contains(&label) {
                            return Err(Error::invalid(format!("`class_labels` {label} is not below {count}")));
                        }
                        out.extend_from_slice(&table[label as usize * width..][..width]);
                    }
                    rows(out)?
                }
                ClassEmbedding::Identity => rows(gather(items, config.time_width(), "class_labels", |i| i.class)?)?,
                ClassEmbedding::Timestep(mlp) => {
                    mlp.forward(&rows(waves(&gather(items, 1, "class_labels", |i| i.class)?, first))?, None)?
                }
                ClassEmbedding::Projection(mlp, width) => {
                    mlp.forward(&rows(gather(items, *width, "class_labels", |i| i.class)?)?, None)?
                }
                ClassEmbedding::Linear(layer, width) => {
                    layer.forward(&rows(gather(items, *width, "class_labels", |i| i.class)?)?, None)?
                }
            };
            emb = ops.add(&emb, &labels)?;
        }
        if let Some(added) = &self.added {
            let inputs = config.projection_class_embeddings_input_dim.unwrap_or(0);
            let size = config.addition_time_embed_dim.unwrap_or(256);
            let mut values = Vec::with_capacity(items.len() * inputs);
            for item in items {
                let pooled = item.pooled.ok_or_else(|| Error::invalid("the pooled text is missing"))?;
                let ids = item.time_ids.ok_or_else(|| Error::invalid("the extra input `time_ids` is missing"))?;
                if pooled.len() + ids.len() * size != inputs {
                    let wanted = inputs.saturating_sub(pooled.len()) / size.max(1);
                    return Err(Error::invalid(format!(
                        "`time_ids` has {} values, the model takes {wanted}",
                        ids.len()
                    )));
                }
                values.extend_from_slice(pooled);
                values.extend(waves(ids, size));
            }
            emb = ops.add(&emb, &added.forward(&rows(values)?, None)?)?;
        }
        Ok(emb)
    }
}

/// One input of every item, `width` values each.
fn gather<'a>(
    items: &[UnetItem<'a>],
    width: usize,
    name: &str,
    get: impl Fn(&UnetItem<'a>) -> Option<&'a [f32]>,
) -> Result<Vec<f32>> {
    let mut out = Vec::with_capacity(items.len() * width);
    for item in items {
        let values = get(item).ok_or_else(|| Error::invalid(format!("the extra input `{name}` is missing")))?;
        if values.len() != width {
            return Err(Error::invalid(format!("`{name}` has {} values, the model takes {width}", values.len())));
        }
        out.extend_from_slice(values);
    }
    Ok(out)
}

fn class_embedding(b: &Builder<'_>, config: &UnetConfig, width: usize) -> Result<Option<ClassEmbedding>> {
    let place = b.pp("class_embedding");
    let inputs = config
        .projection_class_embeddings_input_dim
        .ok_or_else(|| Error::config("unet", "`projection_class_embeddings_input_dim` is missing"));
    Ok(match (config.class_embed_type.as_deref(), config.num_class_embeds) {
        (None, None) => None,
        (None, Some(count)) => Some(ClassEmbedding::Table { rows: place.vars.get(&[count, width], "weight")?, count }),
        (Some("timestep"), _) => {
            let mlp = EmbeddingMlp::new(&place, config.block_out_channels[0], width, None)?;
            Some(ClassEmbedding::Timestep(mlp))
        }
        (Some("projection"), _) => {
            let inputs = inputs?;
            Some(ClassEmbedding::Projection(EmbeddingMlp::new(&place, inputs, width, None)?, inputs))
        }
        (Some("simple_projection"), _) => {
            let inputs = inputs?;
            Some(ClassEmbedding::Linear(b.linear("class_embedding", LinearSpec::plain(inputs, width))?, inputs))
        }
        (Some(_), _) => Some(ClassEmbedding::Identity),
    })
}

impl Blocks {
    fn new(
        b: &Builder<'_>,
        inputs: &[usize],
        level: &Level,
        spec: ResnetSpec,
        projections: &mut TextProjections,
    ) -> Result<Self> {
        let resnets =
            inputs.iter().enumerate().map(|(j, c)| Resnet::new(&b.pp("resnets").pp(j), *c, level.channels, spec));
        let attentions = level.depths.iter().flatten().enumerate().map(|(j, depth)| {
            let spec = TransformerSpec {
                channels: level.channels,
                heads: level.heads,
                context: level.context,
                depth: *depth,
                groups: spec.groups,
                only_cross: level.only_cross,
            };
            Transformer::new(&b.pp("attentions").pp(j), &spec, projections)
        });
        Ok(Blocks { resnets: resnets.collect::<Result<_>>()?, attentions: attentions.collect::<Result<_>>()? })
    }
}
