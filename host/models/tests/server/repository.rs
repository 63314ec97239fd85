//! A repository of the hub, and what an honest hub answers about it.

use super::Reply;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Its commit.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Its name.
pub(crate) const REPO: &str = "acme/tiny";

/// Small letters, as the hub writes checksums.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The SD 1.5 fixture as a repository, with files that nobody needs around it. `root`: the source tree.
pub(crate) fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let root = root.join("tests/fixtures/models/sd15");
    let mut files = BTreeMap::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in root.join(&folder).read_dir().unwrap().flatten() {
            let name = folder.join(entry.file_name());
            if entry.path().is_dir() {
                folders.push(name);
            } else {
                files.insert(name.to_str().unwrap().replace('\\', "/"), fs::read(entry.path()).unwrap());
            }
        }
    }
    for unwanted in [
        "README.md",
        "safety_checker/model.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "v1.ckpt",
        "../evil",
        "vae/.hidden",
    ] {
        files.insert(unwanted.into(), b"nobody needs this".to_vec());
    }
    files
}

/// The hub's list of the files.
pub(crate) fn listing(files: &BTreeMap<String, Vec<u8>>) -> String {
    let sibling = |(name, bytes): (&String, &Vec<u8>)| {
        let sum = hex(&Sha256::digest(bytes));
        let mut entry = json!({ "rfilename": name, "size": bytes.len(), "blobId": sum[..40].to_owned() });
        if name.ends_with(".safetensors") || name.ends_with(".bin") {
            entry["lfs"] = json!({ "sha256": sum, "size": bytes.len(), "pointerSize": 130 });
        }
        entry
    };
    json!({ "sha": COMMIT, "siblings": files.iter().map(sibling).collect::<Vec<_>>() }).to_string()
}

/// What an honest hub answers.
pub(crate) fn honest(files: &BTreeMap<String, Vec<u8>>, path: &str, range: Option<u64>) -> Reply {
    if path.starts_with("/api/models/acme/tiny/revision/") {
        return Reply::ok(listing(files).into_bytes());
    }
    let name = path.strip_prefix(&format!("/{REPO}/resolve/{COMMIT}/"));
    match name.and_then(|name| files.get(name)) {
        Some(bytes) => Reply::ranged(bytes, range),
        None => Reply::status(404),
    }
}
