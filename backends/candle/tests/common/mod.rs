//! What the tests share: fixtures, goldens, a hand that counts.
#![allow(dead_code, unreachable_pub, reason = "each test file uses some of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests stop at the first surprise")]
use backend_api::{
    Control, Control_TO, Ctl, DiffusionDesc, EncoderInput, ModelSource, Param, Stage, TextRequest,
    abi_stable::{sabi_trait::prelude::TD_Opaque, std_types::RArc},
    author,
};
use safetensors::SafeTensors;
use sd_candle::{CandleBackend, ops};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub(crate) fn model_folder(family: &str) -> PathBuf {
    match family {
        "emoji-sd" => root().join("models/emoji-sd"),
        _ => root().join("tests/fixtures/models").join(family),
    }
}

/// Golden tensors by name.
pub(crate) struct Golden(Vec<u8>);

impl Golden {
    pub(crate) fn read(family: &str) -> Self {
        let path = root().join("tests/fixtures/goldens").join(format!("{family}.safetensors"));
        Golden(std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        SafeTensors::deserialize(&self.0).unwrap().tensor(name).is_ok()
    }

    pub(crate) fn get(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        let data = tensor.data();
        let values = match tensor.dtype() {
            safetensors::Dtype::F32 => {
                data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
            }
            safetensors::Dtype::I64 => {
                data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f32).collect()
            }
            other => panic!("{name} is {other:?}"),
        };
        (tensor.shape().to_vec(), values)
    }
}

/// A hand that remembers progress and cancels after a number of polls.
#[derive(Clone, Default)]
pub(crate) struct Hand(Arc<HandState>);

#[derive(Default)]
pub(crate) struct HandState {
    pub(crate) polls: AtomicU64,
    pub(crate) cancel_after: AtomicU64,
    pub(crate) done: AtomicU64,
    pub(crate) total: AtomicU64,
}

impl Control for Hand {
    fn cancelled(&self) -> bool {
        let polls = self.0.polls.fetch_add(1, Ordering::Relaxed) + 1;
        let limit = self.0.cancel_after.load(Ordering::Relaxed);
        limit > 0 && polls >= limit
    }
    fn progress(&self, _stage: Stage, done: u64, total: u64) {
        self.0.done.fetch_max(done, Ordering::Relaxed);
        self.0.total.store(total, Ordering::Relaxed);
    }
}

impl Hand {
    pub(crate) fn ctl(&self) -> Ctl {
        Control_TO::from_ptr(RArc::new(self.clone()), TD_Opaque)
    }
    pub(crate) fn state(&self) -> &HandState {
        &self.0
    }
    pub(crate) fn cancelling(after: u64) -> Self {
        let hand = Hand::default();
        hand.0.cancel_after.store(after, Ordering::Relaxed);
        hand
    }
}

/// A diffusers folder as the host would describe it.
pub(crate) fn source(folder: &Path) -> ModelSource {
    let (mut files, mut configs) = (Vec::new(), Vec::new());
    for role in ["text_encoder", "text_encoder_2", "unet", "vae", "taesd"] {
        let part = folder.join(role);
        if let Ok(text) = std::fs::read_to_string(part.join("config.json")) {
            configs.push(Param::new(role, text));
        }
        for name in ["model.safetensors", "diffusion_pytorch_model.safetensors"] {
            if part.join(name).exists() {
                files.push(Param::new(role, part.join(name).display()));
            }
        }
    }
    ModelSource { name: "test".into(), files: files.into(), configs: configs.into(), options: Vec::new().into() }
}

pub(crate) fn backend(kernels: &str) -> CandleBackend {
    CandleBackend::new(Arc::from(ops::cpu::choose(kernels).unwrap()), 2).unwrap()
}

pub(crate) fn open(source: &ModelSource, kernels: &str) -> (DiffusionDesc, Box<dyn author::Diffusion>) {
    let backend = backend(kernels);
    let model = author::Backend::load(&backend, source, &Hand::default().ctl()).unwrap_or_else(|e| panic!("{e:?}"));
    model.diffusion(&[]).unwrap()
}

/// Largest difference relative to the largest expected value.
pub(crate) fn relative(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    assert!(found.iter().all(|v| v.is_finite()));
    let size = expected.iter().fold(1e-12f32, |m, v| m.max(v.abs()));
    let difference = found.iter().zip(expected).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    f64::from(difference) / f64::from(size)
}

/// Encodes one text with unit weights; `tokens` has an entry an encoder.
pub(crate) fn encode(session: &mut dyn author::Diffusion, tokens: &[Vec<u32>], params: &[Param]) -> u64 {
    let weights: Vec<f32> = vec![1.0; tokens[0].len()];
    let inputs: Vec<EncoderInput<'_>> = (tokens.iter().enumerate())
        .map(|(i, ids)| EncoderInput {
            encoder: i as u32,
            chunk_length: 77,
            tokens: ids.as_slice().into(),
            weights: weights.as_slice().into(),
            empty: ids[..77].into(),
            params: (&[][..]).into(),
        })
        .collect();
    let request = TextRequest { inputs: inputs.as_slice().into(), params: params.into() };
    session.encode_text(&request, &Hand::default().ctl()).unwrap().cond
}
