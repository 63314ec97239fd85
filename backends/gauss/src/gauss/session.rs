//! One opened Gaussian model.

use super::{
    options::{Options, Prediction},
    picture, text, wait,
};
use backend_api::{
    AbiError, Code, Ctl, Param, PredictItem, Stage, StepStats, TensorMut, TensorRef, TextEncoded, TextRequest,
    abi_stable::std_types::RVec,
    author::{self, Shapes},
};
use std::{collections::HashMap, time::Instant};

pub(super) struct Session {
    options: Options,
    /// Encoded texts: the mean of each channel.
    conds: HashMap<u64, Vec<f32>>,
    next: u64,
    /// Known tokens per encoder, added ones included.
    vocab: Vec<u32>,
}

impl Session {
    pub(super) fn new(options: Options) -> Self {
        let vocab = vec![text::VOCAB; options.encoders as usize];
        Session { options, conds: HashMap::new(), next: 1, vocab }
    }

    fn shapes(&self) -> Shapes {
        Shapes { channels: self.options.latent_channels as usize, factor: self.options.vae_factor as usize }
    }
}

impl author::Diffusion for Session {
    fn encode_text(&mut self, request: &TextRequest<'_>, ctl: &Ctl) -> Result<TextEncoded, AbiError> {
        if ctl.cancelled() {
            return Err(AbiError::cancelled());
        }
        let hash = text::hash(request, &self.vocab)?;
        let mean = |channel| match (self.options.mean, hash) {
            (Some(mean), _) => mean,
            (None, Some(hash)) => text::mean(hash, channel, self.options.spread),
            (None, None) => 0.0,
        };
        let means: Vec<f32> = (0..self.options.latent_channels).map(mean).collect();
        let (cond, bytes) = (self.next, size_of_val(means.as_slice()) as u64);
        self.next += 1;
        self.conds.insert(cond, means);
        let tokens = request.inputs.first().map_or(0, |input| input.tokens.len() as u32);
        Ok(TextEncoded { cond, tokens, bytes, params: RVec::new() })
    }

    fn free_cond(&mut self, cond: u64) {
        self.conds.remove(&cond);
    }

    fn predict(
        &mut self,
        x: TensorRef<'_>,
        items: &[PredictItem<'_>],
        mut out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Result<StepStats, AbiError> {
        let start = Instant::now();
        wait(self.options.step_ms, ctl, |_, _| ())?;
        let [_, c, h, w] = self.shapes().latents(x.dims()?)?;
        if self.options.oom_above > 0 && items.len() as u64 > self.options.oom_above {
            return Err(AbiError::new(Code::OOM, format!("{} items do not fit into the memory", items.len())));
        }
        if items.len() > self.options.max_batch as usize {
            let most = self.options.max_batch;
            return Err(AbiError::invalid(format!("{} items; this model takes up to {most}", items.len())));
        }
        if !self.options.mixed_batch && items.windows(2).any(|pair| pair[0].timestep != pair[1].timestep) {
            return Err(AbiError::invalid("the items of one batch must share a timestep"));
        }
        let mut values = x.to_f32()?;
        for (item, latents) in items.iter().zip(values.chunks_exact_mut(c * h * w)) {
            for name in &self.options.inputs {
                if !item.extra.iter().any(|t| t.name.as_str() == name) {
                    return Err(AbiError::invalid(format!("an item lacks the input `{name}`")));
                }
            }
            let means = self
                .conds
                .get(&item.cond)
                .ok_or_else(|| AbiError::invalid(format!("there is no encoded text {}", item.cond)))?;
            for (mean, channel) in means.iter().zip(latents.chunks_exact_mut(h * w)) {
                channel.iter_mut().for_each(|v| *v = answer(&self.options, *mean, *v, item.sigma));
            }
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
        wait(self.options.decode_ms, ctl, |done, total| ctl.progress(Stage::DECODE, done, total))?;
        let dims = self.shapes().pictures(latents.dims()?, out.dims()?)?;
        out.write_picture(&picture::decode(&latents.to_f32()?, dims, self.options.vae_factor as usize))?;
        Ok(StepStats::default())
    }

    fn encode(
        &mut self,
        image: TensorRef<'_>,
        _: &[Param],
        mut out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Result<StepStats, AbiError> {
        if ctl.cancelled() {
            return Err(AbiError::cancelled());
        }
        let [n, c, h, w] = self.shapes().moments(image.dims()?, out.dims()?)?;
        let f = self.options.vae_factor as usize;
        out.write_f32(&picture::encode(&image.to_picture()?, n, c, [h, w], f))?;
        Ok(StepStats::default())
    }

    fn preview(&mut self, latents: TensorRef<'_>, out: TensorMut<'_>, ctl: &Ctl) -> Result<StepStats, AbiError> {
        self.decode(latents, &[], out, ctl)
    }

    /// The vectors are not used: an id alone already moves the mean.
    fn add_tokens(&mut self, encoder: u32, vectors: TensorRef<'_>) -> Result<u32, AbiError> {
        let [n, _] = vectors.dims::<2>()?;
        let vocab = self
            .vocab
            .get_mut(encoder as usize)
            .ok_or_else(|| AbiError::new(Code::INVALID, format!("there is no text encoder {encoder}")))?;
        let first = *vocab;
        let grown = u32::try_from(n).ok().and_then(|n| first.checked_add(n));
        *vocab = grown.ok_or_else(|| AbiError::invalid("too many added tokens"))?;
        Ok(first)
    }
}

/// The network's answer for one element; the formulas stand at the top of the module.
fn answer(options: &Options, mean: f32, x: f32, sigma: f32) -> f32 {
    let (mean, x, sigma, variance) = (f64::from(mean), f64::from(x), f64::from(sigma), f64::from(options.std).powi(2));
    let (a, s) = match options.prediction {
        Prediction::Flow => (1.0 - sigma, sigma),
        _ => ((1.0 + sigma * sigma).sqrt().recip(), sigma / (1.0 + sigma * sigma).sqrt()),
    };
    let residual = (x - a * mean) / (a * a * variance + s * s);
    let (noise, clean) = (s * residual, mean + a * variance * residual);
    let value = match options.prediction {
        Prediction::Epsilon => noise,
        Prediction::V => a * noise - s * clean,
        Prediction::Sample => clean,
        Prediction::Flow => noise - clean,
    };
    value as f32
}
