//! CLIP's text encoder (OpenAI's and OpenCLIP's): transformers' `CLIPTextModel` and `CLIPTextModelWithProjection`.

use super::{Builder, poll};
use crate::{
    Error, Result,
    config::ClipConfig,
    ops::{Activation, AttentionSpec, KeysValues, Linear, LinearSpec, Norm, Ops},
};
use backend_api::Ctl;

struct Layer {
    norm1: Box<dyn Norm>,
    qkv: Box<dyn Linear>,
    out: Box<dyn Linear>,
    norm2: Box<dyn Norm>,
    fc1: Box<dyn Linear>,
    fc2: Box<dyn Linear>,
}

impl Layer {
    fn new(b: &Builder<'_>, config: &ClipConfig, part: &str) -> Result<Self> {
        let (w, m, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let attention = b.pp("self_attn");
        Ok(Layer {
            norm1: b.layer_norm("layer_norm1", w, eps)?,
            qkv: attention.fused(&["q_proj", "k_proj", "v_proj"], LinearSpec::plain(w, 3 * w))?,
            out: attention.linear("out_proj", LinearSpec::plain(w, w))?,
            norm2: b.layer_norm("layer_norm2", w, eps)?,
            fc1: b.linear("mlp.fc1", LinearSpec { act: config.act(part)?, ..LinearSpec::plain(w, m) })?,
            fc2: b.linear("mlp.fc2", LinearSpec::plain(m, w))?,
        })
    }

    fn forward(&self, ops: &dyn Ops, x: &Activation, heads: usize) -> Result<Activation> {
        let w = x.channels();
        let qkv = self.qkv.forward(&self.norm1.forward(x)?, None)?;
        let kv = KeysValues::Batch(qkv.view(w, w), qkv.view(2 * w, w));
        let h = ops.attention(qkv.view(0, w), &kv, AttentionSpec { heads, causal: true })?;
        let x = self.out.forward(&h, Some(x))?;
        let h = self.fc1.forward(&self.norm2.forward(&x)?, None)?;
        self.fc2.forward(&h, Some(&x))
    }
}

/// Which state of the encoder a model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Layers left out at the end.
    pub skip: usize,
    /// Whether the state goes through the final norm (Stable Diffusion 1 and 2) or not (XL).
    pub normed: bool,
    /// Whether the pooled text is wanted too.
    pub pooled: bool,
}

/// Token ids of some chunks.
#[derive(Debug, Clone, Copy)]
pub struct Tokens<'a> {
    /// `chunks × length` ids.
    pub ids: &'a [u32],
    /// Tokens in a chunk.
    pub length: usize,
    /// Vectors of the ids behind the vocabulary (textual inversion), `hidden_size` each.
    pub added: &'a [f32],
}

/// What comes out for a batch of chunks.
pub struct Encoded {
    /// `[chunks, 1, length, hidden_size]`.
    pub states: Activation,
    /// The first chunk's state at its end token, projected where the model has a projection.
    pub pooled: Option<Vec<f32>>,
}

/// The encoder.
pub struct Clip {
    part: String,
    config: ClipConfig,
    tokens: Vec<f32>,
    positions: Vec<f32>,
    layers: Vec<Layer>,
    final_norm: Box<dyn Norm>,
    projection: Option<Box<dyn Linear>>,
    /// Rows of `tokens`.
    vocabulary: usize,
}

impl Clip {
    /// Builds the encoder that the config describes.
    pub fn new(b: &Builder<'_>, config: ClipConfig) -> Result<Self> {
        let part = b.vars.part_name().to_owned();
        config.check(&part)?;
        let w = config.hidden_size;
        // Some tools save without the outer level.
        let root =
            if b.vars.has("text_model.embeddings.token_embedding.weight") { b.pp("text_model") } else { b.clone() };
        let layers =
            (0..config.num_hidden_layers).map(|i| Layer::new(&root.pp("encoder.layers").pp(i), &config, &part));
        let projection = match b.vars.shape("text_projection.weight") {
            Some(shape) => {
                let outputs = shape.first().copied().unwrap_or(0);
                Some(b.linear("text_projection", LinearSpec::plain(w, outputs))?)
            }
            None => None,
        };
        let embeddings = root.vars.pp("embeddings");
        Ok(Clip {
            tokens: embeddings.get(&[config.vocab_size, w], "token_embedding.weight")?,
            positions: embeddings.get(&[config.max_position_embeddings, w], "position_embedding.weight")?,
            layers: layers.collect::<Result<_>>()?,
            final_norm: root.layer_norm("final_layer_norm", w, config.layer_norm_eps)?,
            projection,
            vocabulary: config.vocab_size,
            part,
            config,
        })
    }

    /// The config that it was built from.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// Encodes chunks of equal length.
    pub fn forward(&self, ops: &dyn Ops, text: Tokens<'_>, wanted: Wanted, ctl: &Ctl) -> Result<Encoded> {
        let Tokens { ids, length, added } = text;
        let (w, limit) = (self.config.hidden_size, self.config.max_position_embeddings);
        if length == 0 || length > limit || !ids.len().is_multiple_of(length) || ids.is_empty() {
            return Err(Error::invalid(format!("`{}` takes chunks of 1 to {limit} tokens", self.part)));
        }
        let layers = self.layers.len();
        if wanted.skip >= layers {
            return Err(Error::invalid(format!("`clip_skip` leaves none of the {layers} layers of `{}`", self.part)));
        }
        let known = (self.tokens.len() + added.len()) / w;
        let mut values = Vec::with_capacity(ids.len() * w);
        for (i, id) in ids.iter().enumerate() {
            let id = *id as usize;
            if id >= known {
                return Err(Error::invalid(format!("token {id} is not among the {known} tokens of `{}`", self.part)));
            }
            let position = &self.positions[(i % length) * w..][..w];
            let vector = match id.checked_sub(self.vocabulary) {
                None => &self.tokens[id * w..][..w],
                Some(new) => &added[new * w..][..w],
            };
            values.extend(vector.iter().zip(position).map(|(a, b)| a + b));
        }
        let chunks = ids.len() / length;
        let mut h = Activation::from_vec(values, [chunks, 1, length, w], ops.device())?;
        let mut state = None;
        for (i, layer) in self.layers.iter().enumerate() {
            if i == layers - wanted.skip {
                state = Some(h.clone());
                if !wanted.pooled {
                    break;
                }
            }
            poll(ctl)?;
            h = layer.forward(ops, &h, self.config.num_attention_heads)?;
        }
        let pooled = if wanted.pooled { Some(self.pool(ops, &h, &ids[..length])?) } else { None };
        let state = state.unwrap_or(h);
        let states = if wanted.normed { self.final_norm.forward(&state)? } else { state };
        Ok(Encoded { states, pooled })
    }

    /// The first chunk's last state at its end token, through the final norm and the projection.
    fn pool(&self, ops: &dyn Ops, last: &Activation, ids: &[u32]) -> Result<Vec<f32>> {
        let w = self.config.hidden_size;
        let normed = self.final_norm.forward(last)?.to_vec()?;
        let row = normed[self.end(ids) * w..][..w].to_vec();
        match &self.projection {
            Some(layer) => layer.forward(&Activation::from_vec(row, [1, 1, 1, w], ops.device())?, None)?.to_vec(),
            None => Ok(row),
        }
    }

    /// Where the text ends. Configs of old files say `eos_token_id` 2, which is wrong: for them transformers takes the
    /// largest id; added tokens, which are larger, are left out of that here.
    fn end(&self, ids: &[u32]) -> usize {
        match self.config.eos_token_id {
            Some(eos) if eos != 2 => ids.iter().position(|id| *id == eos).unwrap_or(0),
            _ => {
                let own = |id: &u32| if (*id as usize) < self.vocabulary { *id } else { 0 };
                let largest = ids.iter().map(own).max().unwrap_or(0);
                ids.iter().position(|id| own(id) == largest).unwrap_or(0)
            }
        }
    }

    /// Bytes of the token and position tables.
    pub fn table_bytes(&self) -> u64 {
        ((self.tokens.len() + self.positions.len()) * size_of::<f32>()) as u64
    }

    /// Width of the pooled text.
    pub fn pooled_width(&self) -> usize {
        self.config.projection_dim.unwrap_or(self.config.hidden_size)
    }
}
