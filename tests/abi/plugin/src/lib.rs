//! A small plugin, compiled against each version of the interface: it answers its input, plus the sum of the tokens.

use backend_api::{
    AbiError, Ctl, DiffusionDesc, EncoderDesc, HostRef, HwDevice, HwKind, MemReport, ModelPlan, ModelSource, Offer,
    Param, PluginInfo, PredictItem, StepStats, Task, TensorMut, TensorRef, TextEncoded, TextRequest,
    abi_stable::std_types::RVec, author,
};

struct Plugin;

impl author::Plugin for Plugin {
    fn info() -> PluginInfo {
        PluginInfo {
            id: "evolution".into(),
            vendor: "tests".into(),
            version: "1".into(),
            params: vec![Param::new("test_only", 1)].into(),
        }
    }
    fn probe(hardware: &[HwDevice]) -> Vec<Offer> {
        let offer =
            |i: usize| Offer { hw_index: i as u32, score: 5, why: "a test of versions".into(), params: RVec::new() };
        (0..hardware.len()).filter(|i| hardware[*i].kind == HwKind::CPU).map(offer).collect()
    }
    fn open(hardware: &HwDevice, _: &[Param], host: HostRef) -> Result<Box<dyn author::Backend>, AbiError> {
        #[cfg(feature = "future")]
        {
            // Today's host has no `mood`: the default body of this plugin's interface must answer.
            if host.mood() != 7 {
                return Err(AbiError::internal("the default of a method that the host lacks did not run"));
            }
        }
        author::log::info("evolution", hardware.name.as_str());
        drop(host);
        Ok(Box::new(Object))
    }
}

struct Object;

impl author::Backend for Object {
    fn memory(&self) -> MemReport {
        MemReport { device_total: 11, ..MemReport::default() }
    }
    fn inspect(&self, source: &ModelSource) -> Result<ModelPlan, AbiError> {
        let bytes = source.name.len() as u64;
        Ok(ModelPlan { task: Task::DIFFUSION, weight_bytes: bytes, peak_bytes: bytes, params: RVec::new() })
    }
    fn load(&self, _: &ModelSource, ctl: &Ctl) -> Result<Box<dyn author::Model>, AbiError> {
        if ctl.cancelled() { Err(AbiError::cancelled()) } else { Ok(Box::new(Object)) }
    }
}

impl author::Model for Object {
    fn memory(&self) -> MemReport {
        MemReport::default()
    }
    fn diffusion(&self, _: &[Param]) -> Result<(DiffusionDesc, Box<dyn author::Diffusion>), AbiError> {
        let encoder = EncoderDesc {
            name: "text_encoder".into(),
            max_length: 77,
            hidden_size: 1,
            vocab_size: 100,
            params: RVec::new(),
        };
        let desc = DiffusionDesc {
            latent_channels: 4,
            vae_factor: 8,
            sample_size: 8,
            max_batch: 4,
            encoders: vec![encoder].into(),
            inputs: RVec::new(),
            params: RVec::new(),
        };
        Ok((desc, Box::new(Object)))
    }
}

impl author::Diffusion for Object {
    fn encode_text(&mut self, request: &TextRequest<'_>, _: &Ctl) -> Result<TextEncoded, AbiError> {
        let sum = request.inputs.iter().flat_map(|i| i.tokens.iter()).map(|t| u64::from(*t)).sum();
        Ok(TextEncoded { cond: sum, tokens: 1, bytes: 0, params: RVec::new() })
    }
    fn free_cond(&mut self, _: u64) {}
    fn predict(
        &mut self,
        x: TensorRef<'_>,
        items: &[PredictItem<'_>],
        mut out: TensorMut<'_>,
        _: &Ctl,
    ) -> Result<StepStats, AbiError> {
        #[cfg(feature = "future")]
        if items.len() == 3 {
            return Err(AbiError::new(backend_api::Code::THROTTLED, "a code of the future"));
        }
        let mut values = x.to_f32()?;
        let size = values.len() / items.len();
        for (item, values) in items.iter().zip(values.chunks_exact_mut(size)) {
            values.iter_mut().for_each(|v| *v += item.cond as f32);
        }
        out.write_f32(&values)?;
        Ok(StepStats::default())
    }
    fn decode(
        &mut self,
        _: TensorRef<'_>,
        _: &[Param],
        mut out: TensorMut<'_>,
        _: &Ctl,
    ) -> Result<StepStats, AbiError> {
        let values = vec![0.5; out.bytes.len() / if out.dtype == backend_api::DType::F32 { 4 } else { 1 }];
        out.write_picture(&values)?;
        Ok(StepStats::default())
    }
}

backend_api::export_backend!(Plugin);
