//! The reference: every operation on candle's own tensors. Runs on each of candle's devices.

use super::{
    Act, Activation, AttentionSpec, Conv2d, ConvCall, ConvSpec, KeysValues, Linear, LinearSpec, Norm, Ops, View,
};
use crate::Result;
use candle_core::{D, Device, Tensor};

/// Operations on candle's tensors.
pub struct Portable {
    device: Device,
}

impl Portable {
    /// On a device.
    pub fn new(device: Device) -> Self {
        Portable { device }
    }

    fn tensor(&self, values: Vec<f32>, shape: &[usize]) -> Result<Tensor> {
        Ok(Tensor::from_vec(values, shape, &self.device)?)
    }
}

fn apply(x: Tensor, act: Act) -> Result<Tensor> {
    Ok(match act {
        Act::Identity => x,
        Act::Silu => candle_nn::ops::silu(&x)?,
        Act::Gelu => x.gelu_erf()?,
        Act::QuickGelu => (&x * candle_nn::ops::sigmoid(&(&x * 1.702)?)?)?,
        // candle's own relu makes 0 of what is no number.
        Act::Relu => x.maximum(&x.zeros_like()?)?,
        Act::LeakyRelu => candle_nn::ops::leaky_relu(&x, 0.2)?,
        Act::Tanh => x.tanh()?,
    })
}

struct PortableConv {
    spec: ConvSpec,
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Conv2d for PortableConv {
    fn forward(&self, x: &Activation, call: ConvCall<'_>) -> Result<Activation> {
        let [n, h, w, c] = x.shape();
        let mut t = x.tensor().reshape((n, h, w, c))?.permute((0, 3, 1, 2))?.contiguous()?;
        let (mut h, mut w) = (h, w);
        if let Some((th, tw)) = call.resize {
            t = t.upsample_nearest2d(th, tw)?;
            (h, w) = (th, tw);
        }
        let spec = &self.spec;
        if spec.pad_before + spec.pad_after > 0 {
            t = t.pad_with_zeros(2, spec.pad_before, spec.pad_after)?;
            t = t.pad_with_zeros(3, spec.pad_before, spec.pad_after)?;
        }
        let (oh, ow) = (spec.output_size(h), spec.output_size(w));
        let y = t.conv2d(&self.weight, 0, spec.stride, 1, 1)?;
        let mut y = y.permute((0, 2, 3, 1))?.reshape((n, oh * ow, spec.outputs))?;
        if let Some(bias) = &self.bias {
            y = y.broadcast_add(bias)?;
        }
        if let Some(bias) = call.item_bias {
            y = y.broadcast_add(bias.tensor())?;
        }
        if let Some(residual) = call.residual {
            y = (y + residual.tensor())?;
        }
        Activation::from_tensor(apply(y, spec.act)?, oh, ow)
    }
}

struct PortableLinear {
    spec: LinearSpec,
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear for PortableLinear {
    fn forward(&self, x: &Activation, residual: Option<&Activation>) -> Result<Activation> {
        let [n, h, w, c] = x.shape();
        let y = x.tensor().reshape((n * h * w, c))?.matmul(&self.weight.t()?)?;
        let mut y = y.reshape((n, h * w, self.spec.outputs))?;
        if let Some(bias) = &self.bias {
            y = y.broadcast_add(bias)?;
        }
        let mut y = if self.spec.gated {
            let half = self.spec.outputs / 2;
            let gate = apply(y.narrow(2, half, half)?.contiguous()?, self.spec.act)?;
            (y.narrow(2, 0, half)? * gate)?
        } else {
            apply(y, self.spec.act)?
        };
        if let Some(residual) = residual {
            y = (y + residual.tensor())?;
        }
        Activation::from_tensor(y, h, w)
    }
}

struct PortableNorm {
    /// 0 = a layer norm.
    groups: usize,
    eps: f64,
    act: Act,
    gain: Tensor,
    bias: Tensor,
}

impl PortableNorm {
    fn normed(&self, x: &Activation) -> Result<Tensor> {
        let [n, h, w, c] = x.shape();
        let (t, dims): (_, &[usize]) = match self.groups {
            0 => (x.tensor().clone(), &[2]),
            groups => (x.tensor().reshape((n, h * w, groups, c / groups))?, &[1, 3]),
        };
        let mean = t.mean_keepdim(dims)?;
        let t = t.broadcast_sub(&mean)?;
        let variance = t.sqr()?.mean_keepdim(dims)?;
        let t = t.broadcast_div(&(variance + self.eps)?.sqrt()?)?;
        Ok(t.reshape((n, h * w, c))?.broadcast_mul(&self.gain)?.broadcast_add(&self.bias)?)
    }
}

impl Norm for PortableNorm {
    fn forward(&self, x: &Activation) -> Result<Activation> {
        Activation::from_tensor(apply(self.normed(x)?, self.act)?, x.height(), x.width())
    }

    fn forward_modulated(&self, x: &Activation, scale_shift: &Activation) -> Result<Activation> {
        let c = x.channels();
        let (scale, shift) = (scale_shift.tensor().narrow(2, 0, c)?, scale_shift.tensor().narrow(2, c, c)?);
        let t = self.normed(x)?.broadcast_mul(&(scale + 1.0)?)?.broadcast_add(&shift)?;
        Activation::from_tensor(apply(t, self.act)?, x.height(), x.width())
    }
}

/// One item of a view as `[heads, positions, width / heads]`.
fn heads(view: View<'_>, item: usize, heads: usize) -> Result<Tensor> {
    let t = view.of.tensor().narrow(0, item, 1)?.narrow(2, view.start, view.width)?.squeeze(0)?;
    let positions = t.dim(0)?;
    Ok(t.reshape((positions, heads, view.width / heads))?.transpose(0, 1)?.contiguous()?)
}

impl Ops for Portable {
    fn name(&self) -> &'static str {
        "portable"
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn conv2d(&self, spec: ConvSpec, weight: Vec<f32>, bias: Option<Vec<f32>>) -> Result<Box<dyn Conv2d>> {
        let weight = self.tensor(weight, &[spec.outputs, spec.inputs, spec.kernel, spec.kernel])?;
        let bias = bias.map(|b| self.tensor(b, &[spec.outputs])).transpose()?;
        Ok(Box::new(PortableConv { spec, weight, bias }))
    }

    fn linear(&self, spec: LinearSpec, weight: Vec<f32>, bias: Option<Vec<f32>>) -> Result<Box<dyn Linear>> {
        let weight = self.tensor(weight, &[spec.outputs, spec.inputs])?;
        let bias = bias.map(|b| self.tensor(b, &[spec.outputs])).transpose()?;
        Ok(Box::new(PortableLinear { spec, weight, bias }))
    }

    fn group_norm(&self, groups: usize, eps: f64, act: Act, gain: Vec<f32>, bias: Vec<f32>) -> Result<Box<dyn Norm>> {
        let (gain, bias) = (self.tensor(gain.clone(), &[gain.len()])?, self.tensor(bias.clone(), &[bias.len()])?);
        Ok(Box::new(PortableNorm { groups, eps, act, gain, bias }))
    }

    fn layer_norm(&self, eps: f64, gain: Vec<f32>, bias: Vec<f32>) -> Result<Box<dyn Norm>> {
        self.group_norm(0, eps, Act::Identity, gain, bias)
    }

    fn attention(&self, q: View<'_>, kv: &KeysValues<'_>, spec: AttentionSpec) -> Result<Activation> {
        let [n, h, w, _] = q.of.shape();
        let width = q.width / spec.heads;
        let scale = 1.0 / (width as f64).sqrt();
        let mut items = Vec::with_capacity(n);
        for item in 0..n {
            let (k, v, index) = kv.item(item);
            let (q, k, v) = (heads(q, item, spec.heads)?, heads(k, index, spec.heads)?, heads(v, index, spec.heads)?);
            let mut scores = (q.matmul(&k.t()?)? * scale)?;
            if spec.causal {
                let (rows, columns) = (scores.dim(1)?, scores.dim(2)?);
                let mask: Vec<f32> = (0..rows * columns)
                    .map(|i| if i % columns > i / columns { f32::NEG_INFINITY } else { 0.0 })
                    .collect();
                scores = scores.broadcast_add(&self.tensor(mask, &[rows, columns])?)?;
            }
            let out = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v)?;
            items.push(out.transpose(0, 1)?.reshape((1, h * w, spec.heads * width))?);
        }
        Activation::from_tensor(Tensor::cat(&items, 0)?, h, w)
    }

    fn concat(&self, a: &Activation, b: &Activation) -> Result<Activation> {
        Activation::from_tensor(Tensor::cat(&[a.tensor(), b.tensor()], 2)?, a.height(), a.width())
    }

    fn add(&self, a: &Activation, b: &Activation) -> Result<Activation> {
        Activation::from_tensor((a.tensor() + b.tensor())?, a.height(), a.width())
    }

    fn map(&self, x: &Activation, act: Act) -> Result<Activation> {
        Activation::from_tensor(apply(x.tensor().clone(), act)?, x.height(), x.width())
    }

    fn affine(&self, x: &Activation, a: f32, b: f32) -> Result<Activation> {
        Activation::from_tensor(x.tensor().affine(f64::from(a), f64::from(b))?, x.height(), x.width())
    }
}
