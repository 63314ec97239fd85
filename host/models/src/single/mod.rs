//! A single safetensors file that holds every part under the original (LDM) key names, as Civitai and the first
//! releases ship them. Its configs are derived from the shapes of its tensors, so that odd sizes work too.

mod clip;
mod schedulers;
mod sidecar;
mod tensors;
mod unet;
mod vae;
mod what;

use crate::{
    config::{clip::ClipConfig, unet::UnetConfig, vae::VaeConfig},
    defaults::{FamilyDefaults, SchedulerFacts, Seed},
    error::{ModelError, Result},
    family::{Facts, Family},
    files::{Folder, Json},
    folder::{ResolveOptions, check_fit},
    header::Header,
    layout,
    memory::Weights,
    resolved::{Format, Networks, ResolvedModel, Tokenizer, TokenizerSource, fingerprint},
    tokenizer,
};
use clip::{Encoder, Naming};
use serde_json::{Map, Value};
use sidecar::Sidecar;
use tensors::Tensors;

/// Tokens of the CLIP tokenizer that the program carries.
const CLIP_VOCABULARY: u64 = 49_408;

/// Reads and checks a single file.
pub(crate) fn resolve(folder: &Folder, file: &str, name: &str, options: ResolveOptions) -> Result<ResolvedModel> {
    let found = folder.need(file)?;
    let header = Header::read(&found)?;
    what::check_complete(&header)?;
    let sidecar = Sidecar::read(folder, file)?;

    let mut parts = Parts { file, sidecar: &sidecar, configs: Vec::new() };
    let mut encoders: [Option<ClipConfig>; 2] = [None, None];
    let found_encoders = clip::encoders(&header);
    for encoder in &found_encoders {
        let config = parts.encoder(&header, encoder)?;
        encoders[usize::from(encoder.role == "text_encoder_2")] = Some(config);
    }
    let pooled = encoders[1].as_ref().map(|encoder| encoder.projection.unwrap_or(encoder.hidden));
    let hints = what::Hints::read(&found, &header, name)?;

    // Size and scaling depend on the family, the family on the networks: derive first, then say the size.
    let mut unet_fields = unet::derive(&Tensors::new(&header, unet::PREFIX), pooled, 64)?;
    sidecar.apply("unet", &mut unet_fields)?;
    let unet = UnetConfig::parse(&parts.json("unet", &unet_fields)?)?;
    let xl = unet.text_time.is_some();
    let mut vae_fields = vae::derive(&Tensors::new(&header, vae::PREFIX), xl, 512)?;
    sidecar.apply("vae", &mut vae_fields)?;
    let vae = VaeConfig::parse(&parts.json("vae", &vae_fields)?)?;
    check_fit(&unet, &encoders)?;
    Tensors::new(&header, unet::PREFIX).check("UNet", &layout::unet::layout(&unet))?;
    Tensors::new(&header, vae::PREFIX).check("VAE", &layout::vae::layout(&vae))?;

    let facts = Facts {
        unet: &unet,
        encoders: [encoders[0].as_ref(), encoders[1].as_ref()],
        latent_channels: vae.latent_channels,
        scheduler_class: if hints.lcm { "LCMScheduler" } else { "EulerDiscreteScheduler" },
        v_prediction: hints.v_prediction,
        trailing: hints.turbo,
        zero_snr: hints.zero_snr,
    };
    let derived = facts.family()?;
    let named = options.family.or(sidecar.family()?);
    let family = named.unwrap_or(derived);
    // Who names the family knows what it predicts; the hint is for the rest (velocity models of SDXL).
    let v_prediction = if named.is_some() { family == Family::Sd2V } else { hints.v_prediction };

    let narrow = unet.down.first().is_some_and(|block| block.channels < unet::NARROW);
    let latent = latent_side(family, narrow);
    unet_fields.entry("sample_size").and_modify(|size| replace_default(size, 64, latent));
    vae_fields.entry("sample_size").and_modify(|size| replace_default(size, 512, latent * vae.downscale()));
    let unet = UnetConfig::parse(&parts.json("unet", &unet_fields)?)?;
    parts.keep("unet", &unet_fields);
    parts.keep("vae", &vae_fields);

    let mut scheduler_fields = match schedulers::scheduler(family, hints.zero_snr, v_prediction) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    sidecar.apply("scheduler", &mut scheduler_fields)?;
    let scheduler_json = parts.json("scheduler", &scheduler_fields)?;
    let scheduler = SchedulerFacts::parse(&scheduler_json)?;
    let mut defaults = FamilyDefaults::new(&Seed {
        family,
        scheduler: &scheduler,
        sample_size: unet.sample_size,
        vae_downscale: vae.downscale(),
        unet_halvings: unet.down.len() - 1,
        latent_channels: vae.latent_channels,
        time_cond: unet.time_cond,
        force_zeros: None,
        aesthetic_score: None,
    });
    if let Some(wishes) = sidecar.json() {
        defaults.apply(wishes)?;
    }
    let tokenizers = tokenizers(folder, &sidecar, &found_encoders, &encoders)?;
    let configs = parts.configs;
    Ok(ResolvedModel {
        name: name.to_owned(),
        family,
        format: Format::SingleFile,
        fingerprint: fingerprint(&[("checkpoint", &header)], &configs, &scheduler_json.text),
        files: vec![("checkpoint", found.path)],
        configs,
        scheduler: scheduler_json.text,
        scheduler_facts: scheduler,
        tokenizers,
        defaults,
        weights: sums(&header, &found_encoders),
        networks: Networks { unet, vae, encoders },
    })
}

/// The size a family was trained at, in latent pixels.
fn latent_side(family: Family, narrow: bool) -> u64 {
    match family {
        // Test networks are not slowed down by a size that they were not made for.
        _ if narrow => 16,
        Family::Sd2V => 96,
        Family::SdxlTurbo => 64,
        family if family.is_xl() => 128,
        _ => 64,
    }
}

/// Replaces the placeholder; a size from the sidecar differs from it and stays.
fn replace_default(value: &mut Value, placeholder: u64, size: u64) {
    if value.as_u64() == Some(placeholder) {
        *value = Value::from(size);
    }
}

/// Collects the config texts.
struct Parts<'a> {
    file: &'a str,
    sidecar: &'a Sidecar,
    configs: Vec<(&'static str, String)>,
}

impl Parts<'_> {
    /// Derived fields as if they had been read from a file.
    fn json(&self, part: &str, fields: &Map<String, Value>) -> Result<Json> {
        let file = format!("{} ({part})", self.file);
        let text = text_of(fields);
        Ok(Json { file, text, fields: fields.clone() })
    }

    fn keep(&mut self, role: &'static str, fields: &Map<String, Value>) {
        self.configs.push((role, text_of(fields)));
    }

    fn encoder(&mut self, header: &Header, encoder: &Encoder) -> Result<ClipConfig> {
        let tensors = Tensors::new(header, encoder.prefix);
        let mut fields = clip::derive(&tensors, encoder)?;
        self.sidecar.apply(encoder.role, &mut fields)?;
        let config = ClipConfig::parse(&self.json(encoder.role, &fields)?, encoder.projected)?;
        tensors.check("text encoder", &layout::clip::layout(&config))?;
        self.keep(encoder.role, &fields);
        Ok(config)
    }
}

fn text_of(fields: &Map<String, Value>) -> String {
    Value::Object(fields.clone()).to_string()
}

fn tokenizers(
    folder: &Folder,
    sidecar: &Sidecar,
    found: &[Encoder],
    encoders: &[Option<ClipConfig>; 2],
) -> Result<Vec<Tokenizer>> {
    let mut tokenizers = Vec::new();
    for encoder in found {
        let second = encoder.role == "text_encoder_2";
        let Some(config) = &encoders[usize::from(second)] else { continue };
        if let Some(sub) = sidecar.text(if second { "tokenizer_2" } else { "tokenizer" })? {
            tokenizers.push(tokenizer::find(folder, encoder.role, sub, config)?);
            continue;
        }
        if config.vocab < CLIP_VOCABULARY {
            let reason =
                format!("its text encoder knows {} tokens, CLIP's tokenizer makes {CLIP_VOCABULARY}", config.vocab);
            return Err(ModelError::BadTokenizer { file: encoder.role.into(), reason });
        }
        let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        tokenizers.push(Tokenizer {
            encoder: encoder.role,
            source: TokenizerSource::EmbeddedClip,
            settings: [None, None],
            // OpenCLIP was trained with zeros behind the text, and id 0 is `!`.
            pad_token: if encoder.naming == Naming::OpenClip { "!".into() } else { "<|endoftext|>".into() },
            max_length: narrow(config.positions),
            vocab_size: narrow(config.vocab),
        });
    }
    Ok(tokenizers)
}

fn sums(header: &Header, encoders: &[Encoder]) -> Weights {
    let mut weights = Weights { file_bytes: header.file_bytes, ..Weights::default() };
    for (name, tensor) in &header.tensors {
        let part = if name.starts_with(unet::PREFIX) {
            "unet"
        } else if name.starts_with(vae::PREFIX) {
            "vae"
        } else if let Some(encoder) = encoders.iter().find(|encoder| name.starts_with(encoder.prefix)) {
            encoder.role
        } else {
            // Averaged copies, losses and schedules of the training: nobody loads them.
            continue;
        };
        weights.add_tensor(part, tensor);
    }
    weights
}
