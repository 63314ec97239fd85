//! A folder with an ONNX graph for each part: `unet/model.onnx`, `vae_decoder/model.onnx` … as optimum exports it.
//!
//! The graphs themselves are the runtime's to read; here their configs are read and their files found and looked at.

use crate::{
    config::{clip::ClipConfig, unet::UnetConfig, vae::VaeConfig},
    error::{ModelError, Result},
    files::{Folder, FoundFile, Json, MAX_CONFIG_BYTES},
    header::Header,
};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, io::Read, path::PathBuf};

/// Bytes of a graph that identify it, with its size.
const IDENTITY_BYTES: u64 = 1 << 20;

/// Encoders, UNet, VAE.
type Networks = ([Option<ClipConfig>; 2], UnetConfig, VaeConfig);

/// Whether a folder is such an export.
pub(crate) fn is_export(folder: &Folder) -> Result<bool> {
    Ok(folder.find("unet/model.onnx")?.is_some())
}

/// What the files would be as 32-bit numbers.
pub(crate) fn parameters(file_bytes: u64) -> u64 {
    file_bytes / 4
}

/// Finds every part and keeps its file and config.
pub(crate) fn parts(
    folder: &Folder,
    headers: &mut Vec<(&'static str, Header)>,
    files: &mut Vec<(&'static str, PathBuf)>,
    configs: &mut Vec<(&'static str, String)>,
) -> Result<Networks> {
    if folder.find("text_encoder_2/model.onnx")?.is_some() {
        return Err(ModelError::UnsupportedModel { what: "an ONNX export with two text encoders (SDXL)".into() });
    }
    for (role, file, optional) in [
        ("onnx_text_encoder", "text_encoder/model.onnx", false),
        ("onnx_unet", "unet/model.onnx", false),
        ("onnx_vae_decoder", "vae_decoder/model.onnx", false),
        ("onnx_vae_encoder", "vae_encoder/model.onnx", true),
    ] {
        let found = if optional { folder.find(file)? } else { Some(folder.need(file)?) };
        let Some(found) = found else { continue };
        headers.push((role, look(&found)?));
        files.push((role, found.path.clone()));
        // Weights beyond 2 GiB lie beside the graph.
        if let Some(data) = folder.find(&format!("{file}_data"))? {
            headers.push((role, digest(&data)?));
        }
    }
    let mut config = |role, file: &str| -> Result<Json> {
        let json = folder.need(file)?.json(MAX_CONFIG_BYTES)?;
        configs.push((role, json.text.clone()));
        Ok(json)
    };
    let encoder = ClipConfig::parse(&config("text_encoder", "text_encoder/config.json")?, false)?;
    let unet = UnetConfig::parse(&config("unet", "unet/config.json")?)?;
    let vae = VaeConfig::parse(&config("vae", "vae_decoder/config.json")?)?;
    Ok(([Some(encoder), None], unet, vae))
}

/// Refuses what cannot be a graph, in the words of the file.
fn look(file: &FoundFile) -> Result<Header> {
    let mut start = [0u8; 1];
    let read = file.open()?.read(&mut start).map_err(|error| ModelError::io(&file.name, error))?;
    // A protobuf message whose first field is the version of the format (field 1, a number).
    if read == 0 || start[0] != 0x08 {
        return Err(ModelError::NotOnnx { file: file.name.clone() });
    }
    digest(file)
}

/// What identifies a file without reading all of it.
fn digest(file: &FoundFile) -> Result<Header> {
    let mut bytes = Vec::new();
    file.open()?.take(IDENTITY_BYTES).read_to_end(&mut bytes).map_err(|error| ModelError::io(&file.name, error))?;
    Ok(Header {
        file: file.name.clone(),
        tensors: BTreeMap::new(),
        metadata: BTreeMap::new(),
        file_bytes: file.len,
        digest: Sha256::digest(&bytes).into(),
    })
}
