//! Residual blocks and the changes of size between levels.

use super::Builder;
use crate::{
    Result,
    ops::{Act, Activation, Conv2d, ConvCall, ConvSpec, Linear, LinearSpec, Norm, Ops},
};

/// What all residual blocks of a network share.
#[derive(Debug, Clone, Copy)]
pub struct ResnetSpec {
    /// Groups of the norms.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f64,
    /// Width of the time embedding; `None` where the network has no time.
    pub time: Option<usize>,
    /// The time embedding scales and shifts instead of being added.
    pub scale_shift: bool,
    /// The result is divided by it.
    pub scale: f32,
}

/// norm → SiLU → conv → (+ time) → norm → SiLU → conv, plus the input: diffusers' `ResnetBlock2D`.
pub struct Resnet {
    norm1: Box<dyn Norm>,
    conv1: Box<dyn Conv2d>,
    time: Option<Box<dyn Linear>>,
    norm2: Box<dyn Norm>,
    conv2: Box<dyn Conv2d>,
    shortcut: Option<Box<dyn Conv2d>>,
    spec: ResnetSpec,
}

impl Resnet {
    /// From `inputs` to `outputs` channels.
    pub fn new(b: &Builder<'_>, inputs: usize, outputs: usize, spec: ResnetSpec) -> Result<Self> {
        let time = spec.time.map(|width| {
            let times = if spec.scale_shift { 2 * outputs } else { outputs };
            b.linear("time_emb_proj", LinearSpec::plain(width, times))
        });
        let shortcut = (inputs != outputs || b.vars.has("conv_shortcut.weight"))
            .then(|| b.conv("conv_shortcut", ConvSpec::same(inputs, outputs, 1)));
        Ok(Resnet {
            norm1: b.group_norm("norm1", inputs, spec.groups, spec.eps, Act::Silu)?,
            conv1: b.conv("conv1", ConvSpec::same(inputs, outputs, 3))?,
            time: time.transpose()?,
            norm2: b.group_norm("norm2", outputs, spec.groups, spec.eps, Act::Silu)?,
            conv2: b.conv("conv2", ConvSpec::same(outputs, outputs, 3))?,
            shortcut: shortcut.transpose()?,
            spec,
        })
    }

    /// `time`: `[1, 1, n, width]`, already through its activation.
    pub fn forward(&self, ops: &dyn Ops, x: &Activation, time: Option<&Activation>) -> Result<Activation> {
        let time = match (&self.time, time) {
            (Some(layer), Some(time)) => Some(per_item(layer.forward(time, None)?)?),
            _ => None,
        };
        let h = self.norm1.forward(x)?;
        let h = match &time {
            Some(time) if self.spec.scale_shift => {
                let h = self.conv1.forward(&h, ConvCall::default())?;
                self.norm2.forward_modulated(&h, time)?
            }
            _ => {
                let call = ConvCall { item_bias: time.as_ref(), ..ConvCall::default() };
                self.norm2.forward(&self.conv1.forward(&h, call)?)?
            }
        };
        let shortcut = match &self.shortcut {
            Some(layer) => Some(layer.forward(x, ConvCall::default())?),
            None => None,
        };
        let call = ConvCall { residual: Some(shortcut.as_ref().unwrap_or(x)), ..ConvCall::default() };
        let out = self.conv2.forward(&h, call)?;
        if self.spec.scale == 1.0 { Ok(out) } else { ops.affine(&out, 1.0 / self.spec.scale, 0.0) }
    }
}

/// `[1, 1, n, c]` as `[n, 1, 1, c]`: the same numbers.
fn per_item(x: Activation) -> Result<Activation> {
    let [_, _, n, c] = x.shape();
    Activation::from_tensor(x.tensor().reshape((n, 1, c))?, 1, 1)
}

/// Halves height and width by a convolution.
pub struct Downsample(Box<dyn Conv2d>);

impl Downsample {
    /// `padding` 0 pads after the last row and column only, as autoencoders do.
    pub fn new(b: &Builder<'_>, channels: usize, padding: usize) -> Result<Self> {
        let spec = ConvSpec {
            stride: 2,
            pad_before: padding,
            pad_after: padding.max(1),
            ..ConvSpec::same(channels, channels, 3)
        };
        Ok(Downsample(b.conv("conv", spec)?))
    }

    /// To half the size.
    pub fn forward(&self, x: &Activation) -> Result<Activation> {
        self.0.forward(x, ConvCall::default())
    }
}

/// Enlarges by nearest pixels, then convolves.
pub struct Upsample(Box<dyn Conv2d>);

impl Upsample {
    /// Keeps the channels.
    pub fn new(b: &Builder<'_>, channels: usize) -> Result<Self> {
        Ok(Upsample(b.conv("conv", ConvSpec::same(channels, channels, 3))?))
    }

    /// To (height, width).
    pub fn forward(&self, x: &Activation, size: (usize, usize)) -> Result<Activation> {
        self.0.forward(x, ConvCall { resize: Some(size), ..ConvCall::default() })
    }
}
