//! Activations: a tensor that knows its layout.

use crate::{Error, Result};
use candle_core::{Device, Tensor};

/// A batch of pictures or of token sequences, channels last: `[batch, height · width, channels]`, contiguous `f32`.
///
/// A sequence is a picture of height 1. Since the channels of a pixel lie side by side, a picture *is* the sequence of
/// its pixels, and transformers need no permutation.
#[derive(Debug, Clone)]
pub struct Activation {
    data: Tensor,
    batch: usize,
    height: usize,
    width: usize,
    channels: usize,
}

impl Activation {
    /// From values in this layout.
    pub fn from_vec(data: Vec<f32>, shape: [usize; 4], device: &Device) -> Result<Self> {
        let [batch, height, width, channels] = shape;
        if batch * height * width * channels != data.len() {
            return Err(Error::Operation(format!("{} values for the shape {shape:?}", data.len())));
        }
        let data = Tensor::from_vec(data, (batch, height * width, channels), device)?;
        Ok(Activation { data, batch, height, width, channels })
    }

    /// From a tensor `[batch, height · width, channels]`.
    pub(crate) fn from_tensor(data: Tensor, height: usize, width: usize) -> Result<Self> {
        let data = data.contiguous()?;
        let (batch, positions, channels) = data.dims3()?;
        if positions != height * width {
            return Err(Error::Operation(format!("{positions} positions for {height} × {width}")));
        }
        Ok(Activation { data, batch, height, width, channels })
    }

    /// From values in the order batch, channel, row, column.
    pub fn from_nchw(values: &[f32], shape: [usize; 4], device: &Device) -> Result<Self> {
        let [n, c, h, w] = shape;
        if n * c * h * w != values.len() {
            return Err(Error::Operation(format!("{} values for the shape {shape:?}", values.len())));
        }
        let mut data = vec![0f32; values.len()];
        for (picture, out) in values.chunks_exact((c * h * w).max(1)).zip(data.chunks_exact_mut((c * h * w).max(1))) {
            for (channel, plane) in picture.chunks_exact((h * w).max(1)).enumerate() {
                for (pixel, value) in plane.iter().enumerate() {
                    out[pixel * c + channel] = *value;
                }
            }
        }
        Self::from_vec(data, [n, h, w, c], device)
    }

    /// The values in the order batch, channel, row, column.
    pub fn to_nchw(&self) -> Result<Vec<f32>> {
        let (size, pixels, c) = (self.height * self.width * self.channels, self.height * self.width, self.channels);
        let values = self.to_vec()?;
        let mut out = vec![0f32; values.len()];
        for (picture, out) in values.chunks_exact(size.max(1)).zip(out.chunks_exact_mut(size.max(1))) {
            for (channel, plane) in out.chunks_exact_mut(pixels.max(1)).enumerate() {
                for (pixel, value) in plane.iter_mut().enumerate() {
                    *value = picture[pixel * c + channel];
                }
            }
        }
        Ok(out)
    }

    /// The values in this layout.
    pub fn to_vec(&self) -> Result<Vec<f32>> {
        Ok(self.data.flatten_all()?.to_vec1::<f32>()?)
    }

    /// The tensor `[batch, height · width, channels]`.
    pub fn tensor(&self) -> &Tensor {
        &self.data
    }

    /// `[batch, height, width, channels]`.
    pub fn shape(&self) -> [usize; 4] {
        [self.batch, self.height, self.width, self.channels]
    }

    /// Items in the batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Channels.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Positions of one item.
    pub fn positions(&self) -> usize {
        self.height * self.width
    }

    /// Bytes it holds.
    pub fn bytes(&self) -> u64 {
        (self.batch * self.height * self.width * self.channels * size_of::<f32>()) as u64
    }

    /// All channels.
    pub fn all(&self) -> super::View<'_> {
        super::View { of: self, start: 0, width: self.channels }
    }

    /// Some neighbouring channels.
    pub fn view(&self, start: usize, width: usize) -> super::View<'_> {
        super::View { of: self, start, width }
    }
}
