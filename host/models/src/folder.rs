//! A diffusers folder: `model_index.json`, a sub-folder for each part.

use crate::{
    config::{Fields, clip::ClipConfig, unet::UnetConfig, vae::VaeConfig},
    defaults::{FamilyDefaults, SchedulerFacts, Seed},
    error::{ModelError, Result},
    family::{Facts, Family},
    files::{Folder, Json, MAX_CONFIG_BYTES},
    header::Header,
    layout,
    memory::Weights,
    onnx,
    resolved::{Format, Networks, ResolvedModel, Tokenizer, fingerprint},
    tokenizer, weights,
};
use serde_json::Value;
use std::path::PathBuf;

/// Which of several copies of the weights to take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Prefer {
    /// The full-precision copy where there is one: the same picture as diffusers by default.
    #[default]
    Full,
    /// The `fp16` variant where there is one: half the bytes to read.
    Half,
}

/// How to read a model.
#[derive(Debug, Clone, Copy, Default)]
pub struct ResolveOptions {
    /// Which copy of the weights.
    pub prefer: Prefer,
    /// Overrides the family that was found (a fine-tune that copied a turbo scheduler; a single file of SD 2).
    pub family: Option<Family>,
}

/// Pipelines whose parts we run. Others share class names of parts, but not their use.
const PIPELINES: &[&str] = &[
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionInstructPix2PixPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    "StableDiffusionXLInstructPix2PixPipeline",
    "LatentConsistencyModelPipeline",
    "LatentConsistencyModelImg2ImgPipeline",
    // What exporters to ONNX write.
    "OnnxStableDiffusionPipeline",
    "ORTStableDiffusionPipeline",
];

/// Reads and checks a whole folder: configs, headers and every tensor's shape; no weights.
pub(crate) fn resolve(folder: &Folder, name: &str, options: ResolveOptions) -> Result<ResolvedModel> {
    let index = folder.need("model_index.json")?.json(MAX_CONFIG_BYTES)?;
    check_pipeline(&index)?;
    let mut reader = Reader {
        folder,
        index: &index,
        prefer: options.prefer,
        headers: Vec::new(),
        files: Vec::new(),
        configs: Vec::new(),
    };

    let scheduler_json = folder.need("scheduler/scheduler_config.json")?.json(MAX_CONFIG_BYTES)?;
    let scheduler = SchedulerFacts::parse(&scheduler_json)?;

    let onnx = onnx::is_export(folder)?;
    let (encoders, unet, vae) = if onnx {
        onnx::parts(folder, &mut reader.headers, &mut reader.files, &mut reader.configs)?
    } else {
        let encoder = reader.encoder("text_encoder", &["CLIPTextModel"])?;
        let encoder_2 = reader.encoder("text_encoder_2", &["CLIPTextModelWithProjection"])?;
        ([encoder, encoder_2], reader.unet()?, reader.vae()?)
    };

    check_fit(&unet, &encoders)?;
    let facts = Facts {
        unet: &unet,
        encoders: [encoders[0].as_ref(), encoders[1].as_ref()],
        latent_channels: vae.latent_channels,
        scheduler_class: &scheduler.class,
        v_prediction: scheduler.prediction == crate::Prediction::V,
        trailing: scheduler.spacing == "trailing",
        zero_snr: scheduler.zero_terminal_snr,
    };
    if unet.out_channels != vae.latent_channels {
        return Err(ModelError::WrongFamily {
            reason: format!("the UNet makes {} channels, the VAE reads {}", unet.out_channels, vae.latent_channels),
        });
    }
    let found = facts.family()?;
    let family = options.family.unwrap_or(found);
    let tokenizers = tokenizers(folder, &encoders)?;

    let fields = Fields::new(&index);
    let mut defaults = FamilyDefaults::new(&Seed {
        family,
        scheduler: &scheduler,
        sample_size: unet.sample_size,
        vae_downscale: vae.downscale(),
        unet_halvings: unet.down.len() - 1,
        latent_channels: vae.latent_channels,
        time_cond: unet.time_cond,
        force_zeros: flag(&fields, "force_zeros_for_empty_prompt")?,
        aesthetic_score: flag(&fields, "requires_aesthetics_score")?,
    });
    if let Some(wishes) = folder.find("sd-worker.json")? {
        defaults.apply(&wishes.json(MAX_CONFIG_BYTES)?)?;
    }

    let mut sums = Weights::default();
    reader.headers.iter().for_each(|(role, header)| sums.add(role, header));
    if onnx {
        sums.parameters = onnx::parameters(sums.file_bytes);
    }
    let identity: Vec<(&str, &Header)> = reader.headers.iter().map(|(role, header)| (*role, header)).collect();
    Ok(ResolvedModel {
        name: name.to_owned(),
        family,
        format: if onnx { Format::Onnx } else { Format::Folder },
        fingerprint: fingerprint(&identity, &reader.configs, &scheduler_json.text),
        files: reader.files,
        configs: reader.configs,
        scheduler: scheduler_json.text,
        scheduler_facts: scheduler,
        tokenizers,
        defaults,
        weights: sums,
        networks: Networks { unet, vae, encoders },
    })
}

fn check_pipeline(index: &Json) -> Result<()> {
    let fields = Fields::new(index);
    let class = fields.text("_class_name")?.ok_or_else(|| fields.bad("_class_name", "is missing"))?;
    for (part, what) in
        [("transformer", "a transformer model (SD3, Flux, PixArt …)"), ("prior", "a cascade"), ("movq", "Kandinsky")]
    {
        if matches!(index.fields.get(part), Some(Value::Array(pair)) if pair.iter().any(|value| !value.is_null())) {
            return Err(ModelError::UnsupportedModel { what: what.into() });
        }
    }
    fields.class("_class_name", "model index", class, PIPELINES)
}

fn flag(fields: &Fields<'_>, field: &str) -> Result<Option<bool>> {
    fields.get(field).map(|_| fields.bool(field, false)).transpose()
}

/// The text encoders' widths are the UNet's context, and the pooled text its added conditioning.
pub(crate) fn check_fit(unet: &UnetConfig, encoders: &[Option<ClipConfig>; 2]) -> Result<()> {
    let wrong = |reason: String| Err(ModelError::WrongFamily { reason });
    let width: u64 = encoders.iter().flatten().map(|encoder| encoder.hidden).sum();
    let context = unet.context();
    if width != context {
        return wrong(format!("the text encoders give {width} numbers a token, the UNet reads {context}"));
    }
    if let (Some(text_time), Some(encoder)) = (unet.text_time, &encoders[1]) {
        let pooled = encoder.projection.unwrap_or(encoder.hidden);
        let ids = text_time.input.checked_sub(pooled).filter(|rest| rest % text_time.time_dim == 0);
        // Six ids: original size, crop, target size; five with an aesthetic score in place of the target size.
        if !matches!(ids.map(|rest| rest / text_time.time_dim), Some(5 | 6)) {
            return wrong(format!(
                "the UNet's added conditioning has {} numbers, which pooled text of {pooled} and time ids of {} do not make",
                text_time.input, text_time.time_dim
            ));
        }
    }
    Ok(())
}

fn tokenizers(folder: &Folder, encoders: &[Option<ClipConfig>; 2]) -> Result<Vec<Tokenizer>> {
    let roles = [("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")];
    let mut found = Vec::new();
    for ((role, sub), encoder) in roles.into_iter().zip(encoders) {
        if let Some(encoder) = encoder {
            found.push(tokenizer::find(folder, role, sub, encoder)?);
        }
    }
    Ok(found)
}

/// Reads the parts of one folder and keeps what it found.
struct Reader<'a> {
    folder: &'a Folder,
    index: &'a Json,
    prefer: Prefer,
    headers: Vec<(&'static str, Header)>,
    files: Vec<(&'static str, PathBuf)>,
    configs: Vec<(&'static str, String)>,
}

impl Reader<'_> {
    /// The class of a part; `None` if the index has none.
    fn class(&self, role: &str) -> Result<Option<&str>> {
        let bad = || ModelError::config(&self.index.file, role, "must be a pair of library and class name");
        match self.index.fields.get(role) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(pair)) => match pair.as_slice() {
                [Value::Null, Value::Null] => Ok(None),
                [Value::String(_) | Value::Null, Value::String(class)] => Ok(Some(class)),
                _ => Err(bad()),
            },
            Some(_) => Err(bad()),
        }
    }

    fn known(&self, role: &str, known: &[&str]) -> Result<bool> {
        let Some(class) = self.class(role)? else { return Ok(false) };
        Fields::new(self.index).class(role, "model index", class, known)?;
        Ok(true)
    }

    fn config(&mut self, role: &'static str) -> Result<Json> {
        let json = self.folder.need(&format!("{role}/config.json"))?.json(MAX_CONFIG_BYTES)?;
        self.configs.push((role, json.text.clone()));
        Ok(json)
    }

    /// Finds the part's files and reads their headers.
    fn weights(&mut self, role: &'static str, stem: &str) -> Result<Vec<Header>> {
        let mut headers = Vec::new();
        for file in weights::find(self.folder, role, stem, self.prefer)? {
            let header = Header::read(&file)?;
            self.files.push((role, file.path));
            headers.push(header);
        }
        self.headers.extend(headers.iter().cloned().map(|header| (role, header)));
        Ok(headers)
    }

    fn need(&self, role: &str, known: &[&str]) -> Result<()> {
        if self.known(role, known)? {
            return Ok(());
        }
        Err(ModelError::MissingPart {
            part: role.into(),
            remedy: "the model index has none; fetch the complete model".into(),
        })
    }

    fn encoder(&mut self, role: &'static str, known: &[&str]) -> Result<Option<ClipConfig>> {
        if !self.known(role, known)? {
            return Ok(None);
        }
        let projected = self.class(role)? == Some("CLIPTextModelWithProjection");
        let config = ClipConfig::parse(&self.config(role)?, projected)?;
        let headers = self.weights(role, "model")?;
        layout::clip::layout(&config).verify(&headers, layout::clip::spelling)?;
        Ok(Some(config))
    }

    fn unet(&mut self) -> Result<UnetConfig> {
        self.need("unet", &["UNet2DConditionModel"])?;
        let config = UnetConfig::parse(&self.config("unet")?)?;
        let headers = self.weights("unet", "diffusion_pytorch_model")?;
        layout::unet::layout(&config).verify(&headers, |_| None)?;
        Ok(config)
    }

    fn vae(&mut self) -> Result<VaeConfig> {
        self.need("vae", &["AutoencoderKL"])?;
        let config = VaeConfig::parse(&self.config("vae")?)?;
        let headers = self.weights("vae", "diffusion_pytorch_model")?;
        layout::vae::layout(&config).verify(&headers, layout::vae::spelling)?;
        Ok(config)
    }
}

/// Looks at every part by itself. `first` is what [`resolve`] failed with, for what no single part shows.
pub(crate) fn problems(folder: &Folder, options: ResolveOptions, first: ModelError) -> Vec<ModelError> {
    let index = match folder.need("model_index.json").and_then(|file| file.json(MAX_CONFIG_BYTES)) {
        Ok(index) => index,
        Err(error) => return vec![error],
    };
    if matches!(onnx::is_export(folder), Ok(true)) {
        return vec![first];
    }
    let mut reader = Reader {
        folder,
        index: &index,
        prefer: options.prefer,
        headers: Vec::new(),
        files: Vec::new(),
        configs: Vec::new(),
    };
    let mut found: Vec<ModelError> = Vec::new();
    found.extend(check_pipeline(&index).err());
    let scheduler = folder.need("scheduler/scheduler_config.json").and_then(|file| file.json(MAX_CONFIG_BYTES));
    found.extend(scheduler.and_then(|json| SchedulerFacts::parse(&json)).err());
    for (role, sub, known) in [
        ("text_encoder", "tokenizer", "CLIPTextModel"),
        ("text_encoder_2", "tokenizer_2", "CLIPTextModelWithProjection"),
    ] {
        match reader.encoder(role, &[known]) {
            Ok(Some(encoder)) => found.extend(tokenizer::find(folder, role, sub, &encoder).err()),
            Ok(None) => {}
            Err(error) => found.push(error),
        }
    }
    found.extend(reader.unet().err());
    found.extend(reader.vae().err());
    if found.is_empty() {
        found.push(first);
    }
    found
}
