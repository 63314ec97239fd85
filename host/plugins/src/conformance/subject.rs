//! A session under test: inputs of the right shapes, and the calls in plain Rust types.

use crate::{Cancel, control};
use backend_api::{
    AbiError, BackendBox, Ctl, DType, DiffusionBox, DiffusionDesc, EncoderInput, ModelSource, PredictItem, TensorMut,
    TensorRef, TextRequest, abi_stable::std_types::RSlice, extra,
};

/// A loaded model with its session.
pub(super) struct Subject {
    pub(super) desc: DiffusionDesc,
    session: DiffusionBox,
    /// Side of the latents.
    pub(super) side: usize,
}

/// A control that asks for nothing.
pub(super) fn quiet() -> Ctl {
    control(&Cancel::new(), |_, _, _| ())
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

impl Subject {
    pub(super) fn load(backend: &BackendBox, source: &ModelSource) -> Result<Self, AbiError> {
        let model = backend.load(source, &quiet()).into_result()?;
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

    /// Encodes a text of one chunk per encoder: the start token, `words`, then end tokens. `odd` breaks one thing.
    pub(super) fn encode(&mut self, words: &[u32], odd: Odd) -> Result<u64, AbiError> {
        let chunks: Vec<(Vec<u32>, Vec<f32>)> = self
            .desc
            .encoders
            .iter()
            .map(|encoder| {
                let (vocab, length) = (encoder.vocab_size, encoder.max_length as usize);
                let word = |w: &u32| w % vocab;
                let mut tokens: Vec<u32> = vec![vocab.saturating_sub(2)];
                tokens.extend(words.iter().map(word));
                tokens.resize(length, vocab.saturating_sub(1));
                if odd == Odd::Token {
                    tokens[0] = vocab;
                }
                let weights = vec![1.0; if odd == Odd::Weights { length - 1 } else { length }];
                (tokens, weights)
            })
            .collect();
        let inputs: Vec<EncoderInput<'_>> = chunks
            .iter()
            .zip(self.desc.encoders.iter())
            .enumerate()
            .map(|(i, ((tokens, weights), encoder))| EncoderInput {
                encoder: i as u32,
                chunk_length: encoder.max_length,
                tokens: tokens.as_slice().into(),
                weights: weights.as_slice().into(),
                empty: tokens.as_slice().into(),
                params: RSlice::EMPTY,
            })
            .collect();
        let request = TextRequest { inputs: inputs.as_slice().into(), params: RSlice::EMPTY };
        Ok(self.session.encode_text(request, &quiet()).into_result()?.cond)
    }

    pub(super) fn free(&mut self, cond: u64) {
        self.session.free_cond(cond);
    }

    /// Predicts for items of (text, timestep).
    pub(super) fn predict(&mut self, x: &[f32], items: &[(u64, f32)], ctl: &Ctl) -> Result<Vec<f32>, AbiError> {
        let side = self.side as u64;
        self.predict_shaped(x, [items.len() as u64, self.channels() as u64, side, side], items, ctl)
    }

    pub(super) fn predict_shaped(
        &mut self,
        x: &[f32],
        shape: [u64; 4],
        items: &[(u64, f32)],
        ctl: &Ctl,
    ) -> Result<Vec<f32>, AbiError> {
        let (side, c) = (self.side, self.channels());
        let (plane, zeros) = (vec![1.0f32; side * side], vec![0.0f32; c * side * side]);
        let (square, cube) = ([1, side as u64, side as u64], [c as u64, side as u64, side as u64]);
        let pixels = (side * self.desc.vae_factor as usize) as f32;
        let sizes = [pixels, pixels, 0.0, 0.0, pixels, pixels];
        let wanted = |name: &str| self.desc.inputs.iter().any(|i| i.as_str() == name);
        let mut extras = Vec::new();
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
        let view = TensorMut::f32(&shape, &mut out)?;
        self.session.predict(TensorRef::f32("", &shape, x)?, items.as_slice().into(), view, ctl).into_result()?;
        Ok(out)
    }

    /// The picture's shape for `n` latents.
    pub(super) fn picture(&self, n: usize) -> [u64; 4] {
        let side = self.side as u64 * u64::from(self.desc.vae_factor);
        [n as u64, side, side, 3]
    }

    pub(super) fn decode(&mut self, latents: &[f32], ctl: &Ctl) -> Result<Vec<f32>, AbiError> {
        let n = latents.len() / self.item();
        let shape = self.picture(n);
        let mut out = vec![0.0; shape.iter().product::<u64>() as usize];
        let side = self.side as u64;
        let latent_shape = [n as u64, self.channels() as u64, side, side];
        let view = TensorMut::f32(&shape, &mut out)?;
        self.session.decode(TensorRef::f32("", &latent_shape, latents)?, RSlice::EMPTY, view, ctl).into_result()?;
        Ok(out)
    }

    pub(super) fn decode_bytes(&mut self, latents: &[f32]) -> Result<Vec<u8>, AbiError> {
        let shape = self.picture(1);
        let mut out = vec![0; shape.iter().product::<u64>() as usize];
        let side = self.side as u64;
        let latent_shape = [1, self.channels() as u64, side, side];
        let view = TensorMut::new(DType::U8, &shape, &mut out)?;
        self.session
            .decode(TensorRef::f32("", &latent_shape, latents)?, RSlice::EMPTY, view, &quiet())
            .into_result()?;
        Ok(out)
    }

    /// Encodes a picture: means, then deviations.
    pub(super) fn encode_picture(&mut self, pixels: &[f32]) -> Result<Vec<f32>, AbiError> {
        let (shape, side) = (self.picture(1), self.side as u64);
        let mut out = vec![0.0; 2 * self.item()];
        let out_shape = [1, 2 * self.channels() as u64, side, side];
        let view = TensorMut::f32(&out_shape, &mut out)?;
        self.session.encode(TensorRef::f32("", &shape, pixels)?, RSlice::EMPTY, view, &quiet()).into_result()?;
        Ok(out)
    }
}

/// What is wrong with a text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Odd {
    Nothing,
    Token,
    Weights,
}
