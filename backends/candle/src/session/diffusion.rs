//! A session: the calls of the interface on a loaded model.

use super::{decode, model::Parts, text};
use crate::{
    Error, Result,
    models::{embedding::guidance, unet::UnetItem},
    ops::Activation,
};
use backend_api::{
    AbiError, Ctl, DType, Param, PredictItem, StepStats, TensorMut, TensorRef, TextEncoded, TextRequest, author, extra,
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

/// The class input of networks that have one: a class number or a vector.
pub(crate) const CLASS_LABELS: &str = "class_labels";

/// One opened model.
pub(crate) struct Session {
    parts: Arc<Parts>,
    texts: text::Texts,
    /// Vectors of added tokens, an entry an encoder.
    added: Vec<Vec<f32>>,
    /// What this session last reported as its scratch memory.
    reported: u64,
}

impl Session {
    pub(crate) fn new(parts: Arc<Parts>) -> Self {
        let added = vec![Vec::new(); parts.encoders.len()];
        Session { parts, texts: text::Texts::default(), added, reported: 0 }
    }

    fn report(&mut self) {
        let bytes = self.texts.bytes();
        let scratch = &self.parts.scratch;
        scratch.fetch_add(bytes, Ordering::Relaxed);
        scratch.fetch_sub(self.reported, Ordering::Relaxed);
        self.reported = bytes;
    }

    fn run_predict(&mut self, x: &TensorRef<'_>, items: &[PredictItem<'_>], ctl: &Ctl) -> Result<Vec<f32>> {
        let parts = self.parts.clone();
        let [n, c, h, w] = parts.shapes().latents(x.dims()?)?;
        let values = x.to_f32()?;
        let ids: Vec<u64> = items.iter().map(|item| item.cond).collect();
        let texts = self.texts.ready(&parts, &ids, ctl)?;
        let inputs = items.iter().map(|item| Extras::read(item, &parts)).collect::<Result<Vec<_>>>()?;
        let plane = h * w;
        let channels = parts.unet.config().in_channels;
        let mut joined = Vec::with_capacity(n * channels * plane);
        for (i, extras) in inputs.iter().enumerate() {
            joined.extend_from_slice(&values[i * c * plane..][..c * plane]);
            for (name, planes, wanted) in &extras.planes {
                if planes.len() != wanted * plane {
                    return Err(Error::invalid(format!("the extra input `{name}` must be [{wanted}, {h}, {w}]")));
                }
                joined.extend_from_slice(planes);
            }
        }
        let x = Activation::from_nchw(&joined, [n, channels, h, w], parts.ops.device())?;
        let items: Vec<UnetItem<'_>> = (items.iter().zip(&texts).zip(&inputs))
            .map(|((item, text), extras)| UnetItem {
                timestep: item.timestep,
                text: &text.keys,
                pooled: text.pooled.as_deref(),
                time_ids: extras.time_ids.as_deref(),
                condition: extras.condition.as_deref(),
                class: extras.class.as_deref(),
            })
            .collect();
        if items.iter().any(|item| !item.timestep.is_finite()) {
            return Err(Error::invalid("a timestep is not finite"));
        }
        // Values that are no numbers pass on: the host looks for them in every backend's output.
        parts.unet.forward(parts.ops.as_ref(), &x, &items, ctl)?.to_nchw()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.parts.scratch.fetch_sub(self.reported, Ordering::Relaxed);
    }
}

/// The extra tensors of one item.
struct Extras {
    /// Name, values and channels of what is stacked on the latents.
    planes: Vec<(&'static str, Vec<f32>, usize)>,
    time_ids: Option<Vec<f32>>,
    condition: Option<Vec<f32>>,
    class: Option<Vec<f32>>,
}

impl Extras {
    fn read(item: &PredictItem<'_>, parts: &Parts) -> Result<Self> {
        let mut extras = Extras { planes: Vec::new(), time_ids: None, condition: None, class: None };
        for name in parts.inputs() {
            let tensor = item.extra.iter().find(|t| t.name.as_str() == name);
            let tensor = tensor.ok_or_else(|| Error::invalid(format!("the extra input `{name}` is missing")))?;
            let values = tensor.to_f32()?;
            match name {
                extra::MASK => extras.planes.push((name, values, 1)),
                extra::MASKED_LATENTS | extra::IMAGE_LATENTS => {
                    extras.planes.push((name, values, parts.vae.config().latent_channels));
                }
                extra::TIME_IDS => extras.time_ids = Some(values),
                extra::GUIDANCE => {
                    let [scale] = values[..] else {
                        return Err(Error::invalid(format!("the extra input `{name}` must be one number")));
                    };
                    extras.condition = parts.unet.config().time_cond_proj_dim.map(|width| guidance(scale, width));
                }
                _ => extras.class = Some(values),
            }
        }
        Ok(extras)
    }
}

/// Runs a call on the session's threads and says how long it took.
fn timed<R: Send>(parts: &Parts, f: impl FnOnce() -> Result<R> + Send) -> Result<(R, StepStats), AbiError> {
    let start = Instant::now();
    let result = parts.pool.install(f)?;
    Ok((result, StepStats::since(start)))
}

impl author::Diffusion for Session {
    fn encode_text(&mut self, request: &TextRequest<'_>, ctl: &Ctl) -> Result<TextEncoded, AbiError> {
        let (parts, added) = (self.parts.clone(), &self.added);
        let ((states, pooled), _) = timed(&parts, || text::encode(&parts, added, request, ctl))?;
        let (tokens, bytes) = (states.positions() as u32, states.bytes());
        let cond = self.texts.keep(states, pooled);
        self.report();
        Ok(TextEncoded { cond, tokens, bytes, params: Vec::new().into() })
    }

    fn free_cond(&mut self, cond: u64) {
        self.texts.forget(cond);
        self.report();
    }

    fn predict(
        &mut self,
        x: TensorRef<'_>,
        items: &[PredictItem<'_>],
        mut out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Result<StepStats, AbiError> {
        let parts = self.parts.clone();
        let (values, stats) = timed(&parts, || self.run_predict(&x, items, ctl))?;
        out.write_f32(&values)?;
        self.report();
        Ok(stats)
    }

    fn decode(
        &mut self,
        latents: TensorRef<'_>,
        options: &[Param],
        mut out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Result<StepStats, AbiError> {
        let wanted = out.dims::<4>()?;
        let (values, stats) = timed(&self.parts, || decode::decode(&self.parts, &latents, options, wanted, ctl))?;
        let values = if out.dtype == DType::F32 { values } else { decode::finite(values, "decoder")? };
        out.write_picture(&values)?;
        Ok(stats)
    }

    fn encode(
        &mut self,
        image: TensorRef<'_>,
        options: &[Param],
        mut out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Result<StepStats, AbiError> {
        let wanted = out.dims::<4>()?;
        let (values, stats) = timed(&self.parts, || decode::encode(&self.parts, &image, options, wanted, ctl))?;
        out.write_f32(&values)?;
        Ok(stats)
    }

    fn preview(&mut self, latents: TensorRef<'_>, mut out: TensorMut<'_>, ctl: &Ctl) -> Result<StepStats, AbiError> {
        let wanted = out.dims::<4>()?;
        let (values, stats) = timed(&self.parts, || decode::preview(&self.parts, &latents, wanted, ctl))?;
        out.write_picture(&values)?;
        Ok(stats)
    }

    fn add_tokens(&mut self, encoder: u32, vectors: TensorRef<'_>) -> Result<u32, AbiError> {
        let [_, width] = vectors.dims::<2>()?;
        let i = encoder as usize;
        let Some(clip) = self.parts.encoders.get(i) else {
            return Err(Error::invalid(format!("the model has {} text encoders", self.parts.encoders.len())).into());
        };
        let config = clip.config();
        let values = vectors.to_f32()?;
        if width != config.hidden_size || values.is_empty() || values.iter().any(|v| !v.is_finite()) {
            let wanted = config.hidden_size;
            return Err(Error::invalid(format!("token vectors must be {wanted} wide and finite, got {width}")).into());
        }
        let first = config.vocab_size + self.added[i].len() / width;
        self.added[i].extend(values);
        u32::try_from(first).map_err(|_| Error::invalid("too many tokens").into())
    }
}
