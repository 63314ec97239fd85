//! A single safetensors file that holds every part under the original (LDM) key names, as Civitai and the first
//! releases ship them.

use crate::{
    error::{ModelError, Result},
    files::Folder,
    folder::ResolveOptions,
    resolved::ResolvedModel,
};

/// Reads and checks a single file.
pub(crate) fn resolve(folder: &Folder, file: &str, _name: &str, _options: ResolveOptions) -> Result<ResolvedModel> {
    let found = folder.need(file)?;
    crate::header::Header::read(&found)?;
    Err(ModelError::UnsupportedModel { what: "a single file".into() })
}
