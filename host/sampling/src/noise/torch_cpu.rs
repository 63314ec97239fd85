//! `torch.randn` of float32 tensors on the CPU, bit for bit.
//!
//! Source: `aten/src/ATen/native/cpu/DistributionTemplates.h` and `ATen/core/DistributionsHelper.h` of PyTorch 2.
//! What an x86 machine with AVX2 gives is the reference. (Elsewhere PyTorch uses the C library's `logf` and `sincosf`,
//! which differ in the last bit now and then.)

use super::avx_math::{log, sincos};
use super::mt19937::Mt19937;

/// PyTorch's CPU generator: `torch.Generator("cpu").manual_seed(seed)`.
#[derive(Clone)]
pub struct TorchCpu {
    twister: Mt19937,
    /// The second half of a pair of doubles: small tensors leave it for the next call.
    cached: Option<f64>,
}

impl TorchCpu {
    /// A generator as `manual_seed(seed)` leaves it. As in PyTorch only the low 32 bits of the seed count.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { twister: Mt19937::new(seed), cached: None }
    }

    /// The next `len` values of a standard normal distribution: `torch.randn(len, generator=g)`.
    pub fn randn(&mut self, len: usize) -> Vec<f32> {
        if len < BLOCK {
            return (0..len).map(|_| self.normal_f64() as f32).collect();
        }
        let mut values: Vec<f32> = (0..len).map(|_| self.uniform_f32()).collect();
        for block in values.chunks_exact_mut(BLOCK) {
            box_muller(block);
        }
        // A ragged end is drawn anew as one whole block that overlaps the last full one.
        if !len.is_multiple_of(BLOCK) {
            let tail = &mut values[len - BLOCK..];
            for value in tail.iter_mut() {
                *value = uniform(self.twister.next_u32());
            }
            box_muller(tail);
        }
        values
    }

    fn uniform_f32(&mut self) -> f32 {
        uniform(self.twister.next_u32())
    }

    /// `at::normal_distribution<double>`: Box-Muller on two doubles of 53 bits, the sine kept for later.
    fn normal_f64(&mut self) -> f64 {
        if let Some(value) = self.cached.take() {
            return value;
        }
        let u1 = self.uniform_f64();
        let u2 = self.uniform_f64();
        let radius = (-2.0 * (-u2).ln_1p()).sqrt();
        let theta = 2.0 * std::f64::consts::PI * u1;
        self.cached = Some(radius * theta.sin());
        radius * theta.cos()
    }

    fn uniform_f64(&mut self) -> f64 {
        const MASK: u64 = (1 << 53) - 1;
        (self.twister.next_u64() & MASK) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

/// Elements the vectorised path turns into normals at a time: eight radii, then eight angles.
const BLOCK: usize = 16;

/// 24 bits of a word as a float in [0, 1).
fn uniform(word: u32) -> f32 {
    (word & 0x00ff_ffff) as f32 * (1.0 / 16_777_216.0)
}

fn box_muller(block: &mut [f32]) {
    for i in 0..BLOCK / 2 {
        let u1 = 1.0 - block[i];
        let u2 = block[i + BLOCK / 2];
        let radius = (-2.0 * log(u1)).sqrt();
        let (sin, cos) = sincos(std::f32::consts::TAU * u2);
        // PyTorch multiplies by the deviation and adds the mean: −0 becomes 0.
        block[i] = radius * cos + 0.0;
        block[i + BLOCK / 2] = radius * sin + 0.0;
    }
}
