//! Owned tensors that travel between lanes and device threads.

use super::device::Cond;
use backend_api::{AbiError, TensorRef};
use std::sync::Arc;

/// A batch of latents, NCHW.
#[derive(Debug, Clone, PartialEq)]
pub struct Latents {
    /// Items, channels, height, width.
    pub shape: [usize; 4],
    /// The values, contiguous.
    pub data: Vec<f32>,
}

impl Latents {
    /// All zeros.
    pub fn zeros(shape: [usize; 4]) -> Self {
        Latents { shape, data: vec![0.0; shape.iter().product()] }
    }

    /// Values of one item.
    pub fn per_item(&self) -> usize {
        self.shape[1..].iter().product()
    }

    /// The shape as it crosses the boundary.
    pub fn shape_u64(&self) -> [u64; 4] {
        self.shape.map(|e| e as u64)
    }

    /// Whether the items of both have the same size.
    pub fn same_size(&self, other: &Latents) -> bool {
        self.shape[1..] == other.shape[1..]
    }

    /// One batch after the other. All have items of the same size.
    pub fn concat<'a>(parts: impl Iterator<Item = &'a Latents>) -> Latents {
        let mut shape = [0; 4];
        let mut data = Vec::new();
        for part in parts {
            shape = [shape[0] + part.shape[0], part.shape[1], part.shape[2], part.shape[3]];
            data.extend_from_slice(&part.data);
        }
        Latents { shape, data }
    }

    /// `n` items from `at` on.
    pub fn slice(&self, at: usize, n: usize) -> Latents {
        let size = self.per_item();
        let [_, c, h, w] = self.shape;
        Latents { shape: [n, c, h, w], data: self.data[at * size..(at + n) * size].to_vec() }
    }
}

/// An extra input of one item.
#[derive(Debug, Clone)]
pub struct Extra {
    /// One of [`backend_api::extra`].
    pub name: &'static str,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Its values, shared between steps.
    pub data: Arc<Vec<f32>>,
}

impl Extra {
    /// The view that crosses the boundary.
    pub fn view(&self) -> Result<TensorRef<'_>, AbiError> {
        TensorRef::f32(self.name, &self.shape, &self.data)
    }
}

/// One item of a prediction.
#[derive(Debug, Clone)]
pub struct Item {
    /// The encoded text; held so that the device keeps it.
    pub cond: Cond,
    /// The timestep in the model's units.
    pub timestep: f32,
    /// The noise level.
    pub sigma: f32,
    /// Further inputs.
    pub extras: Arc<Vec<Extra>>,
}
