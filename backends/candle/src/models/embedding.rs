//! Numbers as vectors: the sinusoidal embedding and the small network behind it.

use super::Builder;
use crate::{
    Result,
    ops::{Act, Activation, Linear, LinearSpec},
};

/// Sinusoidal embeddings of `values`, `width` each (Vaswani et al. 2017, in DDPM's order).
///
/// `cosine_first`: diffusers' `flip_sin_to_cos`; `shift`: its `freq_shift`. Computed in `f32`, as there.
pub fn sinusoids(values: &[f32], width: usize, cosine_first: bool, shift: f32) -> Vec<f32> {
    let half = width / 2;
    let step = -(10_000f64.ln() as f32);
    let frequencies: Vec<f32> = (0..half).map(|i| ((step * i as f32) / (half as f32 - shift)).exp()).collect();
    let mut out = Vec::with_capacity(values.len() * width);
    for value in values {
        let angles = frequencies.iter().map(|f| value * f);
        if cosine_first {
            out.extend(angles.clone().map(f32::cos).chain(angles.map(f32::sin)));
        } else {
            out.extend(angles.clone().map(f32::sin).chain(angles.map(f32::cos)));
        }
        out.resize(out.len() + width % 2, 0.0);
    }
    out
}

/// The embedding of the guidance scale that distilled models take (LCM, Luo et al. 2023): of `(scale − 1) · 1000`.
pub fn guidance(scale: f32, width: usize) -> Vec<f32> {
    sinusoids(&[(scale - 1.0) * 1000.0], width, false, 1.0)
}

/// linear → SiLU → linear: diffusers' `TimestepEmbedding`.
pub struct EmbeddingMlp {
    first: Box<dyn Linear>,
    second: Box<dyn Linear>,
    condition: Option<Box<dyn Linear>>,
}

impl EmbeddingMlp {
    /// From `linear_1`, `linear_2` and, with a condition's width, `cond_proj`.
    pub fn new(b: &Builder<'_>, inputs: usize, width: usize, condition: Option<usize>) -> Result<Self> {
        let spec = LinearSpec { act: Act::Silu, ..LinearSpec::plain(inputs, width) };
        Ok(EmbeddingMlp {
            first: b.linear("linear_1", spec)?,
            second: b.linear("linear_2", LinearSpec::plain(width, width))?,
            condition: condition.map(|c| b.linear("cond_proj", LinearSpec::plain(c, inputs))).transpose()?,
        })
    }

    /// `x`: `[1, 1, n, inputs]`, the condition `[1, 1, n, its width]`.
    pub fn forward(&self, x: &Activation, condition: Option<&Activation>) -> Result<Activation> {
        let x = match (&self.condition, condition) {
            (Some(layer), Some(condition)) => layer.forward(condition, Some(x))?,
            _ => x.clone(),
        };
        self.second.forward(&self.first.forward(&x, None)?, None)
    }
}
