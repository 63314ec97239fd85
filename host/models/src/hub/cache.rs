//! The cache that every Hugging Face program shares: `models--org--name/{refs,snapshots,blobs}`.

use crate::name::HubId;
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use std::{
    io::Read,
    path::{Path, PathBuf},
};

/// Where the shared cache lies: `HF_HUB_CACHE`, else `HF_HOME/hub`, else `~/.cache/huggingface/hub`.
///
/// `None` if none of these and no home directory is known.
#[must_use]
pub fn default_cache_dir() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("HF_HUB_CACHE")
        .or_else(|| set("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| set("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("huggingface").join("hub")))
        .or_else(|| set("HOME").or_else(|| set("USERPROFILE")).map(|home| home.join(".cache/huggingface/hub")))
}

/// hf-hub's view of one repository in the cache.
pub(crate) fn repo(cache: &Path, id: &HubId) -> CacheRepo {
    let repo = Repo::with_revision(id.repo(), RepoType::Model, id.revision().to_owned());
    Cache::new(cache.to_path_buf()).repo(repo)
}

/// The repository's folder, links resolved nowhere.
pub(crate) fn repo_dir(cache: &Path, id: &HubId) -> PathBuf {
    cache.join(Repo::model(id.repo()).folder_name())
}

/// The snapshot of the id's revision, if it was fetched (whole or in part).
pub(crate) fn snapshot(cache: &Path, id: &HubId) -> Option<PathBuf> {
    let dir = repo_dir(cache, id);
    let commit =
        read_ref(&dir, id.revision()).or_else(|| is_commit(id.revision()).then(|| id.revision().to_owned()))?;
    let snapshot = repo(cache, id).pointer_path(&commit);
    snapshot.is_dir().then_some(snapshot)
}

fn read_ref(repo_dir: &Path, revision: &str) -> Option<String> {
    let mut text = String::new();
    let file = std::fs::File::open(repo_dir.join("refs").join(revision)).ok()?;
    file.take(100).read_to_string(&mut text).ok()?;
    let commit = text.trim();
    is_commit(commit).then(|| commit.to_owned())
}

/// A full commit hash. Anything else in a ref would name another directory.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The ids of all models in the cache.
pub(crate) fn list(cache: &Path) -> Vec<String> {
    let Ok(entries) = cache.read_dir() else { return Vec::new() };
    let id = |name: String| {
        let (org, name) = name.strip_prefix("models--")?.split_once("--")?;
        Some(format!("{org}/{name}"))
    };
    let mut ids: Vec<String> =
        entries.take(10_000).filter_map(|entry| id(entry.ok()?.file_name().into_string().ok()?)).collect();
    ids.sort();
    ids
}
