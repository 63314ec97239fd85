//! The models that this machine has: the models directories and the hub's cache.

use crate::{
    aliases, embedding,
    error::{ModelError, Result},
    files::Folder,
    folder::{self, ResolveOptions},
    header::is_pickle_name,
    hub::cache,
    name::{HubId, ModelName, ModelRef},
    previews,
    resolved::ResolvedModel,
    single, upscaler,
};
use std::path::{Path, PathBuf};

/// Where models are looked for.
#[derive(Debug, Clone, Default)]
pub struct Library {
    /// Models directories, first wins. A model is a sub-folder with a `model_index.json`, or a `.safetensors` file.
    pub dirs: Vec<PathBuf>,
    /// The hub's cache, if it may be read.
    pub hub_cache: Option<PathBuf>,
}

/// Where one model was found.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// A diffusers folder.
    Folder(Folder),
    /// A single file: its folder and its name there.
    File(Folder, String),
}

/// The directories in which a bundled model may lie, seen from the running program: `models/` beside the executable,
/// beside its parent (`bin/` and `models/` of a package), or in the source tree around `target/release`.
#[must_use]
pub fn bundled_dirs(executable: &Path) -> Vec<PathBuf> {
    let above = executable.ancestors().skip(1).take(3);
    above.map(|dir| dir.join("models")).filter(|dir| dir.is_dir()).collect()
}

impl Library {
    /// A library over these directories and this cache.
    #[must_use]
    pub fn new(dirs: Vec<PathBuf>, hub_cache: Option<PathBuf>) -> Self {
        Self { dirs, hub_cache }
    }

    /// Finds, reads and checks a model: configs, headers, shapes of all tensors; never the weights themselves.
    ///
    /// # Errors
    /// [`ModelError::NotFound`] if nothing has the name; otherwise what is wrong with the model.
    pub fn resolve(&self, model: &ModelRef, options: ResolveOptions) -> Result<ResolvedModel> {
        let (place, name) = self.find(model)?;
        let mut resolved = resolve_place(&place, &name, options)?;
        let own = match &place {
            Place::Folder(folder) => Some(folder),
            Place::File(..) => None,
        };
        previews::attach(&mut resolved, own, &self.dirs);
        Ok(resolved)
    }

    /// Whether something of this name is here, broken or not.
    #[must_use]
    pub fn contains(&self, name: &ModelName) -> bool {
        self.find(&ModelRef::Name(name.clone())).is_ok()
    }

    /// The place of a model and the name to show for it.
    pub(crate) fn find(&self, model: &ModelRef) -> Result<(Place, String)> {
        match model {
            ModelRef::Path(path) => Ok((place_of_operator(path)?, display_name(path))),
            ModelRef::Name(name) => {
                if let Some(local) = name.local() {
                    for dir in &self.dirs {
                        if let Some(place) = local_place(dir, local)? {
                            return Ok((place, name.to_string()));
                        }
                    }
                }
                if let (Some(id), Some(cache)) = (name.hub(), &self.hub_cache)
                    && let Some(place) = cached_place(cache, &id)?
                {
                    return Ok((place, name.to_string()));
                }
                Err(ModelError::NotFound { name: name.to_string(), hint: self.hint(name) })
            }
        }
    }

    /// A remedy for a name that is not here.
    fn hint(&self, name: &ModelName) -> String {
        if name.hub().is_some() {
            return format!(
                "; fetch it with `sd-worker models pull {name}`, or let the worker fetch what is asked for with `--pull on-demand`"
            );
        }
        let mut known: Vec<String> = self.dirs.iter().flat_map(|dir| local_names(dir)).map(|(name, _)| name).collect();
        known.extend(aliases::SHORT_NAMES.iter().map(|entry| entry.name.to_owned()));
        known.truncate(24);
        format!("; known names: {}", known.join(", "))
    }
}

/// Reads a place.
pub(crate) fn resolve_place(place: &Place, name: &str, options: ResolveOptions) -> Result<ResolvedModel> {
    match place {
        Place::Folder(folder) => folder::resolve(folder, name, options),
        Place::File(folder, file) => single::resolve(folder, file, name, options),
    }
}

/// `dir/name/` or `dir/name[.safetensors]`; `None` if neither is there.
pub(crate) fn local_place(dir: &Path, name: &str) -> Result<Option<Place>> {
    // A models directory that does not exist holds nothing.
    if !dir.is_dir() {
        return Ok(None);
    }
    let path = dir.join(name);
    if path.is_dir() {
        let folder = Folder::within(&path, dir)?;
        return place_in(folder).map(Some);
    }
    let root = Folder::within(dir, dir)?;
    for file in [name.to_owned(), format!("{name}.safetensors")] {
        let is_weights = file.ends_with(".safetensors");
        if is_weights && root.find(&file)?.is_some() {
            return Ok(Some(Place::File(root, file)));
        }
        if is_pickle_name(&file) && dir.join(&file).symlink_metadata().is_ok() {
            return Err(ModelError::Pickle { file });
        }
    }
    for ending in ["ckpt", "pt", "bin"] {
        let file = format!("{name}.{ending}");
        if dir.join(&file).symlink_metadata().is_ok() {
            return Err(ModelError::Pickle { file });
        }
    }
    Ok(None)
}

/// The snapshot of a hub id; links may lead to the blobs of the same repository and nowhere else.
pub(crate) fn cached_place(cache: &Path, id: &HubId) -> Result<Option<Place>> {
    let Some(snapshot) = cache::snapshot(cache, id) else { return Ok(None) };
    place_in(Folder::within(&snapshot, &cache::repo_dir(cache, id))?).map(Some)
}

fn place_of_operator(path: &Path) -> Result<Place> {
    if path.is_dir() {
        return place_in(Folder::of_operator(path)?);
    }
    let name = display_name(path);
    if is_pickle_name(&name) && path.exists() {
        return Err(ModelError::Pickle { file: name });
    }
    // The operator's own link to a file is followed: resolve first, then look at it where it lies.
    let real = path
        .canonicalize()
        .map_err(|_| ModelError::NotFound { name: name.clone(), hint: ": no such folder or file".into() })?;
    let (Some(parent), Some(file)) = (real.parent(), real.file_name().and_then(|name| name.to_str())) else {
        return Err(ModelError::NotAFile { file: name });
    };
    Ok(Place::File(Folder::of_operator(parent)?, file.to_owned()))
}

/// A folder with a model index, or with nothing but one single file.
fn place_in(folder: Folder) -> Result<Place> {
    if folder.find("model_index.json")?.is_some() {
        return Ok(Place::Folder(folder));
    }
    let names = folder.names("");
    let files: Vec<&String> = names.iter().filter(|name| name.ends_with(".safetensors")).collect();
    if let [file] = files.as_slice() {
        let file = (*file).clone();
        return Ok(Place::File(folder, file));
    }
    // Several files and no index: the missing index is the better message.
    Ok(Place::Folder(folder))
}

/// The models of one directory: name, and whether the name can be asked for.
pub(crate) fn local_names(dir: &Path) -> Vec<(String, bool)> {
    let (Ok(entries), Ok(root)) = (dir.read_dir(), dir.canonicalize()) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .take(10_000)
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let path = dir.join(&name);
            let inside = path.canonicalize().is_ok_and(|real| real.starts_with(&root));
            let is_model = if path.is_dir() && [embedding::FOLDER, upscaler::FOLDER].contains(&name.as_str()) {
                false
            } else if path.is_dir() {
                // What a link out of the directory leads to is not looked into; asking for it says why.
                !inside
                    || path.join("model_index.json").exists()
                    || path
                        .read_dir()
                        .ok()?
                        .take(1_000)
                        .flatten()
                        .any(|file| file.file_name().to_string_lossy().ends_with(".safetensors"))
            } else {
                name.ends_with(".safetensors")
            };
            is_model.then(|| name.strip_suffix(".safetensors").map(str::to_owned).unwrap_or(name))
        })
        .collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .map(|name| {
            let good = ModelName::parse(&name).is_ok_and(|n| n.local().is_some());
            (name, good)
        })
        .collect()
}

fn display_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.to_string_lossy().into_owned(), |name| name.to_string_lossy().into_owned())
}
