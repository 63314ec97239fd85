//! Reading inside a model's boundary: every path is canonical and under its root, every read is bounded.

use crate::error::{ModelError, Result};
use serde_json::{Map, Value};
use std::{
    fs::File,
    io::{self, Read},
    path::{Component, Path, PathBuf},
};

/// The most bytes of a config, index of parts or scheduler file.
pub const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// The most bytes of a shard index (SDXL's UNet has one of some 200 KiB).
pub(crate) const MAX_INDEX_BYTES: u64 = 16 << 20;
/// The most bytes of a tokenizer file (CLIP's vocabulary has 0.9 MiB, a tokenizer.json 2.2 MiB).
pub(crate) const MAX_TOKENIZER_BYTES: u64 = 32 << 20;
/// The deepest nesting in a JSON file; real configs have three levels.
const MAX_DEPTH: usize = 32;

/// A model's folder (or the folder of a single file) and the boundary that no link may leave.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    base: PathBuf,
    boundary: PathBuf,
}

/// A regular file inside the boundary, links resolved.
#[derive(Debug, Clone)]
pub(crate) struct FoundFile {
    /// As named inside the model, for messages.
    pub(crate) name: String,
    /// Canonical.
    pub(crate) path: PathBuf,
    /// Bytes on disk.
    pub(crate) len: u64,
}

impl Folder {
    /// A folder below `boundary`.
    pub(crate) fn within(base: &Path, boundary: &Path) -> Result<Self> {
        let label = base.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let base = base.canonicalize().map_err(|error| ModelError::io(&label, error))?;
        let boundary = boundary.canonicalize().map_err(|error| ModelError::io(&label, error))?;
        if !base.starts_with(&boundary) {
            return Err(ModelError::OutsideRoot { file: label });
        }
        Ok(Self { base, boundary })
    }

    /// A folder that the operator named. Its links may stay inside it, or, in a snapshot of the hub's cache, inside
    /// the repository's folder, where the blobs lie.
    pub(crate) fn of_operator(path: &Path) -> Result<Self> {
        let label = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let base = path.canonicalize().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                ModelError::NotFound { name: label.clone(), hint: ": no such folder or file".into() }
            }
            _ => ModelError::io(&label, error),
        })?;
        let name_of = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        let snapshots = base.parent().filter(|dir| name_of(dir).as_deref() == Some("snapshots"));
        let repo =
            snapshots.and_then(Path::parent).filter(|dir| name_of(dir).is_some_and(|n| n.starts_with("models--")));
        let boundary = repo.unwrap_or(&base).to_path_buf();
        Ok(Self { base, boundary })
    }

    /// A file by its name inside the model; `None` if there is nothing of that name.
    pub(crate) fn find(&self, name: &str) -> Result<Option<FoundFile>> {
        let relative = Path::new(name);
        if name.is_empty() || !relative.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(ModelError::OutsideRoot { file: name.into() });
        }
        let joined = self.base.join(relative);
        let path = match joined.canonicalize() {
            Ok(path) => path,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                if joined.symlink_metadata().is_ok() {
                    let remedy = "its link points to nothing; fetch the model again".to_owned();
                    return Err(ModelError::MissingFile { file: name.into(), remedy });
                }
                return Ok(None);
            }
            Err(error) => return Err(ModelError::io(name, error)),
        };
        if !path.starts_with(&self.boundary) {
            return Err(ModelError::OutsideRoot { file: name.into() });
        }
        // Asked before anything is opened: opening a pipe would wait for a writer.
        let meta = path.metadata().map_err(|error| ModelError::io(name, error))?;
        if !meta.is_file() {
            return Err(ModelError::NotAFile { file: name.into() });
        }
        Ok(Some(FoundFile { name: name.into(), path, len: meta.len() }))
    }

    /// As [`Folder::find`], where the file must be there.
    pub(crate) fn need(&self, name: &str) -> Result<FoundFile> {
        self.find(name)?.ok_or_else(|| ModelError::MissingFile {
            file: name.into(),
            remedy: "the model is incomplete; fetch or copy it again".into(),
        })
    }

    /// The names of the files in a sub-folder, sorted; empty if there is no such folder.
    pub(crate) fn names(&self, sub: &str) -> Vec<String> {
        let Ok(entries) = self.base.join(sub).read_dir() else { return Vec::new() };
        // A hostile folder of millions of entries is not worth a complete listing.
        let mut names: Vec<String> =
            entries.take(10_000).filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort();
        names
    }
}

impl FoundFile {
    pub(crate) fn open(&self) -> Result<File> {
        File::open(&self.path).map_err(|error| ModelError::io(&self.name, error))
    }

    /// Reads text of at most `limit` bytes.
    pub(crate) fn text(&self, limit: u64) -> Result<String> {
        let too_large = || ModelError::JsonTooLarge { file: self.name.clone(), limit };
        if self.len > limit {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        // The file may grow between the check and the read, so the read has the same bound.
        self.open()?.take(limit + 1).read_to_end(&mut bytes).map_err(|error| ModelError::io(&self.name, error))?;
        if bytes.len() as u64 > limit {
            return Err(too_large());
        }
        String::from_utf8(bytes).map_err(|_| self.bad_json("it is not UTF-8".into()))
    }

    /// Reads a JSON object of at most `limit` bytes, and keeps its text.
    pub(crate) fn json(&self, limit: u64) -> Result<Json> {
        let text = self.text(limit)?;
        let fields = parse_object(&self.name, &text)?;
        Ok(Json { file: self.name.clone(), text, fields })
    }

    fn bad_json(&self, reason: String) -> ModelError {
        ModelError::BadJson { file: self.name.clone(), reason }
    }
}

/// A JSON object and the text it was read from.
#[derive(Debug, Clone)]
pub(crate) struct Json {
    pub(crate) file: String,
    pub(crate) text: String,
    pub(crate) fields: Map<String, Value>,
}

/// Parses an object whose nesting is bounded.
pub(crate) fn parse_object(file: &str, text: &str) -> Result<Map<String, Value>> {
    if depth(text) > MAX_DEPTH {
        return Err(ModelError::JsonTooDeep { file: file.into(), limit: MAX_DEPTH });
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(ModelError::BadJson { file: file.into(), reason: "it is not an object".into() }),
        Err(error) => Err(ModelError::BadJson { file: file.into(), reason: error.to_string() }),
    }
}

/// The deepest nesting of brackets outside strings.
fn depth(text: &str) -> usize {
    let (mut deepest, mut now, mut in_string, mut escaped) = (0_usize, 0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                now += 1;
                deepest = deepest.max(now);
            }
            b'}' | b']' if !in_string => now = now.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_ignores_strings() {
        for (text, expect) in
            [("{}", 1), (r#"{"a":[1,{"b":2}]}"#, 3), (r#"{"a":"[[[[{{"}"#, 1), (r#"{"a":"\"[["}"#, 1), ("]]][", 1)]
        {
            assert_eq!(depth(text), expect, "{text}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let (root, out) = (dir.path().join("root"), dir.path().join("out"));
        std::fs::create_dir_all(root.join("m")).unwrap();
        std::fs::create_dir_all(&out).unwrap();
        std::fs::write(out.join("secret"), "x").unwrap();
        std::fs::write(root.join("m/plain"), "x").unwrap();
        std::os::unix::fs::symlink(out.join("secret"), root.join("m/leak")).unwrap();
        std::os::unix::fs::symlink("../../out", root.join("m/dir")).unwrap();
        std::os::unix::fs::symlink("plain", root.join("m/inside")).unwrap();
        std::os::unix::fs::symlink("nowhere", root.join("m/dangling")).unwrap();
        std::os::unix::fs::symlink(&out, root.join("whole")).unwrap();
        let folder = Folder::within(&root.join("m"), &root).unwrap();
        let code = |name: &str| folder.need(name).err().map_or("ok", |error| error.code());
        for (name, expect) in [
            ("plain", "ok"),
            ("inside", "ok"),
            ("leak", "outside_models_dir"),
            ("dir/secret", "outside_models_dir"),
            ("../../out/secret", "outside_models_dir"),
            ("/etc/passwd", "outside_models_dir"),
            ("dangling", "model_file_missing"),
            ("absent", "model_file_missing"),
            ("", "outside_models_dir"),
        ] {
            assert_eq!(code(name), expect, "{name}");
        }
        assert_eq!(Folder::within(&root.join("whole"), &root).unwrap_err().code(), "outside_models_dir");
    }
}
