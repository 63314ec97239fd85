//! The checksum by which picture metadata names a model: the first ten digits of the weight file's SHA-256, as
//! AUTOMATIC1111 writes it.

use crate::{
    error::{ModelError, Result},
    resolved::{ResolvedModel, hex},
};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    path::Path,
    time::UNIX_EPOCH,
};

/// The most entries and bytes of the cache file.
const MAX_ENTRIES: usize = 10_000;
const MAX_CACHE_BYTES: u64 = 4 << 20;

impl ResolvedModel {
    /// Hex SHA-256 of the checkpoint, or of the (first) UNet file of a folder, which has no single file.
    ///
    /// Reads the whole file (seconds for gigabytes) unless `cache`, a JSON file that this function keeps, knows a
    /// file of the same path, size and time of change.
    ///
    /// # Errors
    /// [`ModelError::Io`] if the file cannot be read. A cache that cannot be read or written is ignored.
    pub fn sha256(&self, cache: Option<&Path>) -> Result<String> {
        let main = self.files.iter().find(|(role, _)| matches!(*role, "checkpoint" | "unet"));
        let (role, path) =
            main.ok_or_else(|| ModelError::MissingPart { part: "unet".into(), remedy: String::new() })?;
        let key = key(path);
        let mut known = cache.map(read).unwrap_or_default();
        if let Some(sum) = key.as_ref().and_then(|key| known.get(key)) {
            return Ok(sum.clone());
        }
        let sum = sum(path).map_err(|error| ModelError::io(*role, error))?;
        if let (Some(cache), Some(key)) = (cache, key) {
            if known.len() >= MAX_ENTRIES {
                known.clear();
            }
            known.insert(key, sum.clone());
            write(cache, &known);
        }
        Ok(sum)
    }

    /// The ten digits that A1111 writes as `Model hash`. See [`ResolvedModel::sha256`].
    ///
    /// # Errors
    /// As [`ResolvedModel::sha256`].
    pub fn short_hash(&self, cache: Option<&Path>) -> Result<String> {
        self.sha256(cache).map(|sum| sum.chars().take(10).collect())
    }
}

fn sum(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

fn key(path: &Path) -> Option<String> {
    let meta = path.metadata().ok()?;
    let changed = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(format!("{}|{}|{}", path.to_string_lossy(), meta.len(), changed.as_nanos()))
}

fn read(cache: &Path) -> BTreeMap<String, String> {
    let mut text = String::new();
    let read = File::open(cache).and_then(|file| file.take(MAX_CACHE_BYTES).read_to_string(&mut text));
    read.ok().and_then(|_| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// Through a temporary file, so that two processes never leave half a cache.
fn write(cache: &Path, known: &BTreeMap<String, String>) {
    let Ok(text) = serde_json::to_string(known) else { return };
    let temporary = cache.with_extension(format!("{}.tmp", std::process::id()));
    let written = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, cache));
    if let Err(error) = written {
        tracing::debug!(%error, "the cache of checksums was not written");
    }
}
