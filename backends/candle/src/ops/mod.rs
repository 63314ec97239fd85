//! The operations that networks are written in. Networks never call a tensor library themselves.
//!
//! An operation with weights is an object made once at load, so that each device packs weights as its kernels want
//! them. One implementation a device: [`portable`] on candle's tensors is the reference that tests compare with,
//! [`cpu`] holds our own kernels.

mod activation;
pub mod cpu;
pub mod portable;

pub use activation::Activation;

use crate::Result;
use candle_core::Device;

/// A function applied to each value of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// x
    Identity,
    /// x · sigmoid(x)
    Silu,
    /// x · Φ(x), by the error function
    Gelu,
    /// x · sigmoid(1.702 x)
    QuickGelu,
    /// max(x, 0)
    Relu,
    /// x, or 0.2 x below zero
    LeakyRelu,
    /// tanh(x)
    Tanh,
}

/// A convolution's geometry. Kernels are square.
#[derive(Debug, Clone, Copy)]
pub struct ConvSpec {
    /// Channels in.
    pub inputs: usize,
    /// Channels out.
    pub outputs: usize,
    /// Side of the kernel.
    pub kernel: usize,
    /// Step in both directions.
    pub stride: usize,
    /// Zeros before the first row and column.
    pub pad_before: usize,
    /// Zeros after the last row and column.
    pub pad_after: usize,
    /// Applied last.
    pub act: Act,
}

impl ConvSpec {
    /// A convolution of stride 1 that keeps the size.
    pub fn same(inputs: usize, outputs: usize, kernel: usize) -> Self {
        let pad = kernel / 2;
        ConvSpec { inputs, outputs, kernel, stride: 1, pad_before: pad, pad_after: pad, act: Act::Identity }
    }

    /// The size of the output for an input of `size` pixels in one direction.
    pub fn output_size(&self, size: usize) -> usize {
        (size + self.pad_before + self.pad_after).saturating_sub(self.kernel) / self.stride + 1
    }
}

/// What a convolution does besides convolving.
#[derive(Default, Clone, Copy)]
pub struct ConvCall<'a> {
    /// Enlarges the input to (height, width) first, each pixel from its nearest.
    pub resize: Option<(usize, usize)>,
    /// `[n, 1, 1, outputs]`, added to every pixel of its item.
    pub item_bias: Option<&'a Activation>,
    /// Added to the result, of the result's shape.
    pub residual: Option<&'a Activation>,
}

/// A convolution with its weights.
pub trait Conv2d: Send + Sync {
    /// `act(conv(resize(x)) + bias + item_bias + residual)`.
    fn forward(&self, x: &Activation, call: ConvCall<'_>) -> Result<Activation>;
}

/// A linear layer's shape.
#[derive(Debug, Clone, Copy)]
pub struct LinearSpec {
    /// Channels in.
    pub inputs: usize,
    /// Rows of the weight matrix.
    pub outputs: usize,
    /// Applied last; with `gated` applied to the second half of the outputs.
    pub act: Act,
    /// The result is (first half) · act(second half): half as many channels come out.
    pub gated: bool,
}

impl LinearSpec {
    /// A plain linear layer.
    pub fn plain(inputs: usize, outputs: usize) -> Self {
        LinearSpec { inputs, outputs, act: Act::Identity, gated: false }
    }
}

/// A linear layer with its weights.
pub trait Linear: Send + Sync {
    /// `act(x Wᵀ + b) + residual` for every position.
    fn forward(&self, x: &Activation, residual: Option<&Activation>) -> Result<Activation>;
}

/// A norm with its gain and bias.
pub trait Norm: Send + Sync {
    /// `act(norm(x) · gain + bias)`.
    fn forward(&self, x: &Activation) -> Result<Activation>;
    /// `act((norm(x) · gain + bias) · (1 + scale) + shift)`; `scale_shift` is `[n, 1, 1, 2c]`, scales first.
    fn forward_modulated(&self, x: &Activation, scale_shift: &Activation) -> Result<Activation>;
}

/// Some neighbouring channels of an activation.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The whole.
    pub of: &'a Activation,
    /// The first channel.
    pub start: usize,
    /// How many.
    pub width: usize,
}

/// Keys and values for attention.
pub enum KeysValues<'a> {
    /// One batch as large as the queries'.
    Batch(View<'a>, View<'a>),
    /// One pair of batch 1 for each item; lengths may differ.
    Items(Vec<(View<'a>, View<'a>)>),
}

impl<'a> KeysValues<'a> {
    /// The pair for one item: views and the index of the item in them.
    pub(crate) fn item(&self, index: usize) -> (View<'a>, View<'a>, usize) {
        match self {
            KeysValues::Batch(k, v) => (*k, *v, index),
            KeysValues::Items(items) => (items[index].0, items[index].1, 0),
        }
    }
}

/// How attention is done. The scale is 1 / √(head width).
#[derive(Debug, Clone, Copy)]
pub struct AttentionSpec {
    /// Number of heads.
    pub heads: usize,
    /// Each position sees itself and those before it.
    pub causal: bool,
}

/// The operations of one device.
pub trait Ops: Send + Sync {
    /// What runs, for logs: `portable`, `avx512` …
    fn name(&self) -> &'static str;
    /// Where activations live.
    fn device(&self) -> &Device;
    /// A convolution; `weight` is `[outputs, inputs, kernel, kernel]`.
    fn conv2d(&self, spec: ConvSpec, weight: Vec<f32>, bias: Option<Vec<f32>>) -> Result<Box<dyn Conv2d>>;
    /// A linear layer; `weight` is `[outputs, inputs]`.
    fn linear(&self, spec: LinearSpec, weight: Vec<f32>, bias: Option<Vec<f32>>) -> Result<Box<dyn Linear>>;
    /// A group norm.
    fn group_norm(&self, groups: usize, eps: f64, act: Act, gain: Vec<f32>, bias: Vec<f32>) -> Result<Box<dyn Norm>>;
    /// A layer norm over the channels.
    fn layer_norm(&self, eps: f64, gain: Vec<f32>, bias: Vec<f32>) -> Result<Box<dyn Norm>>;
    /// softmax(Q Kᵀ / √d) V, head by head; answers `[n, positions, heads · d]`.
    fn attention(&self, q: View<'_>, kv: &KeysValues<'_>, spec: AttentionSpec) -> Result<Activation>;
    /// Puts the channels of two activations side by side.
    fn concat(&self, a: &Activation, b: &Activation) -> Result<Activation>;
    /// Adds two activations of one shape.
    fn add(&self, a: &Activation, b: &Activation) -> Result<Activation>;
    /// Applies a function to each value.
    fn map(&self, x: &Activation, act: Act) -> Result<Activation>;
    /// a · x + b for each value.
    fn affine(&self, x: &Activation, a: f32, b: f32) -> Result<Activation>;
}
