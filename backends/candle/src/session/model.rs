//! A loaded model: the networks that its sessions share.

use super::{diffusion::Session, memory};
use crate::{
    Error, Result,
    config::{self, ClipConfig, TinyConfig, UnetConfig, VaeConfig},
    models::{Builder, autoencoder::Autoencoder, clip::Clip, tiny::TinyDecoder, unet::Unet},
    ops::{Ops, cpu::GiveBack},
    weights::{Part, Progress, Vars},
};
use backend_api::{
    AbiError, Ctl, DiffusionDesc, EncoderDesc, MemReport, ModelPlan, ModelSource, Param, Task,
    author::{self, system_memory},
    extra, role,
};
use rayon::ThreadPool;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// The networks of a diffusion model.
pub(crate) struct Parts {
    pub(crate) ops: Arc<dyn Ops>,
    pub(crate) pool: Arc<ThreadPool>,
    pub(crate) encoders: Vec<Clip>,
    encoder_roles: Vec<&'static str>,
    pub(crate) unet: Unet,
    pub(crate) vae: Autoencoder,
    pub(crate) tiny: Option<TinyDecoder>,
    /// Width of the pooled text, where the denoiser takes one (XL).
    pub(crate) pooled_width: Option<usize>,
    weights: u64,
    /// Bytes that sessions hold.
    pub(crate) scratch: AtomicU64,
    /// Last: when it is dropped, all else has been.
    _memory: GiveBack,
}

/// The configs of a diffusion model.
struct Configs {
    encoders: Vec<(&'static str, ClipConfig)>,
    unet: UnetConfig,
    vae: VaeConfig,
    tiny: Option<TinyConfig>,
}

fn missing(part: &str, what: &'static str) -> Error {
    Error::MissingPart { part: part.to_owned(), what }
}

impl Configs {
    fn read(source: &ModelSource) -> Result<Self> {
        let need = |part: &str| missing(part, "config");
        let unet: UnetConfig = config::read(source, role::UNET)?.ok_or_else(|| need(role::UNET))?;
        let vae: VaeConfig = config::read(source, role::VAE)?.ok_or_else(|| need(role::VAE))?;
        let tiny = if source.files.iter().any(|f| f.key.as_str() == role::TAESD) {
            Some(config::read(source, role::TAESD)?.unwrap_or_default())
        } else {
            None
        };
        let mut encoders = Vec::new();
        for part in [role::TEXT_ENCODER, role::TEXT_ENCODER_2] {
            if let Some(config) = config::read::<ClipConfig>(source, part)? {
                config.check(part)?;
                encoders.push((part, config));
            }
        }
        if encoders.is_empty() {
            return Err(need(role::TEXT_ENCODER));
        }
        unet.check()?;
        vae.check(role::VAE)?;
        let (latents, inputs) = (vae.latent_channels, unet.in_channels);
        let architecture = |field, value: usize| {
            Err(Error::Architecture { part: role::UNET.to_owned(), field, value: value.to_string() })
        };
        if ![latents, 2 * latents, 2 * latents + 1].contains(&inputs) {
            return architecture("in_channels", inputs);
        }
        if unet.out_channels != latents {
            return architecture("out_channels", unet.out_channels);
        }
        Ok(Configs { encoders, unet, vae, tiny })
    }

    fn roles(&self) -> Vec<&'static str> {
        let encoders = self.encoders.iter().map(|(role, _)| *role);
        encoders.chain([role::UNET, role::VAE]).chain(self.tiny.as_ref().map(|_| role::TAESD)).collect()
    }
}

fn open(source: &ModelSource, part: &str) -> Result<Part> {
    Part::open(source, part)?.ok_or_else(|| missing(part, "weights"))
}

/// What loading would need, from configs and headers alone.
pub(crate) fn plan(source: &ModelSource) -> Result<ModelPlan> {
    let configs = Configs::read(source)?;
    let mut bytes = 0;
    let mut largest = 0;
    for role in configs.roles() {
        let part = open(source, role)?.f32_bytes();
        bytes += part;
        largest = largest.max(part);
    }
    let side = (configs.unet.side() as usize).max(8);
    let pixels = side * configs.vae.factor();
    let scratch = memory::unet_scratch(&configs.unet, 2, side, side).max(memory::autoencoder_scratch(
        &configs.vae,
        pixels,
        pixels,
    ));
    Ok(ModelPlan {
        task: Task::DIFFUSION,
        weight_bytes: bytes,
        peak_bytes: bytes + scratch,
        params: vec![Param::new("precision", "f32")].into(),
    })
}

impl Parts {
    pub(crate) fn load(source: &ModelSource, ops: Arc<dyn Ops>, pool: Arc<ThreadPool>, ctl: &Ctl) -> Result<Self> {
        let configs = Configs::read(source)?;
        let roles = configs.roles();
        let files = roles.iter().map(|role| open(source, role)).collect::<Result<Vec<_>>>()?;
        let weights: u64 = files.iter().map(Part::f32_bytes).sum();
        let (_, free) = system_memory();
        if free > 0 && weights > free {
            return Err(Error::Memory { what: "loading the model", needed: weights >> 20, free: free >> 20 });
        }
        let progress = Progress::new(ctl, weights);
        let builder = |role: &str| -> Result<Builder<'_>> {
            let at = roles.iter().position(|r| *r == role).ok_or_else(|| missing(role, "weights"))?;
            Ok(Builder::new(ops.as_ref(), Vars::new(&files[at], &progress)))
        };
        let mut encoders = Vec::new();
        for (role, config) in configs.encoders {
            encoders.push(Clip::new(&builder(role)?, config)?);
        }
        let unet = Unet::new(&builder(role::UNET)?, configs.unet)?;
        let vae = Autoencoder::new(&builder(role::VAE)?, configs.vae)?;
        let tiny = configs.tiny.map(|config| TinyDecoder::new(&builder(role::TAESD)?, config)).transpose()?;
        files.iter().try_for_each(Part::check_unchanged)?;
        progress.finish();
        let pooled_width = match (&unet.config().addition_embed_type, encoders.last()) {
            (Some(_), Some(last)) => Some(last.pooled_width()),
            _ => None,
        };
        let encoder_roles = roles.into_iter().take(encoders.len()).collect();
        let scratch = AtomicU64::new(0);
        Ok(Parts {
            ops,
            pool: pool.clone(),
            encoders,
            encoder_roles,
            unet,
            vae,
            tiny,
            pooled_width,
            weights,
            scratch,
            _memory: GiveBack(pool),
        })
    }

    /// The sizes of its latents and pictures.
    pub(crate) fn shapes(&self) -> author::Shapes {
        let config = self.vae.config();
        author::Shapes { channels: config.latent_channels, factor: config.factor() }
    }

    /// The extra tensors that every item brings, in the order of the denoiser's channels first.
    pub(crate) fn inputs(&self) -> Vec<&'static str> {
        let latents = self.vae.config().latent_channels;
        let config = self.unet.config();
        let mut inputs = Vec::new();
        match config.in_channels {
            n if n == 2 * latents + 1 => inputs.extend([extra::MASK, extra::MASKED_LATENTS]),
            n if n == 2 * latents => inputs.push(extra::IMAGE_LATENTS),
            _ => {}
        }
        if config.addition_embed_type.is_some() {
            inputs.push(extra::TIME_IDS);
        }
        if config.time_cond_proj_dim.is_some() {
            inputs.push(extra::GUIDANCE);
        }
        if config.class_embed_type.is_some() || config.num_class_embeds.is_some() {
            inputs.push(super::diffusion::CLASS_LABELS);
        }
        inputs
    }

    fn describe(&self) -> DiffusionDesc {
        let encoder = |(name, clip): (&&'static str, &Clip)| EncoderDesc {
            name: (*name).into(),
            max_length: clip.config().max_position_embeddings as u32,
            hidden_size: clip.config().hidden_size as u32,
            vocab_size: clip.config().vocab_size as u32,
            params: Vec::new().into(),
        };
        let mut params = vec![Param::new("encode", 1), Param::new("kernels", self.ops.name())];
        if let Some(tiny) = &self.tiny {
            params.push(Param::new("preview_factor", tiny.config().factor()));
        }
        DiffusionDesc {
            latent_channels: self.vae.config().latent_channels as u32,
            vae_factor: self.vae.config().factor() as u32,
            sample_size: self.unet.config().side(),
            max_batch: 64,
            encoders: self.encoder_roles.iter().zip(&self.encoders).map(encoder).collect(),
            inputs: self.inputs().into_iter().map(Into::into).collect(),
            params: params.into(),
        }
    }
}

/// A loaded model as the host holds it.
pub(crate) struct Loaded(pub(crate) Arc<Parts>);

impl author::Model for Loaded {
    fn memory(&self) -> MemReport {
        let (device_total, device_free) = system_memory();
        let scratch = self.0.scratch.load(Ordering::Relaxed);
        MemReport { device_total, device_free, weights: self.0.weights, scratch }
    }

    fn diffusion(&self, _options: &[Param]) -> Result<(DiffusionDesc, Box<dyn author::Diffusion>), AbiError> {
        Ok((self.0.describe(), Box::new(Session::new(self.0.clone()))))
    }
}
