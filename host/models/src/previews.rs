//! Preview decoders (TAESD): small networks that show what the latents hold, a model's own or one for its family.

use crate::{
    config::Fields,
    error::{ModelError, Result},
    files::{Folder, Json, MAX_CONFIG_BYTES},
    folder::Prefer,
    header::Header,
    resolved::{Format, ResolvedModel},
    weights,
};
use std::path::PathBuf;

/// Below a models directory: `previews/taesd` and `previews/taesdxl`, each with `config.json` and its weights.
pub(crate) const FOLDER: &str = "previews";
/// The part's name in a model's own folder, and its role for backends.
const ROLE: &str = "taesd";
const STEM: &str = "diffusion_pytorch_model";

/// Gives a model its preview decoder: its own, else the first one for its family. One that cannot be used is told in
/// the log and costs the model nothing: its previews are made without.
pub(crate) fn attach(model: &mut ResolvedModel, own: Option<&Folder>, dirs: &[PathBuf]) {
    if model.format == Format::Onnx {
        return;
    }
    // Models with a second, larger text encoder share SDXL's latents; all others those of SD 1.
    let shared = if model.networks.encoders[1].is_some() { "taesdxl" } else { "taesd" };
    let found = own.map(|folder| (folder.clone(), ROLE)).into_iter().chain(dirs.iter().filter_map(|dir| {
        let path = dir.join(FOLDER);
        let folder = path.is_dir().then(|| Folder::within(&path, dir).ok())??;
        Some((folder, shared))
    }));
    for (folder, sub) in found {
        match decoder(&folder, sub, model.networks.vae.latent_channels) {
            Ok(None) => {}
            Ok(Some((config, files))) => {
                model.configs.push((ROLE, config.text));
                model.files.extend(files.into_iter().map(|file| (ROLE, file)));
                return;
            }
            Err(error) => tracing::warn!(model = %model.name, %error, "a preview decoder is left out"),
        }
    }
}

/// The decoder in `sub`, checked as far as configs and headers tell; `None` if there is none.
fn decoder(folder: &Folder, sub: &str, channels: u64) -> Result<Option<(Json, Vec<PathBuf>)>> {
    let Some(config) = folder.find(&format!("{sub}/config.json"))? else { return Ok(None) };
    let config = config.json(MAX_CONFIG_BYTES)?;
    let fields = Fields::new(&config);
    let class = fields.text("_class_name")?.unwrap_or_default();
    fields.class("_class_name", ROLE, class, &["AutoencoderTiny"])?;
    if fields.uint("latent_channels", 4)? != channels {
        return Err(ModelError::WrongFamily {
            reason: format!("the preview decoder does not read {channels} channels"),
        });
    }
    let mut files = Vec::new();
    let mut decodes = false;
    for file in weights::find(folder, sub, STEM, Prefer::Full)? {
        let header = Header::read(&file)?;
        decodes |= header.tensors.keys().any(|name| name.starts_with("decoder."));
        files.push(file.path);
    }
    if !decodes {
        return Err(ModelError::MissingTensor { file: sub.to_owned(), tensor: "decoder.*".to_owned() });
    }
    Ok(Some((config, files)))
}
