//! The transformer of a UNet's level: self attention, attention to the text, gated MLP.

use super::{Builder, poll};
use crate::{
    Result,
    ops::{Act, Activation, AttentionSpec, Conv2d, ConvCall, ConvSpec, KeysValues, Linear, LinearSpec, Norm, Ops},
};
use backend_api::Ctl;

/// Eps of the norms inside, fixed in diffusers.
const LAYER_EPS: f64 = 1e-5;
const GROUP_EPS: f64 = 1e-6;

/// Keys and values of one text for every attention that looks at it, in the order of the layers. They depend on the
/// text alone, so they are made once and kept over all steps.
pub struct TextKeys {
    /// `[1, 1, tokens, 2 · width]` a layer: keys, then values.
    layers: Vec<Activation>,
}

impl TextKeys {
    /// Bytes they hold.
    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(Activation::bytes).sum()
    }
}

/// The texts of a batch, an entry an item.
pub struct Texts<'a>(pub Vec<&'a TextKeys>);

impl Texts<'_> {
    fn keys_values(&self, slot: usize, width: usize) -> KeysValues<'_> {
        let pairs = self.0.iter().map(|keys| {
            let layer = &keys.layers[slot];
            (layer.view(0, width), layer.view(width, width))
        });
        KeysValues::Items(pairs.collect())
    }
}

/// Layers that turn a text's states into keys and values; collected over the whole network while it is built.
#[derive(Default)]
pub struct TextProjections(Vec<Box<dyn Linear>>);

impl TextProjections {
    fn push(&mut self, layer: Box<dyn Linear>) -> usize {
        self.0.push(layer);
        self.0.len() - 1
    }

    /// Keys and values of one text: `context` is `[1, 1, tokens, width]`.
    pub fn keys(&self, context: &Activation, ctl: &Ctl) -> Result<TextKeys> {
        let layers = self.0.iter().map(|layer| {
            poll(ctl)?;
            layer.forward(context, None)
        });
        Ok(TextKeys { layers: layers.collect::<Result<_>>()? })
    }
}

enum Source {
    /// Queries, keys and values from the picture, in one matrix.
    Own(Box<dyn Linear>),
    /// Queries from the picture, keys and values from the text.
    Text { query: Box<dyn Linear>, slot: usize },
}

struct Attention {
    source: Source,
    out: Box<dyn Linear>,
    heads: usize,
    width: usize,
}

impl Attention {
    fn new(
        b: &Builder<'_>,
        width: usize,
        heads: usize,
        text: Option<usize>,
        projections: &mut TextProjections,
    ) -> Result<Self> {
        let source = match text {
            None => Source::Own(b.fused(&["to_q", "to_k", "to_v"], LinearSpec::plain(width, 3 * width))?),
            Some(context) => Source::Text {
                query: b.linear("to_q", LinearSpec::plain(width, width))?,
                slot: projections.push(b.fused(&["to_k", "to_v"], LinearSpec::plain(context, 2 * width))?),
            },
        };
        let out = b.linear("to_out.0", LinearSpec::plain(width, width))?;
        Ok(Attention { source, out, heads, width })
    }

    fn forward(&self, ops: &dyn Ops, x: &Activation, residual: &Activation, texts: &Texts<'_>) -> Result<Activation> {
        let (spec, w) = (AttentionSpec { heads: self.heads, causal: false }, self.width);
        let h = match &self.source {
            Source::Own(layer) => {
                let qkv = layer.forward(x, None)?;
                let kv = KeysValues::Batch(qkv.view(w, w), qkv.view(2 * w, w));
                ops.attention(qkv.view(0, w), &kv, spec)?
            }
            Source::Text { query, slot } => {
                let q = query.forward(x, None)?;
                ops.attention(q.all(), &texts.keys_values(*slot, w), spec)?
            }
        };
        self.out.forward(&h, Some(residual))
    }
}

/// One layer: diffusers' `BasicTransformerBlock`.
struct Layer {
    norm1: Box<dyn Norm>,
    attn1: Attention,
    norm2: Box<dyn Norm>,
    attn2: Attention,
    norm3: Box<dyn Norm>,
    gate: Box<dyn Linear>,
    out: Box<dyn Linear>,
}

impl Layer {
    fn new(b: &Builder<'_>, spec: &TransformerSpec, projections: &mut TextProjections) -> Result<Self> {
        let w = spec.channels;
        let own = spec.only_cross.then_some(spec.context);
        let gated = LinearSpec { inputs: w, outputs: 8 * w, act: Act::Gelu, gated: true };
        Ok(Layer {
            norm1: b.layer_norm("norm1", w, LAYER_EPS)?,
            attn1: Attention::new(&b.pp("attn1"), w, spec.heads, own, projections)?,
            norm2: b.layer_norm("norm2", w, LAYER_EPS)?,
            attn2: Attention::new(&b.pp("attn2"), w, spec.heads, Some(spec.context), projections)?,
            norm3: b.layer_norm("norm3", w, LAYER_EPS)?,
            gate: b.linear("ff.net.0.proj", gated)?,
            out: b.linear("ff.net.2", LinearSpec::plain(4 * w, w))?,
        })
    }

    fn forward(&self, ops: &dyn Ops, x: &Activation, texts: &Texts<'_>) -> Result<Activation> {
        let x = self.attn1.forward(ops, &self.norm1.forward(x)?, x, texts)?;
        let x = self.attn2.forward(ops, &self.norm2.forward(&x)?, &x, texts)?;
        let h = self.gate.forward(&self.norm3.forward(&x)?, None)?;
        self.out.forward(&h, Some(&x))
    }
}

/// A transformer's sizes.
#[derive(Debug, Clone)]
pub struct TransformerSpec {
    /// Channels.
    pub channels: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the text's states.
    pub context: usize,
    /// Layers.
    pub depth: usize,
    /// Groups of the first norm.
    pub groups: usize,
    /// Both attentions look at the text.
    pub only_cross: bool,
}

/// norm → projection → layers → projection, plus the input: diffusers' `Transformer2DModel`.
pub struct Transformer {
    norm: Box<dyn Norm>,
    proj_in: Box<dyn Conv2d>,
    layers: Vec<Layer>,
    proj_out: Box<dyn Conv2d>,
}

impl Transformer {
    /// The projections may be stored as linear layers or as 1×1 convolutions: with channels last they are the same.
    pub fn new(b: &Builder<'_>, spec: &TransformerSpec, projections: &mut TextProjections) -> Result<Self> {
        let c = spec.channels;
        let layers = (0..spec.depth).map(|i| Layer::new(&b.pp("transformer_blocks").pp(i), spec, projections));
        Ok(Transformer {
            norm: b.group_norm("norm", c, spec.groups, GROUP_EPS, Act::Identity)?,
            proj_in: b.conv("proj_in", ConvSpec::same(c, c, 1))?,
            layers: layers.collect::<Result<_>>()?,
            proj_out: b.conv("proj_out", ConvSpec::same(c, c, 1))?,
        })
    }

    /// Keeps the shape.
    pub fn forward(&self, ops: &dyn Ops, x: &Activation, texts: &Texts<'_>, ctl: &Ctl) -> Result<Activation> {
        let mut h = self.proj_in.forward(&self.norm.forward(x)?, ConvCall::default())?;
        for layer in &self.layers {
            poll(ctl)?;
            h = layer.forward(ops, &h, texts)?;
        }
        self.proj_out.forward(&h, ConvCall { residual: Some(x), ..ConvCall::default() })
    }
}
