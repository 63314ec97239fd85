//! The Gaussian backend with a script between it and the host.

use crate::{deeds::Deed, gauss::Gauss, script::Script};
use backend_api::{
    AbiError, Ctl, DType, DiffusionDesc, HostRef, HwDevice, MemReport, ModelPlan, ModelSource, Offer, Param,
    PluginInfo, PredictItem, StepStats, TensorMut, TensorRef, TextEncoded, TextRequest, UpscalerDesc, author,
};

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
        if deeds.contains(&Deed::Lie) {
            offers.iter_mut().for_each(|offer| (offer.hw_index, offer.score) = (u32::MAX, u32::MAX));
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
        script.at("load")?;
        Ok(Box::new(Loaded { inner: self.inner.load(source, ctl)?, script }))
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
        Ok((desc, Box::new(Session { inner, script: self.script.clone() })))
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
}

impl Session {
    /// Does the deeds to an output, or else lets the inner session fill it.
    fn output(
        deeds: &[Deed],
        mut out: TensorMut<'_>,
        inner: impl FnOnce(TensorMut<'_>) -> Result<StepStats, AbiError>,
    ) -> Result<StepStats, AbiError> {
        if deeds.contains(&Deed::Silent) {
            return Ok(StepStats { device_ns: u64::MAX });
        }
        if deeds.contains(&Deed::Nan) && out.dtype == DType::F32 {
            let values = vec![f32::NAN; out.bytes.len() / size_of::<f32>()];
            out.write_f32(&values)?;
            return Ok(StepStats::default());
        }
        inner(out)
    }
}

impl author::Diffusion for Session {
    fn encode_text(&mut self, request: &TextRequest<'_>, ctl: &Ctl) -> Result<TextEncoded, AbiError> {
        let deeds = self.script.at("encode_text")?;
        let mut encoded = self.inner.encode_text(request, ctl)?;
        if deeds.contains(&Deed::Lie) {
            (encoded.cond, encoded.tokens, encoded.bytes) = (u64::MAX, 0, u64::MAX);
        }
        Ok(encoded)
    }
    fn free_cond(&mut self, cond: u64) {
        if self.script.at("free_cond").is_ok() {
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
        Session::output(&deeds, out, |out| self.inner.predict(x, items, out, ctl))
    }
    fn decode(
        &mut self,
        latents: TensorRef<'_>,
        options: &[Param],
        out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Result<StepStats, AbiError> {
        let deeds = self.script.at("decode")?;
        Session::output(&deeds, out, |out| self.inner.decode(latents, options, out, ctl))
    }
    fn encode(
        &mut self,
        image: TensorRef<'_>,
        options: &[Param],
        out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Result<StepStats, AbiError> {
        let deeds = self.script.at("encode")?;
        Session::output(&deeds, out, |out| self.inner.encode(image, options, out, ctl))
    }
    fn preview(&mut self, latents: TensorRef<'_>, out: TensorMut<'_>, ctl: &Ctl) -> Result<StepStats, AbiError> {
        let deeds = self.script.at("preview")?;
        Session::output(&deeds, out, |out| self.inner.preview(latents, out, ctl))
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
