//! Names of single-file checkpoints (LDM and OpenCLIP naming), found from the diffusers names that networks ask for.
//!
//! Source of the two namings: the published `stable-diffusion` and `generative-models` code on one side, diffusers'
//! modules on the other.

use super::header::Entry;
use std::collections::HashSet;

/// Where the values of a tensor are: a tensor of the file, or some of its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The tensor's name in the file.
    pub(crate) name: String,
    /// `(k, n)`: the k-th of n equal parts of the first dimension.
    rows: Option<(usize, usize)>,
    /// The two dimensions are exchanged.
    transposed: bool,
}

impl Place {
    pub(crate) fn whole(name: impl Into<String>) -> Self {
        Place { name: name.into(), rows: None, transposed: false }
    }

    /// The shape that the wanted tensor has.
    pub(crate) fn shape(&self, found: &[usize]) -> Vec<usize> {
        let mut shape = found.to_vec();
        if let (Some((_, n)), Some(first)) = (self.rows, shape.first_mut()) {
            *first /= n;
        }
        if self.transposed {
            shape.reverse();
        }
        shape
    }

    /// The bytes to read: how many to skip and how many to take.
    pub(crate) fn bytes(&self, entry: &Entry) -> (u64, u64) {
        match self.rows {
            Some((k, n)) => (entry.len / n as u64 * k as u64, entry.len / n as u64),
            None => (0, entry.len),
        }
    }

    /// Puts the values in order. `found` is the shape in the file.
    pub(crate) fn arrange(&self, values: Vec<f32>, found: &[usize]) -> Vec<f32> {
        let (true, [rows, columns]) = (self.transposed, found) else { return values };
        let mut out = vec![0f32; values.len()];
        for (i, value) in values.into_iter().enumerate() {
            out[(i % columns) * rows + i / columns] = value;
        }
        out
    }
}

/// Finds the tensors of one part in a checkpoint.
pub(crate) struct Renamer {
    prefix: &'static str,
    naming: Naming,
    names: HashSet<String>,
}

enum Naming {
    /// `layers`: residual blocks of a level.
    Unet {
        layers: usize,
    },
    /// `levels`: levels of the decoder.
    Vae {
        levels: usize,
    },
    Clip,
    OpenClip,
}

const UNET: &str = "model.diffusion_model.";
const VAE: &str = "first_stage_model.";
/// Where text encoders lie, by part, most specific first; the flag says OpenCLIP naming.
const TEXT: &[(&str, &str, bool)] = &[
    ("text_encoder", "conditioner.embedders.0.transformer.", false),
    ("text_encoder", "cond_stage_model.transformer.", false),
    ("text_encoder", "cond_stage_model.model.", true),
    ("text_encoder_2", "conditioner.embedders.1.model.", true),
    ("text_encoder_2", "conditioner.embedders.0.model.", true),
];

impl Renamer {
    /// For a part of a checkpoint that holds these tensors.
    pub(crate) fn new<'a>(part: &str, names: impl Iterator<Item = &'a str>) -> Self {
        let names: HashSet<String> = names.map(str::to_owned).collect();
        let starts = |prefix: &str| names.iter().any(|n| n.starts_with(prefix));
        let (prefix, naming) = match part {
            "unet" => {
                // The first level ends in a halving convolution.
                let ends = (1..16).find(|n| names.contains(&format!("{UNET}input_blocks.{n}.0.op.weight")));
                (UNET, Naming::Unet { layers: ends.map_or(2, |n| n - 1) })
            }
            "vae" => {
                let levels = (0..16).take_while(|n| starts(&format!("{VAE}decoder.up.{n}."))).count();
                (VAE, Naming::Vae { levels })
            }
            _ => match TEXT.iter().find(|(p, prefix, _)| *p == part && starts(prefix)) {
                Some((_, prefix, true)) => (*prefix, Naming::OpenClip),
                Some((_, prefix, false)) => (*prefix, Naming::Clip),
                None => ("", Naming::Clip),
            },
        };
        Renamer { prefix, naming, names }
    }

    /// Whether a tensor of the file belongs to this part.
    pub(crate) fn owns(&self, name: &str) -> bool {
        !self.prefix.is_empty() && name.starts_with(self.prefix)
    }

    /// Where the tensor with this diffusers name is; `None` if the file has none.
    pub(crate) fn place(&self, name: &str) -> Option<Place> {
        let mut place = match &self.naming {
            Naming::Unet { layers } => Place::whole(unet(name, *layers, &|n| self.exists(n))?),
            Naming::Vae { levels } => Place::whole(vae(name, *levels)?),
            // Some files lack the level `text_model`.
            Naming::Clip if self.exists(name) => Place::whole(name),
            Naming::Clip => Place::whole(name.strip_prefix("text_model.")?),
            Naming::OpenClip => open_clip(name, &|n| self.exists(n))?,
        };
        if !self.exists(&place.name) {
            return None;
        }
        place.name.insert_str(0, self.prefix);
        Some(place)
    }

    fn exists(&self, name: &str) -> bool {
        self.names.contains(&format!("{}{name}", self.prefix))
    }
}

/// Replaces the beginning of a dotted name by the first pair that fits on a boundary.
fn swap(name: &str, pairs: &[(&str, &str)]) -> String {
    for (from, to) in pairs {
        if let Some(rest) = name.strip_prefix(from)
            && (rest.is_empty() || rest.starts_with('.'))
        {
            return format!("{to}{rest}");
        }
    }
    name.to_owned()
}

const RESNET: &[(&str, &str)] = &[
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
];

const UNET_OUTER: &[(&str, &str)] = &[
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("time_embedding.cond_proj", "time_embed.cond_proj"),
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("class_embedding.linear_1", "label_emb.0.0"),
    ("class_embedding.linear_2", "label_emb.0.2"),
    ("class_embedding", "label_emb"),
    ("conv_in", "input_blocks.0.0"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
    ("mid_block.attentions.0", "middle_block.1"),
];

/// Splits `a.12.b.3.rest` behind a prefix into its two numbers, the word between them, and the rest.
fn numbered<'a>(name: &'a str, prefix: &str) -> Option<(usize, &'a str, usize, &'a str)> {
    let mut parts = name.strip_prefix(prefix)?.splitn(4, '.');
    let (block, kind, index, rest) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some((block.parse().ok()?, kind, index.parse().ok()?, rest))
}

fn unet(name: &str, layers: usize, exists: &dyn Fn(&str) -> bool) -> Option<String> {
    if let Some((block, kind, index, rest)) = numbered(name, "down_blocks.") {
        let at = 1 + block * (layers + 1);
        return match kind {
            "resnets" => Some(format!("input_blocks.{}.0.{}", at + index, swap(rest, RESNET))),
            "attentions" => Some(format!("input_blocks.{}.1.{rest}", at + index)),
            "downsamplers" => Some(format!("input_blocks.{}.0.{}", at + layers, swap(rest, &[("conv", "op")]))),
            _ => None,
        };
    }
    if let Some((block, kind, index, rest)) = numbered(name, "up_blocks.") {
        let at = block * (layers + 1);
        return match kind {
            "resnets" => Some(format!("output_blocks.{}.0.{}", at + index, swap(rest, RESNET))),
            "attentions" => Some(format!("output_blocks.{}.1.{rest}", at + index)),
            // Behind the attention, where the level has one.
            "upsamplers" => {
                let slots = [2, 1].map(|slot| format!("output_blocks.{}.{slot}.{rest}", at + layers));
                slots.into_iter().find(|n| exists(n))
            }
            _ => None,
        };
    }
    if let Some(rest) = name.strip_prefix("mid_block.resnets.") {
        let (index, rest) = rest.split_once('.')?;
        return Some(format!("middle_block.{}.{}", index.parse::<usize>().ok()? * 2, swap(rest, RESNET)));
    }
    Some(swap(name, UNET_OUTER))
}

const VAE_ATTENTION: &[(&str, &str)] =
    &[("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")];

fn vae(name: &str, levels: usize) -> Option<String> {
    let Some((side, rest)) = name.split_once('.').filter(|(side, _)| matches!(*side, "encoder" | "decoder")) else {
        return Some(name.to_owned());
    };
    let shortcut = |rest: &str| swap(rest, &[("conv_shortcut", "nin_shortcut")]);
    let inner = if let Some((block, kind, index, rest)) = numbered(rest, "down_blocks.") {
        match kind {
            "resnets" => format!("down.{block}.block.{index}.{}", shortcut(rest)),
            _ => format!("down.{block}.downsample.{rest}"),
        }
    } else if let Some((block, kind, index, rest)) = numbered(rest, "up_blocks.") {
        // Counted from the other end.
        let block = levels.checked_sub(block + 1)?;
        match kind {
            "resnets" => format!("up.{block}.block.{index}.{}", shortcut(rest)),
            _ => format!("up.{block}.upsample.{rest}"),
        }
    } else if let Some(rest) = rest.strip_prefix("mid_block.resnets.") {
        let (index, rest) = rest.split_once('.')?;
        format!("mid.block_{}.{}", index.parse::<usize>().ok()? + 1, shortcut(rest))
    } else if let Some(rest) = rest.strip_prefix("mid_block.attentions.0.") {
        format!("mid.attn_1.{}", swap(rest, VAE_ATTENTION))
    } else {
        swap(rest, &[("conv_norm_out", "norm_out")])
    };
    Some(format!("{side}.{inner}"))
}

const OPEN_CLIP_LAYER: &[(&str, &str)] = &[
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
    ("self_attn.out_proj", "attn.out_proj"),
];

fn open_clip(name: &str, exists: &dyn Fn(&str) -> bool) -> Option<Place> {
    if name == "text_projection.weight" {
        // OpenCLIP multiplies from the left; some tools have already turned it into a linear layer.
        let turned = exists(name);
        let name = if turned { name } else { "text_projection" };
        return Some(Place { transposed: !turned, ..Place::whole(name) });
    }
    let name = name.strip_prefix("text_model.")?;
    let Some(rest) = name.strip_prefix("encoder.layers.") else {
        return Some(Place::whole(swap(
            name,
            &[
                ("embeddings.token_embedding", "token_embedding"),
                ("embeddings.position_embedding.weight", "positional_embedding"),
                ("final_layer_norm", "ln_final"),
            ],
        )));
    };
    let (index, rest) = rest.split_once('.')?;
    let layer = format!("transformer.resblocks.{index}");
    // The three projections are one matrix.
    for (k, part) in ["q_proj", "k_proj", "v_proj"].iter().enumerate() {
        if let Some(leaf) = rest.strip_prefix("self_attn.").and_then(|r| r.strip_prefix(part)) {
            let leaf = leaf.trim_start_matches('.');
            return Some(Place { rows: Some((k, 3)), ..Place::whole(format!("{layer}.attn.in_proj_{leaf}")) });
        }
    }
    Some(Place::whole(format!("{layer}.{}", swap(rest, OPEN_CLIP_LAYER))))
}
