//! A session under test: inputs of the right shapes, and the calls in plain Rust types.

use crate::{Cancel, control};
use backend_api::{
    AbiError, BackendBox, Control, Control_TO, Ctl, DType, DiffusionBox, DiffusionDesc, EncoderInput, ModelSource,
    PredictItem, Stage, TensorMut, TensorRef, TextRequest,
    abi_stable::{
        sabi_trait::prelude::TD_Opaque,
        std_types::{RArc, RSlice},
    },
    extra,
};
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

/// A session with its description.
pub(super) struct Subject {
    pub(super) desc: DiffusionDesc,
    pub(super) session: DiffusionBox,
    /// Side of the latents.
    pub(super) side: usize,
}

/// A control that asks for nothing.
pub(super) fn quiet() -> Ctl {
    control(&Cancel::new(), |_, _, _| ())
}

/// A cancel flag that is set while a call runs: from a certain look on. It counts the looks.
#[derive(Clone)]
pub(super) struct Look {
    after: u32,
    looks: Arc<AtomicU32>,
}

impl Look {
    /// A flag that is not set for the first `after` looks.
    pub(super) fn after(after: u32) -> (Ctl, Look) {
        let look = Look { after, looks: Arc::default() };
        (Control_TO::from_ptr(RArc::new(look.clone()), TD_Opaque), look)
    }

    /// How often the backend looked.
    pub(super) fn looks(&self) -> u32 {
        self.looks.load(Ordering::Acquire)
    }
}

impl Control for Look {
    fn cancelled(&self) -> bool {
        self.looks.fetch_add(1, Ordering::AcqRel) >= self.after
    }
    fn progress(&self, _: Stage, _: u64, _: u64) {}
}

/// Values that look like normal noise: a fixed sequence, the sum of four uniform numbers.
pub(super) fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / 16_777_216.0 - 0.5
    };
    (0..len).map(|_| (uniform() + uniform() + uniform() + uniform()) * 1.732).collect()
}

/// The extents of `[n, c, h, w]` as the interface takes them.
fn extents(shape: [usize; 4]) -> [u64; 4] {
    shape.map(|extent| extent as u64)
}

impl Subject {
    /// Loads the model and opens a session; the model's own handle is dropped before the session is used.
    pub(super) fn load(backend: &BackendBox, source: &ModelSource) -> Result<Self, AbiError> {
        let model = backend.load(source, &quiet()).into_result()?;
        Subject::open(&model)
    }

    /// Opens a session of a loaded model.
    pub(super) fn open(model: &backend_api::ModelBox) -> Result<Self, AbiError> {
        let open = model.diffusion(RSlice::EMPTY).into_result()?;
        let side = (open.desc.sample_size as usize).clamp(8, 16);
        Ok(Subject { desc: open.desc, session: open.session, side })
    }

    pub(super) fn channels(&self) -> usize {
        self.desc.latent_channels as usize
    }

    /// Values of one item's latents.
    pub(super) fn item(&self) -> usize {
        self.channels() * self.side * self.side
    }

    pub(super) fn latents(&self, seed: u64, n: usize) -> Vec<f32> {
        noise(seed, n * self.item())
    }

    /// The latents' shape for `n` items.
    pub(super) fn shape(&self, n: usize) -> [usize; 4] {
        [n, self.channels(), self.side, self.side]
    }

    /// Encodes a text of one chunk per encoder: the start token, `words`, then end tokens. `odd` breaks one thing.
    pub(super) fn encode(&mut self, words: &[u32], odd: Odd) -> Result<u64, AbiError> {
        let chunks: Vec<(Vec<u32>, Vec<f32>)> = self
            .desc
            .encoders
            .iter()
            .map(|encoder| {
                let (vocab, length) = (encoder.vocab_size, encoder.max_length as usize);
                let mut tokens: Vec<u32> = vec![vocab.saturating_sub(2)];
                tokens.extend(words.iter().map(|w| w % vocab));
                tokens.resize(length, vocab.saturating_sub(1));
                if odd == Odd::Token {
                    tokens[0] = vocab;
                }
                let weights = vec![1.0; if odd == Odd::Weights { length - 1 } else { length }];
                (tokens, weights)
            })
            .collect();
        let all = self.desc.encoders.len();
        let mut inputs: Vec<EncoderInput<'_>> = chunks
            .iter()
            .zip(self.desc.encoders.iter())
            .enumerate()
            .map(|(i, ((tokens, weights), encoder))| EncoderInput {
                encoder: if odd == Odd::Encoder { (all + i) as u32 } else { i as u32 },
                chunk_length: encoder.max_length,
                tokens: tokens.as_slice().into(),
                weights: weights.as_slice().into(),
                empty: tokens.as_slice().into(),
                params: RSlice::EMPTY,
            })
            .collect();
        if odd == Odd::Missing {
            inputs.pop();
        }
        let request = TextRequest { inputs: inputs.as_slice().into(), params: RSlice::EMPTY };
        Ok(self.session.encode_text(request, &quiet()).into_result()?.cond)
    }

    pub(super) fn free(&mut self, cond: u64) {
        self.session.free_cond(cond);
    }

    /// Predicts for items of (text, timestep).
    pub(super) fn predict(&mut self, x: &[f32], items: &[(u64, f32)], ctl: &Ctl) -> Result<Vec<f32>, AbiError> {
        self.predict_shaped(x, self.shape(items.len()), items, ctl)
    }

    /// The same for latents of any shape.
    pub(super) fn predict_shaped(
        &mut self,
        x: &[f32],
        shape: [usize; 4],
        items: &[(u64, f32)],
        ctl: &Ctl,
    ) -> Result<Vec<f32>, AbiError> {
        let ([_, c, h, w], factor) = (extents(shape), self.desc.vae_factor);
        let (plane, zeros) = (vec![1.0f32; (h * w) as usize], vec![0.0f32; (c * h * w) as usize]);
        let [height, width] = [h, w].map(|cells| (cells * u64::from(factor)) as f32);
        let sizes = [height, width, 0.0, 0.0, height, width];
        let wanted = |name: &str| self.desc.inputs.iter().any(|i| i.as_str() == name);
        let mut extras = Vec::new();
        let (square, cube) = ([1, h, w], [c, h, w]);
        for (name, shape, values) in [
            (extra::TIME_IDS, &[6][..], &sizes[..]),
            (extra::MASK, &square, &plane),
            (extra::MASKED_LATENTS, &cube, &zeros),
            (extra::IMAGE_LATENTS, &cube, &zeros),
            (extra::GUIDANCE, &[1], &[3.5]),
        ] {
            if wanted(name) {
                extras.push(TensorRef::f32(name, shape, values)?);
            }
        }
        // The noise level of Stable Diffusion's schedule at this timestep, roughly: it need only fit everywhere.
        let item = |(cond, timestep): &(u64, f32)| PredictItem {
            cond: *cond,
            timestep: *timestep,
            sigma: (timestep / 999.0 * 14.6).max(0.03),
            extra: extras.as_slice().into(),
            params: RSlice::EMPTY,
        };
        let items: Vec<_> = items.iter().map(item).collect();
        let mut out = vec![0.0; x.len()];
        let shape = extents(shape);
        let view = TensorMut::f32(&shape, &mut out)?;
        self.session.predict(TensorRef::f32("", &shape, x)?, items.as_slice().into(), view, ctl).into_result()?;
        Ok(out)
    }

    /// The picture's shape for latents of a shape.
    fn picture([n, _, h, w]: [usize; 4], factor: u32) -> [u64; 4] {
        [n as u64, h as u64 * u64::from(factor), w as u64 * u64::from(factor), 3]
    }

    /// Decodes latents of `shape` into a picture made for `factor` pixels a cell.
    pub(super) fn decode_shaped(
        &mut self,
        latents: &[f32],
        shape: [usize; 4],
        factor: u32,
        ctl: &Ctl,
    ) -> Result<Vec<f32>, AbiError> {
        let picture = Self::picture(shape, factor);
        let mut out = vec![0.0; picture.iter().product::<u64>() as usize];
        let view = TensorMut::f32(&picture, &mut out)?;
        let shape = extents(shape);
        self.session.decode(TensorRef::f32("", &shape, latents)?, RSlice::EMPTY, view, ctl).into_result()?;
        Ok(out)
    }

    pub(super) fn decode(&mut self, latents: &[f32], ctl: &Ctl) -> Result<Vec<f32>, AbiError> {
        let shape = self.shape(latents.len() / self.item());
        self.decode_shaped(latents, shape, self.desc.vae_factor, ctl)
    }

    pub(super) fn decode_bytes(&mut self, latents: &[f32]) -> Result<Vec<u8>, AbiError> {
        let shape = self.shape(1);
        let picture = Self::picture(shape, self.desc.vae_factor);
        let mut out = vec![0; picture.iter().product::<u64>() as usize];
        let view = TensorMut::new(DType::U8, &picture, &mut out)?;
        let shape = extents(shape);
        self.session.decode(TensorRef::f32("", &shape, latents)?, RSlice::EMPTY, view, &quiet()).into_result()?;
        Ok(out)
    }

    /// Decodes with the preview network, of `factor` pixels a cell.
    pub(super) fn preview(&mut self, latents: &[f32], factor: u32) -> Result<Vec<f32>, AbiError> {
        let shape = self.shape(1);
        let picture = Self::picture(shape, factor);
        let mut out = vec![0.0; picture.iter().product::<u64>() as usize];
        let view = TensorMut::f32(&picture, &mut out)?;
        let shape = extents(shape);
        self.session.preview(TensorRef::f32("", &shape, latents)?, view, &quiet()).into_result()?;
        Ok(out)
    }

    /// Encodes a picture of this session's own size: means, then deviations.
    pub(super) fn encode_picture(&mut self, pixels: &[f32], ctl: &Ctl) -> Result<Vec<f32>, AbiError> {
        let shape = self.shape(1);
        let picture = Self::picture(shape, self.desc.vae_factor);
        let mut out = vec![0.0; 2 * self.item()];
        let [n, c, h, w] = extents(shape);
        let moments = [n, 2 * c, h, w];
        let view = TensorMut::f32(&moments, &mut out)?;
        self.session.encode(TensorRef::f32("", &picture, pixels)?, RSlice::EMPTY, view, ctl).into_result()?;
        Ok(out)
    }
}

/// What is wrong with a text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Odd {
    Nothing,
    /// A token that the vocabulary does not have.
    Token,
    /// A weight too few.
    Weights,
    /// An encoder that the model does not have.
    Encoder,
    /// No tokens for the last encoder.
    Missing,
}
