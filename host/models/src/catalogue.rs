//! The list of models that this machine has.

use crate::{
    aliases,
    error::ModelError,
    family::Family,
    folder::ResolveOptions,
    hub::cache,
    library::{Library, cached_place, local_names, local_place, resolve_place},
    name::ModelName,
    resolved::{Format, ResolvedModel},
};
use std::time::SystemTime;

/// Where a model came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A models directory.
    Directory,
    /// The hub's cache.
    HubCache,
}

impl Origin {
    /// The name in answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::HubCache => "hub-cache",
        }
    }
}

/// One line of the catalogue.
#[derive(Debug)]
pub struct Entry {
    /// The name to ask for it.
    pub name: String,
    /// The short name of a model from the hub.
    pub short_name: Option<&'static str>,
    /// Where it lies.
    pub origin: Origin,
    /// When its directory or file last changed.
    pub modified: Option<SystemTime>,
    /// The model, if it can be loaded.
    pub model: Option<ResolvedModel>,
    /// Why it cannot.
    pub problem: Option<ModelError>,
}

impl Entry {
    /// Its family, if it can be loaded.
    #[must_use]
    pub fn family(&self) -> Option<Family> {
        self.model.as_ref().map(|model| model.family)
    }

    /// How it lies on disk, if it can be loaded.
    #[must_use]
    pub fn format(&self) -> Option<Format> {
        self.model.as_ref().map(|model| model.format)
    }

    /// Whether it can be loaded.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.model.is_some()
    }
}

impl Library {
    /// Every model in the directories and the cache, sorted by name within each; broken ones with their problem.
    /// Models of the cache that are no Stable Diffusion at all are left out: other programs share it.
    #[must_use]
    pub fn list(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        for dir in &self.dirs {
            for (name, usable) in local_names(dir) {
                if entries.iter().any(|entry| entry.name == name) {
                    // Hidden by a model of the same name in an earlier directory.
                    continue;
                }
                let result = if usable {
                    match local_place(dir, &name) {
                        Ok(Some(place)) => resolve_place(&place, &name, ResolveOptions::default()),
                        Ok(None) => continue,
                        Err(error) => Err(error),
                    }
                } else {
                    Err(ModelError::InvalidName { reason: "its file or folder name cannot be asked for; rename it" })
                };
                let path = dir.join(&name);
                let meta = path.metadata().or_else(|_| dir.join(format!("{name}.safetensors")).metadata());
                entries.push(Entry::new(name, Origin::Directory, meta.ok(), result));
            }
        }
        if let Some(dir) = &self.hub_cache {
            for name in cache::list(dir) {
                let Some(id) = ModelName::parse(&name).ok().and_then(|name| name.hub()) else { continue };
                let Some(place) = cached_place(dir, &id).transpose() else { continue };
                let result = place.and_then(|place| resolve_place(&place, &name, ResolveOptions::default()));
                let foreign =
                    matches!(&result, Err(ModelError::UnsupportedModel { .. } | ModelError::UnknownClass { .. }))
                        || matches!(&result, Err(ModelError::MissingFile { file, .. }) if file == "model_index.json");
                if !foreign {
                    let meta = cache::repo_dir(dir, &id).metadata();
                    entries.push(Entry::new(name, Origin::HubCache, meta.ok(), result));
                }
            }
        }
        entries
    }
}

impl Entry {
    fn new(
        name: String,
        origin: Origin,
        meta: Option<std::fs::Metadata>,
        result: crate::Result<ResolvedModel>,
    ) -> Self {
        let short_name = aliases::SHORT_NAMES.iter().find(|entry| entry.hub == name).map(|entry| entry.name);
        let (model, problem) = match result {
            Ok(model) => (Some(model), None),
            Err(error) => (None, Some(error)),
        };
        Self { name, short_name, origin, modified: meta.and_then(|meta| meta.modified().ok()), model, problem }
    }
}
