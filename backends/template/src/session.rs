//! The calls that make a picture. One thread at a time makes them, and `&mut` says so.

use backend_api::{
    AbiError, Ctl, Param, PredictItem, StepStats, TensorMut, TensorRef, TextEncoded, TextRequest,
    abi_stable::std_types::RVec,
    author::{self, Shapes, only_text},
};
use std::{collections::HashMap, time::Instant};

/// Known tokens.
pub(crate) const VOCAB: u32 = 49408;
/// Pixels per latent cell.
pub(crate) const FACTOR: usize = 8;

/// An opened model.
pub(crate) struct Session {
    shapes: Shapes,
    /// YOURS: hidden states on the device. Here: one number per text.
    conds: HashMap<u64, f32>,
    next: u64,
}

impl Session {
    pub(crate) fn new(channels: usize) -> Self {
        Session { shapes: Shapes { channels, factor: FACTOR }, conds: HashMap::new(), next: 1 }
    }
}

impl author::Diffusion for Session {
    /// The kit has checked lengths and weights; ids and the number of encoders are yours.
    fn encode_text(&mut self, request: &TextRequest<'_>, ctl: &Ctl) -> Result<TextEncoded, AbiError> {
        if ctl.cancelled() {
            return Err(AbiError::cancelled());
        }
        let input = only_text(request, VOCAB)?;
        // YOURS: run the encoder over the chunks, apply weights as `emphasis` says, keep the states.
        let sum: f32 = input.tokens.iter().zip(input.weights.iter()).map(|(t, w)| *t as f32 * w).sum();
        let cond = self.next;
        self.next += 1;
        self.conds.insert(cond, sum / VOCAB as f32);
        Ok(TextEncoded { cond, tokens: input.tokens.len() as u32, bytes: 4, params: RVec::new() })
    }

    fn free_cond(&mut self, cond: u64) {
        self.conds.remove(&cond);
    }

    /// One step for a batch whose items differ in text and timestep.
    fn predict(
        &mut self,
        x: TensorRef<'_>,
        items: &[PredictItem<'_>],
        mut out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Result<StepStats, AbiError> {
        let start = Instant::now();
        let [_, c, h, w] = self.shapes.latents(x.dims()?)?;
        let mut values = x.to_f32()?;
        for (item, latents) in items.iter().zip(values.chunks_exact_mut(c * h * w)) {
            if ctl.cancelled() {
                return Err(AbiError::cancelled());
            }
            let text = self.conds.get(&item.cond).ok_or_else(|| AbiError::invalid("there is no such encoded text"))?;
            // YOURS: the network. This one takes a part of the input, moved by the text, for noise.
            let share = 1.0 - 1.0 / (2.0 + item.timestep);
            latents.iter_mut().for_each(|v| *v = *v * share + text * 0.01);
        }
        out.write_f32(&values)?;
        Ok(StepStats::since(start))
    }

    fn decode(
        &mut self,
        latents: TensorRef<'_>,
        _: &[Param],
        mut out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Result<StepStats, AbiError> {
        if ctl.cancelled() {
            return Err(AbiError::cancelled());
        }
        let [_, c, h, w] = self.shapes.pictures(latents.dims()?, out.dims()?)?;
        let values = latents.to_f32()?;
        // YOURS: the VAE's decoder.
        let mut pixels = Vec::with_capacity(out.dims::<4>()?.iter().product());
        for image in values.chunks_exact(c * h * w) {
            for (y, x) in (0..h * FACTOR).flat_map(|y| (0..w * FACTOR).map(move |x| (y, x))) {
                let cell = (y / FACTOR) * w + x / FACTOR;
                pixels.extend((0..3).map(|j| (0.5 + image[j.min(c - 1) * h * w + cell] / 8.0).clamp(0.0, 1.0)));
            }
        }
        out.write_picture(&pixels)?;
        Ok(StepStats::default())
    }
}
