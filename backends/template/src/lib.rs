//! A backend to copy. It runs on the CPU and draws nothing useful: each place to fill is marked `YOURS`.
//!
//! `docs/WRITING_A_BACKEND.md` leads through it.

mod session;

use backend_api::{
    AbiError, Ctl, DiffusionDesc, EncoderDesc, HostRef, HwDevice, HwKind, MemReport, ModelPlan, ModelSource, Offer,
    Param, PluginInfo, Stage, Task, abi_stable::std_types::RVec, author, author::log, find,
};

/// The library as a whole.
struct Template;

impl author::Plugin for Template {
    fn info() -> PluginInfo {
        PluginInfo {
            // What `--backend` takes: 1 to 32 of a-z, 0-9 and -.
            id: "template".into(),
            vendor: "YOURS".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            // Without this the plugin may be chosen by itself.
            params: vec![Param::new("test_only", 1)].into(),
        }
    }

    /// Looks at the host's list only: no driver call, no memory on a device.
    fn probe(hardware: &[HwDevice]) -> Vec<Offer> {
        let offer = |(i, device): (usize, &HwDevice)| {
            // YOURS: your devices. Score 0 with a reason tells an operator what is missing.
            (device.kind == HwKind::CPU).then(|| Offer {
                hw_index: i as u32,
                score: 1,
                why: "a template that runs anywhere".into(),
                params: RVec::new(),
            })
        };
        hardware.iter().enumerate().filter_map(offer).collect()
    }

    fn open(hardware: &HwDevice, options: &[Param], _: HostRef) -> Result<Box<dyn author::Backend>, AbiError> {
        let threads = find(options, "threads").unwrap_or("all");
        log::info("template", &format!("opened {} with {threads} threads", hardware.name));
        // YOURS: open the device. An error here makes the host try its next choice.
        Ok(Box::new(Device { total: hardware.mem_total }))
    }
}

/// One opened device. Any thread may ask it.
struct Device {
    total: u64,
}

/// What this template takes from the model's own config: the channels of the latents.
fn channels(source: &ModelSource) -> Result<u32, AbiError> {
    // YOURS: read the JSON of `role::UNET` and its like; refuse an architecture that you do not know with UNSUPPORTED.
    match find(&source.configs, "template") {
        None => Ok(4),
        Some(text) => text
            .trim()
            .parse()
            .map_err(|_| AbiError::invalid("the config of role `template` must be a number of channels")),
    }
}

impl author::Backend for Device {
    fn memory(&self) -> MemReport {
        MemReport { device_total: self.total, ..MemReport::default() }
    }

    /// From configs and headers alone: the host makes room before it loads.
    fn inspect(&self, source: &ModelSource) -> Result<ModelPlan, AbiError> {
        channels(source)?;
        Ok(ModelPlan { task: Task::DIFFUSION, weight_bytes: 0, peak_bytes: 0, params: RVec::new() })
    }

    fn load(&self, source: &ModelSource, ctl: &Ctl) -> Result<Box<dyn author::Model>, AbiError> {
        let channels = channels(source)?;
        // YOURS: map the safetensors files in `source.files` and place them; look at the flag between tensors.
        for (done, _) in source.files.iter().enumerate() {
            if ctl.cancelled() {
                return Err(AbiError::cancelled());
            }
            ctl.progress(Stage::LOAD, done as u64 + 1, source.files.len() as u64);
        }
        if ctl.cancelled() { Err(AbiError::cancelled()) } else { Ok(Box::new(Weights { channels })) }
    }
}

/// Loaded weights. Sessions share them.
struct Weights {
    channels: u32,
}

impl author::Model for Weights {
    fn memory(&self) -> MemReport {
        MemReport::default()
    }

    fn diffusion(&self, _: &[Param]) -> Result<(DiffusionDesc, Box<dyn author::Diffusion>), AbiError> {
        let encoder = EncoderDesc {
            name: "text_encoder".into(),
            max_length: 77,
            hidden_size: 768,
            vocab_size: session::VOCAB,
            params: RVec::new(),
        };
        let desc = DiffusionDesc {
            latent_channels: self.channels,
            vae_factor: session::FACTOR as u32,
            sample_size: 64,
            max_batch: 8,
            encoders: vec![encoder].into(),
            inputs: RVec::new(),
            // `mixed_batch=0` when all items of a call must share a timestep.
            params: RVec::new(),
        };
        Ok((desc, Box::new(session::Session::new(self.channels as usize))))
    }
}

backend_api::export_backend!(Template);
