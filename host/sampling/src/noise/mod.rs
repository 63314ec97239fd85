//! Noise, made on the host so that one seed gives one picture on every backend.
//!
//! Every image of a batch has a generator of its own, seeded with `seed + i`, so that a picture does not depend on
//! what it was batched with. The first draw is the initial noise, later draws feed the stochastic samplers.

mod avx_math;
mod batch;
mod brownian;
mod mt19937;
mod philox;
mod seed_sequence;
mod torch_cpu;
mod variation;

pub use batch::{BatchNoise, ImageSeed, NoiseShape};
pub use philox::Philox;
pub use torch_cpu::TorchCpu;
pub use variation::slerp;

/// Which generator makes the noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rng {
    /// PyTorch's CPU generator: the noise of diffusers and ComfyUI.
    #[default]
    Cpu,
    /// CUDA's generator: the noise of A1111 on a card and of stable-diffusion.cpp.
    Philox,
}

impl Rng {
    /// The name used in requests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Philox => "philox",
        }
    }

    /// Understands `cpu`, `philox` and the names other programs use (`gpu`, `cuda`, `nv`); case does not matter.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name.trim().to_ascii_lowercase().as_str() {
            "cpu" | "std_default" => Some(Self::Cpu),
            "philox" | "cuda" | "gpu" | "nv" => Some(Self::Philox),
            _ => None,
        }
    }

    /// A fresh generator of this kind.
    #[must_use]
    pub fn seeded(self, seed: u64) -> Generator {
        match self {
            Self::Cpu => Generator::Cpu(Box::new(TorchCpu::new(seed))),
            Self::Philox => Generator::Philox(Philox::new(seed)),
        }
    }
}

/// A generator of either kind.
#[derive(Clone)]
pub enum Generator {
    /// PyTorch's CPU generator (its state is some 2.5 KB, hence the box).
    Cpu(Box<TorchCpu>),
    /// CUDA's generator.
    Philox(Philox),
}

impl Generator {
    /// The next `len` values of a standard normal distribution.
    pub fn randn(&mut self, len: usize) -> Vec<f32> {
        match self {
            Self::Cpu(generator) => generator.randn(len),
            Self::Philox(generator) => generator.randn(len),
        }
    }
}
