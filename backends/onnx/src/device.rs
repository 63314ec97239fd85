//! A device and the models that it loads.

use crate::{network::Network, session::Session};
use backend_api::{
    AbiError, Code, Ctl, DiffusionDesc, EncoderDesc, MemReport, ModelPlan, ModelSource, Param, Stage, Task,
    abi_stable::std_types::RVec, author, find, role,
};
use serde_json::Value;
use std::{path::Path, sync::Arc};

/// The processor, by way of the runtime.
pub(crate) struct Device {
    pub(crate) total: u64,
    /// 0 = the runtime's choice.
    pub(crate) threads: usize,
}

/// What the configs say.
#[derive(Clone, Copy)]
pub(crate) struct Facts {
    pub(crate) channels: usize,
    pub(crate) factor: usize,
    pub(crate) sample_size: u32,
    pub(crate) scaling: f32,
    pub(crate) shift: f32,
    pub(crate) tokens: u32,
    pub(crate) hidden: u32,
    pub(crate) vocab: u32,
}

/// The networks of a model, shared by its sessions.
pub(crate) struct Networks {
    pub(crate) facts: Facts,
    pub(crate) text: Network,
    pub(crate) unet: Network,
    pub(crate) decoder: Network,
    /// Absent, or without its moments: no picture to picture.
    pub(crate) encoder: Option<Network>,
    bytes: u64,
}

fn config(source: &ModelSource, role: &str) -> Result<Value, AbiError> {
    let text = find(&source.configs, role);
    let text = text.ok_or_else(|| AbiError::new(Code::NOT_FOUND, format!("the model has no config of its {role}")))?;
    let value: Value = serde_json::from_str(text)
        .map_err(|e| AbiError::invalid(format!("the config of the {role} is not understood: {e}")))?;
    if value.is_object() { Ok(value) } else { Err(AbiError::invalid(format!("the config of the {role} is no object"))) }
}

impl Facts {
    fn read(source: &ModelSource) -> Result<Self, AbiError> {
        let (unet, vae) = (config(source, role::UNET)?, config(source, role::VAE)?);
        let text = config(source, role::TEXT_ENCODER)?;
        if find(&source.configs, role::TEXT_ENCODER_2).is_some() {
            return Err(AbiError::unsupported("models with two text encoders"));
        }
        let number = |config: &Value, part: &str, field: &str, most: u64| match config[field].as_u64() {
            Some(value) if (1..=most).contains(&value) => Ok(value as u32),
            _ => Err(AbiError::invalid(format!("the {part}'s `{field}` must be a number from 1 to {most}"))),
        };
        let channels = number(&vae, "VAE", "latent_channels", 64)?;
        if number(&unet, "UNet", "in_channels", 64)? != channels {
            return Err(AbiError::unsupported("UNets with further input channels"));
        }
        let levels = vae["block_out_channels"].as_array().map_or(0, Vec::len);
        if !(1..=8).contains(&levels) {
            return Err(AbiError::invalid("the VAE's `block_out_channels` must be a list of 1 to 8 numbers"));
        }
        let float = |field: &str, default: f64| vae[field].as_f64().unwrap_or(default) as f32;
        Ok(Facts {
            channels: channels as usize,
            factor: 1 << (levels - 1),
            sample_size: unet["sample_size"].as_u64().unwrap_or(0).min(4096) as u32,
            scaling: float("scaling_factor", 0.18215),
            shift: float("shift_factor", 0.0),
            tokens: number(&text, "text encoder", "max_position_embeddings", 1 << 16)?,
            hidden: number(&text, "text encoder", "hidden_size", 1 << 16)?,
            vocab: number(&text, "text encoder", "vocab_size", 1 << 24)?,
        })
    }
}

/// The file of a part and its size.
fn file<'a>(source: &'a ModelSource, role: &str) -> Option<(&'a Path, u64)> {
    let path = Path::new(find(&source.files, role)?);
    // Weights beyond 2 GiB lie in a file of their own beside the graph.
    let beside = path.with_file_name("model.onnx_data");
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
    Some((path, size(path) + size(&beside)))
}

fn needed<'a>(source: &'a ModelSource, role: &str) -> Result<(&'a Path, u64), AbiError> {
    file(source, role).ok_or_else(|| {
        AbiError::new(
            Code::UNSUPPORTED,
            format!("this backend runs models exported to ONNX; this one has no `{role}` (see docs/MODELS.md)"),
        )
    })
}

const PARTS: [&str; 4] = [role::ONNX_TEXT_ENCODER, role::ONNX_UNET, role::ONNX_VAE_DECODER, role::ONNX_VAE_ENCODER];

impl author::Backend for Device {
    fn memory(&self) -> MemReport {
        MemReport { device_total: self.total, ..MemReport::default() }
    }

    fn inspect(&self, source: &ModelSource) -> Result<ModelPlan, AbiError> {
        Facts::read(source)?;
        PARTS[..3].iter().try_for_each(|role| needed(source, role).map(|_| ()))?;
        let bytes: u64 = PARTS.iter().filter_map(|role| file(source, role)).map(|(_, bytes)| bytes).sum();
        // The runtime holds a file's bytes and its own layout of the weights while it loads.
        Ok(ModelPlan { task: Task::DIFFUSION, weight_bytes: bytes, peak_bytes: 2 * bytes, params: RVec::new() })
    }

    fn load(&self, source: &ModelSource, ctl: &Ctl) -> Result<Box<dyn author::Model>, AbiError> {
        let facts = Facts::read(source)?;
        let total: u64 = PARTS.iter().filter_map(|role| file(source, role)).map(|(_, bytes)| bytes).sum();
        let mut done = 0;
        let mut open = |what, (path, bytes): (&Path, u64)| {
            if ctl.cancelled() {
                return Err(AbiError::cancelled());
            }
            let network = Network::open(what, path, self.threads)?;
            done += bytes;
            ctl.progress(Stage::LOAD, done, total);
            Ok(network)
        };
        let text = open("text encoder", needed(source, role::ONNX_TEXT_ENCODER)?)?;
        text.takes_only(&["input_ids"])?;
        let unet = open("UNet", needed(source, role::ONNX_UNET)?)?;
        unet.takes_only(&["sample", "timestep", "encoder_hidden_states"])?;
        let decoder = open("VAE decoder", needed(source, role::ONNX_VAE_DECODER)?)?;
        decoder.takes_only(&["latent_sample"])?;
        let encoder = file(source, role::ONNX_VAE_ENCODER).map(|found| open("VAE encoder", found)).transpose()?;
        let encoder = encoder.filter(|network| network.has_output("latent_parameters"));
        if ctl.cancelled() {
            return Err(AbiError::cancelled());
        }
        Ok(Box::new(Model(Arc::new(Networks { facts, text, unet, decoder, encoder, bytes: total }))))
    }
}

struct Model(Arc<Networks>);

impl author::Model for Model {
    fn memory(&self) -> MemReport {
        MemReport { weights: self.0.bytes, ..MemReport::default() }
    }

    fn diffusion(&self, _: &[Param]) -> Result<(DiffusionDesc, Box<dyn author::Diffusion>), AbiError> {
        let facts = self.0.facts;
        let encoder = EncoderDesc {
            name: role::TEXT_ENCODER.into(),
            max_length: facts.tokens,
            hidden_size: facts.hidden,
            vocab_size: facts.vocab,
            params: RVec::new(),
        };
        let desc = DiffusionDesc {
            latent_channels: facts.channels as u32,
            vae_factor: facts.factor as u32,
            sample_size: facts.sample_size,
            max_batch: 8,
            encoders: vec![encoder].into(),
            inputs: RVec::new(),
            params: vec![Param::new("encode", u8::from(self.0.encoder.is_some()))].into(),
        };
        Ok((desc, Box::new(Session::new(Arc::clone(&self.0)))))
    }
}
