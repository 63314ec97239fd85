//! Asking a library what it is, in a child with a time limit; and remembering the answer.

use super::Limits;
#[cfg(target_os = "linux")]
use super::{
    process::{Patience, Process},
    wire::{Reply, Request},
};
use crate::{
    PluginError,
    load::{self, Description},
    pinned::Pinned,
};
use backend_api::HwDevice;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

/// Asks a library in this process.
#[cfg(not(target_os = "linux"))]
pub(crate) fn probe(
    _: &[OsString],
    library: &Pinned,
    hardware: &[HwDevice],
    _: Limits,
) -> Result<Description, PluginError> {
    load::describe(load::open(library.path())?, library.path(), hardware)
}

/// Asks a library in a child of its own.
#[cfg(target_os = "linux")]
pub(crate) fn probe(
    command: &[OsString],
    library: &Pinned,
    hardware: &[HwDevice],
    limits: Limits,
) -> Result<Description, PluginError> {
    let file = load::file_name(library.path());
    let failed = |reason: String| PluginError::Child { file: file.clone(), reason };
    let host = crate::host_ref(|_, _, _| ());
    let process = Process::spawn(command, library, 0, limits, host)
        .map_err(|e| failed(format!("its process does not start: {}", e.kind())))?;
    let request = Request::Probe { hardware: hardware.iter().map(Into::into).collect() };
    let answer = process.call(&request, None, Patience::Progress(limits.probe));
    let answer = answer.map_err(|e| failed(format!("while it was asked what it is: {}", e.message)))?;
    match answer {
        Reply::Described(about) => Ok(about),
        Reply::Refused { code, reason } => Err(match code.as_str() {
            "plugin_not_loadable" => PluginError::Loader { file, reason },
            "plugin_interface_mismatch" => PluginError::Interface { file, reason },
            "plugin_not_a_library" => PluginError::NotALibrary { file, reason },
            _ => PluginError::Misbehaved { file, reason },
        }),
        _ => Err(failed(process.nonsense().message.to_string())),
    }
}

/// Answers of earlier probes, by what would change them.
#[derive(Default)]
pub(crate) struct Cache {
    file: Option<PathBuf>,
    known: BTreeMap<String, Known>,
    changed: bool,
}

#[derive(Serialize, Deserialize, Clone, PartialEq)]
struct Known {
    size: u64,
    /// Nanoseconds since 1970.
    modified: u64,
    /// The machine and this program's version.
    world: String,
    about: Description,
}

/// The longest cache file that is read.
const MOST: u64 = 4 << 20;

impl Cache {
    /// Reads the cache of a folder. A missing or broken file is an empty cache.
    pub(crate) fn open(folder: Option<&Path>) -> Self {
        let file = folder.map(|f| f.join("plugin-probes.json"));
        let text = file.as_deref().filter(|f| f.metadata().is_ok_and(|m| m.len() <= MOST)).map(std::fs::read);
        let known = text.and_then(Result::ok).and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Cache { file, known, changed: false }
    }

    /// The remembered answer, or a new one from `ask`. Failures are not remembered, and neither is an answer that offers
    /// nothing: their cause may lie elsewhere, such as a runtime or a driver that is installed later.
    pub(crate) fn get(
        &mut self,
        path: &Path,
        hardware: &[HwDevice],
        ask: impl FnOnce() -> Result<Description, PluginError>,
    ) -> Result<Description, PluginError> {
        let (Some(_), Some((size, modified))) = (&self.file, stamp(path)) else { return ask() };
        let key = path.to_string_lossy().into_owned();
        let world = world(hardware);
        if let Some(known) = self.known.get(&key)
            && (known.size, known.modified, &known.world) == (size, modified, &world)
            && offers_something(&known.about)
        {
            return Ok(known.about.clone());
        }
        let about = ask()?;
        if offers_something(&about) {
            self.known.insert(key, Known { size, modified, world, about: about.clone() });
            self.changed = true;
        } else {
            self.changed |= self.known.remove(&key).is_some();
        }
        Ok(about)
    }

    /// Writes what is new, by renaming, so that a reader sees a whole file. A failure costs the next start some time.
    pub(crate) fn save(&self) {
        let Some(file) = self.file.as_ref().filter(|_| self.changed) else { return };
        let aside = file.with_extension(format!("{}.tmp", std::process::id()));
        let kept: BTreeMap<_, _> = self.known.iter().filter(|(path, _)| Path::new(path).exists()).collect();
        let written = serde_json::to_vec(&kept).map_err(std::io::Error::from).and_then(|text| {
            file.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            std::fs::write(&aside, text)?;
            std::fs::rename(&aside, file)
        });
        if let Err(e) = written {
            tracing::debug!("answers of plugins are not remembered: {}", e.kind());
        }
    }
}

/// Whether an answer makes the plugin usable here.
fn offers_something(about: &Description) -> bool {
    about.offers.iter().any(|offer| offer.score > 0)
}

fn stamp(path: &Path) -> Option<(u64, u64)> {
    let meta = path.metadata().ok()?;
    let modified = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((meta.len(), u64::try_from(modified.as_nanos()).ok()?))
}

/// What else an answer depends on: the machine, and this program.
fn world(hardware: &[HwDevice]) -> String {
    let text = format!("{} {hardware:?}", env!("CARGO_PKG_VERSION"));
    Sha256::digest(text).iter().take(16).map(|b| format!("{b:02x}")).collect()
}
