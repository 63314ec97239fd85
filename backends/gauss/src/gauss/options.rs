//! What a test may ask of the Gaussian backend.

use backend_api::{AbiError, DiffusionDesc, EncoderDesc, ModelSource, Param, abi_stable::std_types::RVec, find};
use serde::Deserialize;

/// The role of the JSON config.
const ROLE: &str = "gauss";

/// Which quantity `predict` answers.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Prediction {
    /// The noise.
    Epsilon,
    /// `a·e − s·x0` (Salimans and Ho, 2022).
    #[serde(rename = "v_prediction")]
    V,
    /// The clean latents.
    Sample,
    /// `e − x0` (rectified flow).
    Flow,
}

/// The JSON config of role `gauss`.
#[derive(Deserialize, Debug, Clone)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Options {
    /// The mean of every element; absent = from the text.
    pub(crate) mean: Option<f32>,
    /// How far a text moves a channel's mean from 0.
    pub(crate) spread: f32,
    /// The deviation of every element, above 0.
    pub(crate) std: f32,
    /// What `predict` answers.
    pub(crate) prediction: Prediction,
    /// Channels of the latents, 1–16.
    pub(crate) latent_channels: u32,
    /// Pixels per latent cell, 1–64.
    pub(crate) vae_factor: u32,
    /// Side of the training pictures in cells.
    pub(crate) sample_size: u32,
    /// Most items of one `predict`.
    pub(crate) max_batch: u32,
    /// Number of text encoders, 1 or 2.
    pub(crate) encoders: u32,
    /// Extra tensors that every item must bring.
    pub(crate) inputs: Vec<String>,
    /// Whether items of one call may have different timesteps.
    pub(crate) mixed_batch: bool,
    /// Output pixels per input pixel of the upscaler, 1–8.
    pub(crate) upscale: u32,
    /// What `inspect` and `memory` claim.
    pub(crate) weight_bytes: u64,
    /// A `predict` of more items than this runs out of memory; 0 = never.
    pub(crate) oom_above: u64,
    /// How long one `predict` takes, in milliseconds.
    pub(crate) step_ms: u64,
    /// How long a load takes.
    pub(crate) load_ms: u64,
    /// How long a decode takes.
    pub(crate) decode_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            mean: None,
            spread: 1.0,
            std: 0.5,
            prediction: Prediction::Epsilon,
            latent_channels: 4,
            vae_factor: 8,
            sample_size: 8,
            max_batch: 16,
            encoders: 1,
            inputs: Vec::new(),
            mixed_batch: true,
            upscale: 2,
            weight_bytes: 0,
            oom_above: 0,
            step_ms: 0,
            load_ms: 0,
            decode_ms: 0,
        }
    }
}

/// An option that was given to `open`: that of the opened part of a device (`step_ms.1`), else that of all.
pub(crate) fn setting<'o>(opened: &'o [Param], key: &str) -> Option<&'o str> {
    let own = find(opened, "part").and_then(|part| find(opened, &format!("{key}.{part}")));
    own.or_else(|| find(opened, key))
}

impl Options {
    /// Reads the config of role `gauss`; `step_ms`, `load_ms`, `decode_ms`, `weight_bytes` and `oom_above` may also
    /// stand in the model's options or in those given to `open`.
    pub(crate) fn read(source: &ModelSource, opened: &[Param]) -> Result<Self, AbiError> {
        let mut options: Options = match find(&source.configs, ROLE) {
            Some(text) => serde_json::from_str(text)
                .map_err(|e| AbiError::invalid(format!("the config of role `{ROLE}` is not understood: {e}")))?,
            None => Options::default(),
        };
        for (key, slot) in [
            ("step_ms", &mut options.step_ms),
            ("load_ms", &mut options.load_ms),
            ("decode_ms", &mut options.decode_ms),
            ("weight_bytes", &mut options.weight_bytes),
            ("oom_above", &mut options.oom_above),
        ] {
            if let Some(text) = find(&source.options, key).or_else(|| setting(opened, key)) {
                *slot =
                    text.parse().map_err(|_| AbiError::invalid(format!("option `{key}` must be a whole number")))?;
            }
        }
        options.check()
    }

    fn check(self) -> Result<Self, AbiError> {
        let bad = |what: &str| Err(AbiError::invalid(format!("gauss: {what}")));
        if !(self.std.is_finite() && self.std > 0.0) {
            return bad("`std` must be above 0");
        }
        for (name, value, most) in [
            ("latent_channels", self.latent_channels, 16),
            ("vae_factor", self.vae_factor, 64),
            ("max_batch", self.max_batch, 1024),
            ("encoders", self.encoders, 2),
            ("upscale", self.upscale, 8),
        ] {
            if value == 0 || value > most {
                return bad(&format!("`{name}` must lie between 1 and {most}"));
            }
        }
        Ok(self)
    }

    /// The description that `diffusion` answers.
    pub(crate) fn desc(&self) -> DiffusionDesc {
        let encoder = |index: u32| EncoderDesc {
            name: if index == 0 { "text_encoder" } else { "text_encoder_2" }.into(),
            max_length: 77,
            hidden_size: 1,
            vocab_size: super::text::VOCAB,
            params: RVec::new(),
        };
        DiffusionDesc {
            latent_channels: self.latent_channels,
            vae_factor: self.vae_factor,
            sample_size: self.sample_size,
            max_batch: self.max_batch,
            encoders: (0..self.encoders).map(encoder).collect(),
            inputs: super::strings(&self.inputs),
            params: vec![
                Param::new("mixed_batch", u8::from(self.mixed_batch)),
                Param::new("encode", 1),
                Param::new("preview_factor", self.vae_factor),
            ]
            .into(),
        }
    }
}
