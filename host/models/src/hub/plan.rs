//! Which of a repository's files a model needs: the parts that its index names, in one precision, nothing else.

use super::HubError;
use crate::{
    error::{ModelError, Result},
    files::{MAX_CONFIG_BYTES, MAX_INDEX_BYTES, parse_object},
    folder::Prefer,
    header::is_pickle_name,
    weights::{index_names, shard_names, whole_name},
};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The most files of a repository that are looked at.
const MAX_FILES: usize = 20_000;
/// The largest file that is fetched.
const MAX_FILE_BYTES: u64 = 1 << 40;

/// A file of the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remote {
    /// Its path in the repository: plain segments with `/` between them.
    pub(super) name: String,
    pub(super) size: u64,
    /// The name of its blob in the cache: the checksum of a large file, the git id of a small one.
    pub(super) blob: String,
    /// Hex SHA-256, which the hub gives for large files.
    pub(super) sha256: Option<String>,
}

/// What the hub says about a revision.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) commit: String,
    pub(super) files: BTreeMap<String, Remote>,
}

impl Listing {
    pub(super) fn parse(repo: &str, text: &str) -> Result<Self> {
        let bad = |reason: &str| HubError::BadAnswer { what: repo.into(), reason: reason.into() };
        let fields = parse_object(repo, text).map_err(|error| bad(&error.to_string()))?;
        let commit = fields.get("sha").and_then(Value::as_str).filter(|sha| super::cache::is_commit(sha));
        let commit = commit.ok_or_else(|| bad("it names no commit"))?.to_ascii_lowercase();
        let Some(Value::Array(siblings)) = fields.get("siblings") else { return Err(bad("it lists no files").into()) };
        if siblings.len() > MAX_FILES {
            return Err(bad("it lists more than 20,000 files").into());
        }
        let files = siblings.iter().filter_map(remote).map(|file| (file.name.clone(), file)).collect();
        Ok(Self { commit, files })
    }

    fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// The files that the model needs, small ones first. `read` fetches a small file and gives its text.
    pub(super) fn plan(&self, prefer: Prefer, read: &mut dyn FnMut(&Remote) -> Result<String>) -> Result<Vec<Remote>> {
        let mut wanted = Vec::new();
        let Some(index) = self.files.get("model_index.json") else { return self.single_file() };
        let fields = self.object(index, MAX_CONFIG_BYTES, read)?;
        wanted.push("model_index.json".to_owned());
        for (part, class) in &fields {
            let Some(class) = class.as_array().and_then(|pair| pair.get(1)).and_then(Value::as_str) else { continue };
            match part.as_str() {
                "scheduler" => wanted.push("scheduler/scheduler_config.json".into()),
                "tokenizer" | "tokenizer_2" => wanted.extend(self.tokenizer(part)),
                "unet" | "vae" => {
                    wanted.push(format!("{part}/config.json"));
                    wanted.extend(self.weights(part, "diffusion_pytorch_model", prefer, read)?);
                }
                "text_encoder" | "text_encoder_2" => {
                    wanted.push(format!("{part}/config.json"));
                    wanted.extend(self.weights(part, "model", prefer, read)?);
                }
                "transformer" => {
                    return Err(ModelError::UnsupportedModel { what: format!("a transformer model (`{class:.64}`)") });
                }
                // Safety checker, feature extractor, image encoder: never used here.
                _ => {}
            }
        }
        if self.has("sd-worker.json") {
            wanted.push("sd-worker.json".into());
        }
        let mut files = Vec::with_capacity(wanted.len());
        for name in wanted {
            let missing = || ModelError::MissingFile {
                file: name.clone(),
                remedy: "the repository lacks it; choose another model".into(),
            };
            files.push(self.files.get(&name).cloned().ok_or_else(missing)?);
        }
        files.sort_by_key(|file| file.size);
        files.dedup();
        Ok(files)
    }

    fn object(
        &self,
        file: &Remote,
        limit: u64,
        read: &mut dyn FnMut(&Remote) -> Result<String>,
    ) -> Result<Map<String, Value>> {
        if file.size > limit {
            return Err(ModelError::JsonTooLarge { file: file.name.clone(), limit });
        }
        parse_object(&file.name, &read(file)?)
    }

    fn tokenizer(&self, part: &str) -> Vec<String> {
        let names = ["vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];
        names.iter().map(|name| format!("{part}/{name}")).filter(|name| self.has(name)).collect()
    }

    fn weights(
        &self,
        part: &str,
        stem: &str,
        prefer: Prefer,
        read: &mut dyn FnMut(&Remote) -> Result<String>,
    ) -> Result<Vec<String>> {
        let order: [&str; 4] = match prefer {
            Prefer::Full => ["", "fp16", "bf16", "fp32"],
            Prefer::Half => ["fp16", "bf16", "", "fp32"],
        };
        for variant in order {
            let whole = format!("{part}/{}", whole_name(stem, variant));
            if self.has(&whole) {
                return Ok(vec![whole]);
            }
            for index in index_names(stem, variant) {
                let index = format!("{part}/{index}");
                let Some(file) = self.files.get(&index) else { continue };
                let shards = shard_names(&index, &self.object(file, MAX_INDEX_BYTES, read)?)?;
                let mut names: Vec<String> = shards.into_iter().map(|name| format!("{part}/{name}")).collect();
                names.push(index);
                return Ok(names);
            }
        }
        let folder = format!("{part}/");
        let pickle = self.files.keys().find(|name| name.starts_with(&folder) && is_pickle_name(name));
        Err(match pickle {
            Some(file) => ModelError::Pickle { file: file.clone() },
            None => ModelError::MissingFile {
                file: format!("{part}/{}", whole_name(stem, "")),
                remedy: "the repository has no safetensors weights for this part".into(),
            },
        })
    }

    /// A repository that is nothing but one checkpoint.
    fn single_file(&self) -> Result<Vec<Remote>> {
        let root = |name: &&String| !name.contains('/');
        let files: Vec<&String> =
            self.files.keys().filter(root).filter(|name| name.ends_with(".safetensors")).collect();
        let index = || "model_index.json".to_owned();
        match files.as_slice() {
            [file] => {
                let sidecar = format!("{}.sd-worker.json", file.trim_end_matches(".safetensors"));
                Ok([&sidecar, *file].into_iter().filter_map(|name| self.files.get(name).cloned()).collect())
            }
            [] => match self.files.keys().filter(root).find(|name| is_pickle_name(name)) {
                Some(file) => Err(ModelError::Pickle { file: file.clone() }),
                None => Err(ModelError::MissingFile {
                    file: index(),
                    remedy: "the repository is neither a diffusers folder nor a single safetensors file".into(),
                }),
            },
            several => Err(ModelError::MissingFile {
                file: index(),
                remedy: format!(
                    "the repository holds {} single files; download the one you want and `sd-worker models import` it",
                    several.len()
                ),
            }),
        }
    }
}

/// One entry of the listing; `None` for names that are of no use to us.
fn remote(entry: &Value) -> Option<Remote> {
    let name = entry.get("rfilename")?.as_str()?;
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
    };
    if name.len() > 255 || !name.split('/').all(plain) {
        return None;
    }
    let lfs = entry.get("lfs");
    let hex = |text: &&str| (40..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    let sha256 = lfs.and_then(|lfs| lfs.get("sha256")?.as_str()).filter(hex).filter(|text| text.len() == 64);
    let blob = sha256.or_else(|| entry.get("blobId")?.as_str().filter(hex))?.to_ascii_lowercase();
    let size = lfs.and_then(|lfs| lfs.get("size")?.as_u64()).or_else(|| entry.get("size")?.as_u64())?;
    (size <= MAX_FILE_BYTES).then(|| Remote {
        name: name.into(),
        size,
        blob,
        sha256: sha256.map(str::to_ascii_lowercase),
    })
}
