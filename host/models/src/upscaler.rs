//! Upscalers: ESRGAN networks as single safetensors files in `upscalers/` of a models directory.
//!
//! Only the header is read: it tells the factor. The three ways to name the tensors are those of ESRGAN's first and second
//! form and of BasicSR (Real-ESRGAN).

use crate::{
    drop_ins,
    error::{ModelError, Result},
    files::Folder,
    header::{Header, is_pickle_name},
    library::Library,
};
use sha2::{Digest, Sha256};
use std::path::PathBuf;

/// The folder's name.
pub(crate) const FOLDER: &str = "upscalers";
/// The most files of one folder that are looked at.
const MAX_FILES: usize = 1_000;

/// A file in an `upscalers` folder.
#[derive(Debug)]
pub struct UpscalerFile {
    /// The file's name without its ending.
    pub name: String,
    /// What it is, or why it cannot be used.
    pub upscaler: Result<UpscalerModel>,
}

/// An upscaler whose header was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpscalerModel {
    /// Canonical.
    pub path: PathBuf,
    /// Output pixels per input pixel, in each direction.
    pub factor: u32,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Changes with the file's header.
    pub fingerprint: String,
}

impl Library {
    /// All files in the `upscalers` folders, sorted by name; of equal names the first directory's wins.
    #[must_use]
    pub fn upscalers(&self) -> Vec<UpscalerFile> {
        let found = drop_ins::list(self.dirs.iter(), FOLDER, MAX_FILES, check);
        found.into_iter().map(|(name, upscaler)| UpscalerFile { name, upscaler }).collect()
    }
}

fn check(folder: &Folder, name: &str) -> Result<UpscalerModel> {
    if is_pickle_name(name) {
        return Err(ModelError::Pickle { file: name.to_owned() });
    }
    let file = folder.need(name)?;
    let header = Header::read(&file)?;
    let factor = factor(&header).ok_or_else(|| ModelError::UnsupportedFormat {
        file: name.to_owned(),
        format: "no ESRGAN network (the architecture of upscalers that is run)",
    })?;
    // The header alone does not change when only the weights do: the time tells that.
    let time = file.path.metadata().and_then(|meta| meta.modified()).ok();
    let fingerprint = Sha256::new().chain_update(header.digest).chain_update(format!("{time:?}")).finalize();
    let fingerprint = fingerprint.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(UpscalerModel { path: file.path, factor, file_bytes: file.len, fingerprint })
}

/// The factor that the tensors' names and shapes tell; `None` for anything but an ESRGAN network.
fn factor(header: &Header) -> Option<u32> {
    let prefixes = ["", "params_ema.", "params."];
    let has = |name: String| header.tensors.contains_key(&name);
    let inputs = |name: String| header.tensors.get(&name).filter(|t| t.shape.len() == 4).map(|t| t.shape[1]);
    prefixes.into_iter().find_map(|prefix| {
        let new = ["body.0.rdb1.conv1", "RRDB_trunk.0.RDB1.conv1"]
            .into_iter()
            .any(|name| has(format!("{prefix}{name}.weight")));
        let old = has(format!("{prefix}model.1.sub.0.RDB1.conv1.0.weight"));
        let (first, enlargements) = if new {
            ("conv_first", 2)
        } else {
            // Each enlargement takes three places: itself, its convolution, an activation.
            let last = |ups: &u32| has(format!("{prefix}model.{}.weight", 4 + 3 * ups));
            ("model.0", old.then(|| (0..=3).rev().find(last)).flatten()?)
        };
        // Pixels may have been folded into channels first.
        let fold = [1u64, 2, 4].into_iter().find(|f| inputs(format!("{prefix}{first}.weight")) == Some(3 * f * f))?;
        let factor = (1 << enlargements) / fold as u32;
        (factor > 0).then_some(factor)
    })
}
