//! Bringing models into the models directory and taking them out.

use crate::{
    error::{ModelError, Result},
    files::{Folder, MAX_CONFIG_BYTES},
    folder::ResolveOptions,
    header::is_pickle_name,
    hub::cache,
    library::{Library, resolve_place},
    name::{ModelName, ModelRef},
    resolved::ResolvedModel,
};
use serde_json::Value;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The most files of a folder that is imported.
const MAX_FILES: usize = 2_000;
/// The deepest sub-folder that is imported; a diffusers folder has one level.
const MAX_DEPTH: usize = 2;

impl Library {
    /// Brings a single file or a diffusers folder into the first models directory, after checking it.
    ///
    /// Files are hard-linked where the disk allows it (no bytes are copied, the original may be deleted afterwards),
    /// else copied. The model appears under its name only when it is whole.
    ///
    /// # Errors
    /// What is wrong with the model; [`ModelError::AlreadyExists`]; [`ModelError::InvalidName`] if neither `name`
    /// nor the file's own name can be asked for.
    pub fn import(&self, source: &Path, name: Option<&str>) -> Result<ResolvedModel> {
        let dir = self
            .dirs
            .first()
            .ok_or(ModelError::NotRemovable { name: "models".into(), reason: "no models directory is configured" })?;
        let stem = source.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let wanted = name.map_or(stem, str::to_owned);
        let wanted = wanted.strip_suffix(".safetensors").unwrap_or(&wanted).to_owned();
        let checked = ModelName::parse(&wanted)?;
        let Some(wanted) = checked.local().map(str::to_owned) else {
            return Err(ModelError::InvalidName { reason: "an imported model needs a plain name, without `/`" });
        };
        let (place, shown) = self.find(&ModelRef::Path(source.to_path_buf()))?;
        resolve_place(&place, &shown, ResolveOptions::default())?;

        let io = |error: io::Error| ModelError::io(&wanted, error);
        fs::create_dir_all(dir).map_err(io)?;
        let is_folder = source.is_dir();
        let target = dir.join(if is_folder { wanted.clone() } else { format!("{wanted}.safetensors") });
        for taken in [dir.join(&wanted), dir.join(format!("{wanted}.safetensors"))] {
            if taken.symlink_metadata().is_ok() {
                return Err(ModelError::AlreadyExists { name: wanted });
            }
        }
        // A dot file is no model's name, so a half-made copy is never listed.
        let temporary = dir.join(format!(".{wanted}.importing"));
        clear(&temporary).map_err(io)?;
        let made = if is_folder {
            copy_folder(source, &temporary, 0, &mut 0).map_err(io)
        } else {
            copy_file(source, &temporary).map_err(io).and_then(|()| bring_notes(source, dir, &wanted))
        };
        if let Err(error) = made.and_then(|()| fs::rename(&temporary, &target).map_err(io)) {
            // The reason of the failure matters more than the rest of the copy.
            let _ = clear(&temporary);
            for rest in beside(dir, &wanted) {
                let _ = clear(&rest);
            }
            return Err(error);
        }
        self.resolve(&ModelRef::Name(checked), ResolveOptions::default())
    }

    /// Removes a model: its folder or file in a models directory, or its repository in the hub's cache.
    /// Returns the bytes that were freed, hard links and shared blobs counted as freed.
    ///
    /// # Errors
    /// [`ModelError::NotFound`]; [`ModelError::NotRemovable`] for the bundled model; [`ModelError::Io`].
    pub fn remove(&self, name: &ModelName) -> Result<u64> {
        let io = |error: io::Error| ModelError::io(name.to_string(), error);
        if let Some(local) = name.local() {
            for dir in &self.dirs {
                for file in [local.to_owned(), format!("{local}.safetensors")] {
                    let path = dir.join(&file);
                    if path.symlink_metadata().is_err() {
                        continue;
                    }
                    if is_bundled(&path, dir)? {
                        let reason = "it came with the program and is what is served by default";
                        return Err(ModelError::NotRemovable { name: name.to_string(), reason });
                    }
                    let bytes = size_of(&path, 0);
                    // Out of sight first: a listing never shows half a model.
                    let gone = dir.join(format!(".{file}.removing"));
                    clear(&gone).map_err(io)?;
                    fs::rename(&path, &gone).map_err(io)?;
                    clear(&gone).map_err(io)?;
                    for rest in beside(dir, local.trim_end_matches(".safetensors")) {
                        clear(&rest).map_err(io)?;
                    }
                    return Ok(bytes);
                }
            }
        }
        if let (Some(id), Some(root)) = (name.hub(), &self.hub_cache) {
            let dir = cache::repo_dir(root, &id);
            if dir.symlink_metadata().is_ok() {
                let bytes = size_of(&dir.join("blobs"), 0);
                clear(&dir).map_err(io)?;
                return Ok(bytes);
            }
        }
        Err(ModelError::NotFound { name: name.to_string(), hint: String::new() })
    }
}

/// Whether a model's own notes say that it belongs to the program.
fn is_bundled(path: &Path, dir: &Path) -> Result<bool> {
    if !path.is_dir() {
        return Ok(false);
    }
    // A link to a model elsewhere is the operator's own, and only the link is removed.
    let Ok(folder) = Folder::within(path, dir) else { return Ok(false) };
    let Some(notes) = folder.find("sd-worker.json")? else { return Ok(false) };
    Ok(notes.json(MAX_CONFIG_BYTES)?.fields.get("bundled") == Some(&Value::Bool(true)))
}

/// What belongs to a single file: its notes, and the tokenizers that were imported with it.
fn beside(dir: &Path, name: &str) -> [PathBuf; 3] {
    ["sd-worker.json", "tokenizer", "tokenizer_2"].map(|part| dir.join(format!("{name}.{part}")))
}

/// Brings `NAME.sd-worker.json` along, and the tokenizers that it names under names of their own.
fn bring_notes(source: &Path, dir: &Path, name: &str) -> Result<()> {
    let notes = source.with_extension("sd-worker.json");
    if !notes.is_file() {
        return Ok(());
    }
    let io = |error: io::Error| ModelError::io(name, error);
    let parent = source.parent().unwrap_or(Path::new("."));
    let label = notes.file_name().map(|file| file.to_string_lossy().into_owned()).unwrap_or_default();
    let from = Folder::of_operator(parent)?;
    let mut fields = from.need(&label)?.json(MAX_CONFIG_BYTES)?.fields;
    let [target, first, second] = beside(dir, name);
    for (key, to) in [("tokenizer", first), ("tokenizer_2", second)] {
        let Some(sub) = fields.get(key).and_then(Value::as_str).map(str::to_owned) else { continue };
        // Resolving the source has made sure that the name stays below its folder.
        copy_folder(&parent.join(sub), &to, MAX_DEPTH, &mut 0).map_err(io)?;
        let own = to.file_name().map(|file| file.to_string_lossy().into_owned()).unwrap_or_default();
        fields.insert(key.to_owned(), own.into());
    }
    fs::write(&target, Value::Object(fields).to_string()).map_err(io)
}

/// Removes what is there, links themselves and never what they point to.
fn clear(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    }
}

/// Links the bytes (not the name) of a file, or copies them.
fn copy_file(source: &Path, target: &Path) -> io::Result<()> {
    let real: PathBuf = source.canonicalize()?;
    fs::hard_link(&real, target).or_else(|_| fs::copy(&real, target).map(|_| ()))
}

/// Everything but pickles and hidden files.
fn copy_folder(source: &Path, target: &Path, depth: usize, count: &mut usize) -> io::Result<()> {
    fs::create_dir_all(target)?;
    for entry in source.read_dir()? {
        let entry = entry?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if text.starts_with('.') || is_pickle_name(&text) {
            continue;
        }
        *count += 1;
        if *count > MAX_FILES {
            return Err(io::Error::other("the folder holds more than 2,000 files"));
        }
        let path = entry.path();
        if path.is_dir() {
            if depth < MAX_DEPTH {
                copy_folder(&path, &target.join(&name), depth + 1, count)?;
            }
        } else if path.is_file() {
            copy_file(&path, &target.join(&name))?;
        }
    }
    Ok(())
}

fn size_of(path: &Path, depth: usize) -> u64 {
    let Ok(meta) = path.symlink_metadata() else { return 0 };
    if !meta.is_dir() {
        return meta.len();
    }
    let Ok(entries) = path.read_dir() else { return 0 };
    if depth > 8 {
        return 0;
    }
    entries.flatten().map(|entry| size_of(&entry.path(), depth + 1)).sum()
}
