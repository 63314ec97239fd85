//! What the tests of this crate share: reading golden files.

use std::path::PathBuf;

use sd_sampling::Prediction;

/// A file of tensors from `tests/fixtures/goldens`.
pub(crate) struct Goldens {
    name: String,
    bytes: Vec<u8>,
}

impl Goldens {
    /// Reads `tests/fixtures/goldens/{name}.safetensors`.
    pub(crate) fn open(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/fixtures/goldens")
            .join(format!("{name}.safetensors"));
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { name: name.to_owned(), bytes }
    }

    /// A float32 tensor's values.
    pub(crate) fn f32(&self, tensor: &str) -> Vec<f32> {
        let file = safetensors::SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(tensor).unwrap_or_else(|error| panic!("{} has no {tensor}: {error}", self.name));
        assert_eq!(view.dtype(), safetensors::Dtype::F32, "{tensor}");
        view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }
}

/// The two denoisers that the sampler goldens were made with: the exact mean of x₀ given y = x₀ + σ·ε.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denoiser {
    /// x₀ ~ N(0.3, 0.5²).
    Gauss,
    /// x₀ ~ N(±1, 0.4²), even chances.
    Mixture,
}

impl Denoiser {
    /// E[x₀ | y] at noise level σ; the mean of the data where nothing is known.
    pub(crate) fn clean(self, y: f64, sigma: f64) -> f64 {
        match self {
            Self::Gauss if sigma.is_infinite() => 0.3,
            Self::Gauss => 0.3 + (y - 0.3) * 0.25 / (0.25 + sigma * sigma),
            Self::Mixture if sigma.is_infinite() => 0.0,
            Self::Mixture => {
                let v = 0.16 + sigma * sigma;
                (y * 0.16 + sigma * sigma * (y / v).tanh()) / v
            }
        }
    }

    /// The network's output for `eval`, as a model of this prediction type gives it.
    pub(crate) fn network(self, eval: sd_sampling::Eval<'_>, prediction: Prediction) -> Vec<f32> {
        let sigma = f64::from(eval.sigma);
        let root = (sigma * sigma + 1.0).sqrt();
        let (a, s) = if sigma.is_infinite() { (0.0, 1.0) } else { (1.0 / root, sigma / root) };
        let output = |x: &f32| {
            let x = f64::from(*x);
            let x0 = self.clean(x * root, sigma);
            let epsilon = (x - a * x0) / s;
            match prediction {
                Prediction::Epsilon => epsilon as f32,
                Prediction::V => (a * epsilon - s * x0) as f32,
                Prediction::Sample => x0 as f32,
            }
        };
        eval.x.iter().map(output).collect()
    }
}
