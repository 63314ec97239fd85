//! Which weight files a part of a diffusers folder has: whole or in shards, in one precision or several.

use crate::{
    error::{ModelError, Result},
    files::{Folder, FoundFile, MAX_INDEX_BYTES},
    folder::Prefer,
    header::{foreign, is_pickle_name},
};
use serde_json::Value;
use std::{collections::BTreeSet, io::Read};

/// The most shards of one part.
const MAX_SHARDS: usize = 512;

/// The part's safetensors files in loading order.
///
/// `stem` is `model` for text encoders, `diffusion_pytorch_model` for the rest.
pub(crate) fn find(folder: &Folder, role: &str, stem: &str, prefer: Prefer) -> Result<Vec<FoundFile>> {
    let order: [&str; 4] = match prefer {
        Prefer::Full => ["", "fp16", "bf16", "fp32"],
        Prefer::Half => ["fp16", "bf16", "", "fp32"],
    };
    for variant in order {
        let whole = format!("{role}/{}", whole_name(stem, variant));
        if let Some(file) = folder.find(&whole)? {
            return Ok(vec![file]);
        }
        for index in index_names(stem, variant) {
            if let Some(file) = folder.find(&format!("{role}/{index}"))? {
                return shards(folder, role, &file);
            }
        }
    }
    Err(absent(folder, role, stem))
}

/// `model.safetensors`, `model.fp16.safetensors`.
pub(crate) fn whole_name(stem: &str, variant: &str) -> String {
    if variant.is_empty() { format!("{stem}.safetensors") } else { format!("{stem}.{variant}.safetensors") }
}

/// The new and the old spelling of a variant's shard index.
pub(crate) fn index_names(stem: &str, variant: &str) -> Vec<String> {
    if variant.is_empty() {
        return vec![format!("{stem}.safetensors.index.json")];
    }
    vec![format!("{stem}.safetensors.index.{variant}.json"), format!("{stem}.{variant}.safetensors.index.json")]
}

fn shards(folder: &Folder, role: &str, index: &FoundFile) -> Result<Vec<FoundFile>> {
    let json = index.json(MAX_INDEX_BYTES)?;
    shard_names(&index.name, &json.fields)?.into_iter().map(|name| folder.need(&format!("{role}/{name}"))).collect()
}

/// The distinct shard files of an index, sorted.
pub(crate) fn shard_names(file: &str, index: &serde_json::Map<String, Value>) -> Result<Vec<String>> {
    let bad = |reason: &str| ModelError::BadShardIndex { file: file.to_owned(), reason: reason.to_owned() };
    let Some(Value::Object(map)) = index.get("weight_map") else {
        return Err(bad("it has no object `weight_map`"));
    };
    let mut names = BTreeSet::new();
    for value in map.values() {
        let name = value.as_str().ok_or_else(|| bad("`weight_map` must hold file names"))?;
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        if !plain || name.starts_with('.') || name.len() > 200 {
            return Err(bad("`weight_map` names something that is not a plain file name"));
        }
        if is_pickle_name(name) {
            return Err(ModelError::Pickle { file: name.to_owned() });
        }
        if !name.ends_with(".safetensors") {
            return Err(bad("`weight_map` names a file that is not safetensors"));
        }
        names.insert(name.to_owned());
    }
    if names.is_empty() || names.len() > MAX_SHARDS {
        return Err(bad("it must name from 1 to 512 files"));
    }
    Ok(names.into_iter().collect())
}

/// Says why there are no weights: only a pickle is there, or nothing.
fn absent(folder: &Folder, role: &str, stem: &str) -> ModelError {
    let names = folder.names(role);
    if let Some(name) = names.iter().find(|name| is_pickle_name(name)) {
        return ModelError::Pickle { file: format!("{role}/{name}") };
    }
    for name in names {
        let file = format!("{role}/{name}");
        let Ok(Some(found)) = folder.find(&file) else { continue };
        let mut start = [0_u8; 16];
        let read = found.open().ok().and_then(|mut input| input.read(&mut start).ok());
        if let Some(error) = read.and_then(|n| foreign(&file, &start[..n])) {
            return error;
        }
    }
    ModelError::MissingFile {
        file: format!("{role}/{}", whole_name(stem, "")),
        remedy: "the weights of this part are not there; fetch the model again".into(),
    }
}
