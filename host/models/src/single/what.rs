//! What a safetensors file is, by the names of its tensors, and the hints about what shapes cannot tell.

use super::{tensors::Tensors, unet, vae};
use crate::{
    error::{ModelError, Result},
    files::FoundFile,
    header::{Dtype, Header},
};
use std::io::{Read, Seek, SeekFrom};

/// Names that tell other kinds of files.
const OTHERS: &[(&str, &str)] = &[
    ("lora_unet_", "a LoRA adapter, not a model (name it in the prompt or the request's adapters)"),
    ("lora_te", "a LoRA adapter, not a model (name it in the prompt or the request's adapters)"),
    ("unet.down_blocks.", "a LoRA adapter, not a model (name it in the prompt or the request's adapters)"),
    ("control_model.", "a ControlNet, not a model"),
    ("controlnet_cond_embedding.", "a ControlNet, not a model"),
    ("model.diffusion_model.joint_blocks.", "Stable Diffusion 3"),
    ("joint_blocks.", "Stable Diffusion 3"),
    ("model.diffusion_model.double_blocks.", "a Flux model"),
    ("double_blocks.", "a Flux model"),
    ("down_blocks.", "a UNet alone under diffusers names (put it into a diffusers folder)"),
    ("encoder.down_blocks.", "a VAE alone"),
    ("encoder.down.", "a VAE alone"),
    ("text_model.", "a text encoder alone"),
    ("emb_params", "a textual-inversion embedding (put it among the embeddings)"),
    ("clip_l", "a textual-inversion embedding (put it among the embeddings)"),
    ("model.layers.", "a language model"),
];

/// A single file must hold a UNet, an autoencoder and a text encoder.
pub(super) fn check_complete(header: &Header) -> Result<()> {
    let has = |prefix: &str| Tensors::new(header, prefix).any();
    for (prefix, what) in OTHERS.iter().filter(|(prefix, _)| prefix.starts_with("model.")) {
        if has(prefix) {
            return Err(ModelError::UnsupportedModel { what: (*what).into() });
        }
    }
    if !has(unet::PREFIX) {
        let known = OTHERS.iter().find(|(prefix, _)| has(prefix)).map(|(_, what)| *what);
        return Err(ModelError::UnsupportedModel { what: known.unwrap_or("a file of unknown tensors").into() });
    }
    if header.tensors.contains_key("edm_mean") {
        return Err(ModelError::UnsupportedModel { what: "an EDM model (Playground 2.5)".into() });
    }
    let missing = |part: &str, remedy: &str| Err(ModelError::MissingPart { part: part.into(), remedy: remedy.into() });
    if !has(vae::PREFIX) {
        return missing("vae", "the file holds no autoencoder; take the full checkpoint, or a diffusers folder");
    }
    if super::clip::encoders(header).is_empty() {
        return missing(
            "text_encoder",
            "the file holds no text encoder; take the full checkpoint, or a diffusers folder",
        );
    }
    Ok(())
}

/// What shapes cannot tell.
pub(super) struct Hints {
    /// The network predicts the velocity.
    pub(super) v_prediction: bool,
    /// The schedule ends in pure noise.
    pub(super) zero_snr: bool,
    /// A few-step model without guidance, by its name.
    pub(super) turbo: bool,
    /// A latent consistency model, by its name.
    pub(super) lcm: bool,
}

impl Hints {
    pub(super) fn read(file: &FoundFile, header: &Header, name: &str) -> Result<Self> {
        let name = name.to_ascii_lowercase();
        let word = |word: &str| {
            name.split(|c: char| !c.is_ascii_alphabetic())
                .any(|part| part == word || part == format!("sd{word}") || part == format!("sdxl{word}"))
        };
        Ok(Self {
            // Trainers of SDXL with velocity prediction leave empty tensors of these names.
            v_prediction: header.tensors.contains_key("v_pred") || sd2_velocity(file, header)?,
            zero_snr: header.tensors.contains_key("ztsnr"),
            turbo: word("turbo"),
            lcm: word("lcm"),
        })
    }
}

/// SD 2 at 512 and at 768 px have the same shapes. The biases of one late norm tell them apart: their standard
/// deviation is above 0.09 in the velocity models (the rule that ComfyUI uses). Inpainting models predict the noise.
fn sd2_velocity(file: &FoundFile, header: &Header) -> Result<bool> {
    let tensors = Tensors::new(header, unet::PREFIX);
    let plain = tensors.shape("input_blocks.0.0.weight").is_some_and(|shape| shape.get(1) != Some(&9));
    if !plain || !Tensors::new(header, "cond_stage_model.model.").any() {
        return Ok(false);
    }
    let name = format!("{}output_blocks.11.1.transformer_blocks.0.norm1.bias", unet::PREFIX);
    let Some(tensor) = header.tensors.get(&name) else { return Ok(false) };
    let bytes = tensor.span.1 - tensor.span.0;
    if bytes > 1 << 16 {
        return Ok(false);
    }
    let data = header.tensors.values().map(|tensor| tensor.span.1).max().unwrap_or(0);
    let start = header.file_bytes - data + tensor.span.0;
    let mut raw = vec![0_u8; usize::try_from(bytes).unwrap_or(0)];
    let mut input = file.open()?;
    let read = input.seek(SeekFrom::Start(start)).and_then(|_| input.read_exact(&mut raw));
    read.map_err(|error| ModelError::io(&file.name, error))?;
    Ok(deviation(&numbers(&raw, tensor.dtype)) > 0.09)
}

fn deviation(values: &[f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n).sqrt()
}

fn numbers(raw: &[u8], dtype: Dtype) -> Vec<f64> {
    let two = || raw.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    match dtype {
        Dtype::F32 => raw.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect(),
        Dtype::Bf16 => two().map(|bits| f64::from(f32::from_bits(u32::from(bits) << 16))).collect(),
        Dtype::F16 => two().map(half).collect(),
        _ => Vec::new(),
    }
}

/// IEEE 754 binary16.
fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from((bits >> 10) & 31), f64::from(bits & 1023) / 1024.0);
    match exponent {
        0 => sign * fraction * 2f64.powi(-14),
        31 => f64::NAN,
        _ => sign * (1.0 + fraction) * 2f64.powi(exponent - 15),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_floats() {
        for (bits, expect) in
            [(0x3c00, 1.0), (0xc000, -2.0), (0x3555, 0.333_251_953_125), (0x0001, 5.960_464_477_539_063e-8), (0, 0.0)]
        {
            assert_eq!(half(bits), expect);
        }
        assert!((deviation(&[1.0, 3.0]) - 1.0).abs() < 1e-12);
    }
}
