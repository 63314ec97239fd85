//! `NAME.sd-worker.json` beside `NAME.safetensors`: what shapes cannot tell.
//!
//! Known fields: `family`; `unet`, `vae`, `text_encoder`, `text_encoder_2`, `scheduler` (objects whose fields replace
//! those that were derived); `tokenizer`, `tokenizer_2` (folders beside the file, by default the program's own CLIP
//! tokenizer); and the wishes of [`crate::FamilyDefaults`] (`width`, `height`, `steps`, `guidance_scale`, `sampler`).

use crate::{
    config::Fields,
    error::{ModelError, Result},
    family::Family,
    files::{Folder, Json, MAX_CONFIG_BYTES},
};
use serde_json::{Map, Value};

/// The notes beside a single file, if any.
pub(crate) struct Sidecar(Option<Json>);

impl Sidecar {
    pub(crate) fn read(folder: &Folder, file: &str) -> Result<Self> {
        let stem = file.strip_suffix(".safetensors").unwrap_or(file);
        let found = folder.find(&format!("{stem}.sd-worker.json"))?;
        Ok(Self(found.map(|file| file.json(MAX_CONFIG_BYTES)).transpose()?))
    }

    pub(crate) fn family(&self) -> Result<Option<Family>> {
        self.text("family")?.map(|text| text.parse()).transpose()
    }

    pub(crate) fn text(&self, field: &str) -> Result<Option<&str>> {
        self.0.as_ref().map_or(Ok(None), |json| Fields::new(json).text(field))
    }

    /// Replaces derived fields of one part.
    pub(crate) fn apply(&self, part: &str, config: &mut Map<String, Value>) -> Result<()> {
        let Some(json) = &self.0 else { return Ok(()) };
        match json.fields.get(part) {
            None => Ok(()),
            Some(Value::Object(fields)) => {
                config.extend(fields.clone());
                Ok(())
            }
            Some(_) => Err(ModelError::config(&json.file, part, "must be an object")),
        }
    }

    pub(crate) fn json(&self) -> Option<&Json> {
        self.0.as_ref()
    }
}
