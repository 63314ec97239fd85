//! The Gaussian backend with a script between it and the host.

use crate::{deeds::Deed, gauss::Gauss, script::Script};
use backend_api::{
    AbiError, Code, Control, Control_TO, Ctl, DType, DiffusionDesc, HostRef, HwDevice, MemReport, ModelPlan,
    ModelSource, Offer, Param, PluginInfo, PredictItem, Stage, StepStats, TensorMut, TensorRef, TextEncoded,
    TextRequest, UpscalerDesc,
    abi_stable::{sabi_trait::prelude::TD_Opaque, std_types::RArc},
    author,
};
use std::sync::atomic::{AtomicU32, Ordering};

/// Counts the answers of `fickle`.
static MOOD: AtomicU32 = AtomicU32::new(0);

/// A number that is another one each time.
fn mood() -> u32 {
    MOOD.fetch_add(1, Ordering::Relaxed)
}

/// The library.
pub(crate) struct Rogue;

impl author::Plugin for Rogue {
    fn info() -> PluginInfo {
        let deeds = Script::environment().at("info").unwrap_or_default();
        let id = if deeds.contains(&Deed::Lie) { "../Rogue\n" } else { "rogue" };
        PluginInfo { id: id.into(), ..Gauss::info() }
    }

    fn probe(hardware: &[HwDevice]) -> Vec<Offer> {
        let deeds = Script::environment().at("probe").unwrap_or_default();
        let mut offers = Gauss::probe(hardware);
        for offer in &mut offers {
            if deeds.contains(&Deed::Lie) {
                (offer.hw_index, offer.score) = (u32::MAX, u32::MAX);
            }
            if deeds.contains(&Deed::Fickle) {
                offer.score = 1 + mood();
            }
            if deeds.contains(&Deed::Silent) {
                offer.why = "".into();
            }
        }
        offers
    }

    fn open(hardware: &HwDevice, options: &[Param], host: HostRef) -> Result<Box<dyn author::Backend>, AbiError> {
        let script = Script::new(options)?;
        script.at("open")?;
        Ok(Box::new(Device { inner: Gauss::open(hardware, options, host)?, script }))
    }
}

struct Device {
    inner: Box<dyn author::Backend>,
    script: Script,
}

fn lied(memory: MemReport, deeds: Result<Vec<Deed>, AbiError>) -> MemReport {
    let most = MemReport { device_total: 1, device_free: u64::MAX, weights: u64::MAX, scratch: u64::MAX };
    if deeds.is_ok_and(|deeds| deeds.contains(&Deed::Lie)) { most } else { memory }
}

impl author::Backend for Device {
    fn memory(&self) -> MemReport {
        lied(self.inner.memory(), self.script.at("memory"))
    }
    fn inspect(&self, source: &ModelSource) -> Result<ModelPlan, AbiError> {
        let deeds = self.script.with(source)?.at("inspect")?;
        let mut plan = self.inner.inspect(source)?;
        if deeds.contains(&Deed::Lie) {
            (plan.weight_bytes, plan.peak_bytes) = (u64::MAX, 0);
        }
        Ok(plan)
    }
    fn load(&self, source: &ModelSource, ctl: &Ctl) -> Result<Box<dyn author::Model>, AbiError> {
        let script = self.script.with(source)?;
        let deeds = script.at("load")?;
        let deaf = deaf_control();
        let ctl = if deeds.contains(&Deed::Deaf) { &deaf } else { ctl };
        let inner = match self.inner.load(source, ctl) {
            Err(e) if deeds.contains(&Deed::Blind) && e.code != Code::CANCELLED => {
                let mut empty = source.clone();
                (empty.configs, empty.options) = (Vec::new().into(), Vec::new().into());
                self.inner.load(&empty, ctl)?
            }
            other => other?,
        };
        Ok(Box::new(Loaded { inner, script }))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.script.at("drop_backend");
    }
}

struct Loaded {
    inner: Box<dyn author::Model>,
    script: Script,
}

impl author::Model for Loaded {
    fn memory(&self) -> MemReport {
        lied(self.inner.memory(), self.script.at("model_memory"))
    }
    fn diffusion(&self, options: &[Param]) -> Result<(DiffusionDesc, Box<dyn author::Diffusion>), AbiError> {
        let deeds = self.script.at("diffusion")?;
        let (mut desc, inner) = self.inner.diffusion(options)?;
        if deeds.contains(&Deed::Lie) {
            (desc.latent_channels, desc.vae_factor, desc.max_batch) = (0, u32::MAX, 0);
        }
        Ok((desc, Box::new(Session { inner, script: self.script.clone(), soured: false })))
    }
    fn upscaler(&self, options: &[Param]) -> Result<(UpscalerDesc, Box<dyn author::Upscaler>), AbiError> {
        self.script.at("upscaler")?;
        self.inner.upscaler(options)
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let _ = self.script.at("drop_model");
    }
}

struct Session {
    inner: Box<dyn author::Diffusion>,
    script: Script,
    /// Whether `sour` has met an error.
    soured: bool,
}

/// A control that never cancels.
struct Never;

impl Control for Never {
    fn cancelled(&self) -> bool {
        false
    }
    fn progress(&self, _: Stage, _: u64, _: u64) {}
}

fn deaf_control() -> Ctl {
    Control_TO::from_ptr(RArc::new(Never), TD_Opaque)
}

impl Session {
    /// Does the deeds to an output, or else lets the inner session fill it.
    fn output(
        &mut self,
        deeds: &[Deed],
        ctl: &Ctl,
        mut out: TensorMut<'_>,
        inner: impl FnOnce(&mut dyn author::Diffusion, TensorMut<'_>, &Ctl) -> Result<StepStats, AbiError>,
    ) -> Result<StepStats, AbiError> {
        let number = out.dtype == DType::F32;
        if deeds.contains(&Deed::Silent) {
            return Ok(StepStats { device_ns: u64::MAX });
        }
        if deeds.contains(&Deed::Nan) && number {
            let values = vec![f32::NAN; out.bytes.len() / size_of::<f32>()];
            out.write_f32(&values)?;
            return Ok(StepStats::default());
        }
        let deaf = deaf_control();
        let ctl = if deeds.contains(&Deed::Deaf) { &deaf } else { ctl };
        let view = TensorMut { dtype: out.dtype, shape: out.shape, bytes: (&mut *out.bytes).into() };
        let outcome = inner(&mut *self.inner, view, ctl);
        self.soured |= deeds.contains(&Deed::Sour) && outcome.is_err();
        if matches!(&outcome, Err(e) if e.code == Code::INVALID) && deeds.contains(&Deed::Blind) {
            out.bytes.fill(0);
            return Ok(StepStats::default());
        }
        let off = if deeds.contains(&Deed::Fickle) { 1 + mood() } else { u32::from(self.soured) };
        let lie = deeds.contains(&Deed::Lie);
        if outcome.is_ok() && (off > 0 || lie) {
            if number {
                let off = off as f32 * 0.001;
                out.bytes.chunks_exact_mut(4).for_each(|b| {
                    let value = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                    // Deviations become negative; numbers of a picture stay, so that its bytes differ from them.
                    let value =
                        if lie && out.shape.len() == 4 && out.shape[3] != 3 { -value - 1.0 } else { value + off };
                    b.copy_from_slice(&value.to_le_bytes());
                });
            } else {
                out.bytes.iter_mut().for_each(|b| *b = b.wrapping_add(77));
            }
        }
        outcome
    }
}

impl author::Diffusion for Session {
    fn encode_text(&mut self, request: &TextRequest<'_>, ctl: &Ctl) -> Result<TextEncoded, AbiError> {
        let deeds = self.script.at("encode_text")?;
        let mut encoded = match self.inner.encode_text(request, ctl) {
            Err(_) if deeds.contains(&Deed::Blind) => {
                TextEncoded { cond: 1, tokens: 1, bytes: 0, params: Vec::new().into() }
            }
            other => other?,
        };
        if deeds.contains(&Deed::Lie) {
            (encoded.cond, encoded.tokens, encoded.bytes) = (u64::MAX, 0, u64::MAX);
        }
        Ok(encoded)
    }
    fn free_cond(&mut self, cond: u64) {
        if self.script.at("free_cond").is_ok_and(|deeds| !deeds.contains(&Deed::Keep)) {
            self.inner.free_cond(cond);
        }
    }
    fn predict(
        &mut self,
        x: TensorRef<'_>,
        items: &[PredictItem<'_>],
        out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Result<StepStats, AbiError> {
        let deeds = self.script.at("predict")?;
        let mut items = items.to_vec();
        if deeds.contains(&Deed::Lockstep)
            && let Some(first) = items.first().copied()
        {
            items.iter_mut().for_each(|item| (item.timestep, item.sigma) = (first.timestep, first.sigma));
        }
        self.output(&deeds, ctl, out, |inner, mut out, ctl| {
            if deeds.contains(&Deed::Lazy) {
                out.write_f32(&x.to_f32()?)?;
                return Ok(StepStats::default());
            }
            inner.predict(x, &items, out, ctl)
        })
    }
    fn decode(
        &mut self,
        latents: TensorRef<'_>,
        options: &[Param],
        out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Result<StepStats, AbiError> {
        let deeds = self.script.at("decode")?;
        self.output(&deeds, ctl, out, |inner, out, ctl| inner.decode(latents, options, out, ctl))
    }
    fn encode(
        &mut self,
        image: TensorRef<'_>,
        options: &[Param],
        out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Result<StepStats, AbiError> {
        let deeds = self.script.at("encode")?;
        self.output(&deeds, ctl, out, |inner, out, ctl| inner.encode(image, options, out, ctl))
    }
    fn preview(&mut self, latents: TensorRef<'_>, out: TensorMut<'_>, ctl: &Ctl) -> Result<StepStats, AbiError> {
        let deeds = self.script.at("preview")?;
        self.output(&deeds, ctl, out, |inner, out, ctl| inner.preview(latents, out, ctl))
    }
    fn add_tokens(&mut self, encoder: u32, vectors: TensorRef<'_>) -> Result<u32, AbiError> {
        self.script.at("add_tokens")?;
        self.inner.add_tokens(encoder, vectors)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.script.at("drop");
    }
}
