//! A model that was found, read and checked: everything that the rest of the program needs to run it.

use crate::{
    config::{clip::ClipConfig, unet::UnetConfig, vae::VaeConfig},
    defaults::{FamilyDefaults, SchedulerFacts},
    family::Family,
    header::Header,
    memory::{self, MemoryEstimate, Precision, Weights},
};
use sha2::{Digest, Sha256};
use std::path::PathBuf;

/// How a model lies on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A diffusers folder.
    Folder,
    /// A folder with an ONNX graph for each part, as optimum exports it.
    Onnx,
    /// One safetensors file with every part under the original (LDM) key names.
    SingleFile,
}

impl Format {
    /// The name in answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Folder => "diffusers",
            Self::Onnx => "onnx",
            Self::SingleFile => "single-file",
        }
    }
}

/// Where a tokenizer comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenizerSource {
    /// A `tokenizer.json`.
    Json(PathBuf),
    /// A `vocab.json` and a `merges.txt`.
    VocabMerges {
        /// Token → id.
        vocab: PathBuf,
        /// Byte-pair merges by rank.
        merges: PathBuf,
    },
    /// The CLIP tokenizer that the program carries (single files hold none).
    EmbeddedClip,
}

/// The tokenizer of one text encoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokenizer {
    /// The role of its text encoder: `text_encoder` or `text_encoder_2`.
    pub encoder: &'static str,
    /// Its files.
    pub source: TokenizerSource,
    /// `tokenizer_config.json` and `special_tokens_map.json`, where there are.
    pub settings: [Option<PathBuf>; 2],
    /// The token that fills a chunk: `<|endoftext|>` for CLIP-L, `!` for OpenCLIP.
    pub pad_token: String,
    /// Tokens of a chunk, start and end included (77).
    pub max_length: u32,
    /// Entries of the encoder's embedding table: no id may reach it.
    pub vocab_size: u32,
}

/// Role → path and role → JSON text, as a plugin receives them (`backend_api::ModelSource` in plain strings).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// A name for log lines.
    pub name: String,
    /// Role → absolute path of a safetensors file or an ONNX graph; a sharded part repeats its role, in order.
    pub files: Vec<(String, String)>,
    /// Role → the text of the part's JSON config.
    pub configs: Vec<(String, String)>,
}

/// A checked model.
#[derive(Debug, Clone)]
pub struct ResolvedModel {
    /// The name by which it was asked for.
    pub name: String,
    /// What it is.
    pub family: Family,
    /// How it lies on disk.
    pub format: Format,
    /// Role → file, in loading order.
    pub files: Vec<(&'static str, PathBuf)>,
    /// Role → JSON text.
    pub configs: Vec<(&'static str, String)>,
    /// The text of `scheduler_config.json`.
    pub scheduler: String,
    /// What the scheduler says about the model.
    pub scheduler_facts: SchedulerFacts,
    /// One tokenizer for each text encoder, in the order of the roles.
    pub tokenizers: Vec<Tokenizer>,
    /// What a request gets when it does not say.
    pub defaults: FamilyDefaults,
    /// Parameters and bytes.
    pub weights: Weights,
    /// Hex SHA-256 over every header, file size and config: the same for the same model under any name.
    pub fingerprint: String,
    pub(crate) networks: Networks,
}

/// The parsed configs, for estimates.
#[derive(Debug, Clone)]
pub(crate) struct Networks {
    pub(crate) unet: UnetConfig,
    pub(crate) vae: VaeConfig,
    pub(crate) encoders: [Option<ClipConfig>; 2],
}

impl ResolvedModel {
    /// The lists that a plugin loads from.
    #[must_use]
    pub fn to_source(&self) -> Source {
        let path = |path: &PathBuf| path.to_string_lossy().into_owned();
        Source {
            name: self.name.clone(),
            files: self.files.iter().map(|(role, file)| ((*role).to_owned(), path(file))).collect(),
            configs: self.configs.iter().map(|(role, text)| ((*role).to_owned(), text.clone())).collect(),
        }
    }

    /// What the model needs for one picture. An estimate from shapes: a backend's own `inspect` knows better.
    #[must_use]
    pub fn estimate(&self, width: u32, height: u32, precision: Precision) -> MemoryEstimate {
        memory::estimate(&self.networks, &self.weights, u64::from(width), u64::from(height), precision)
    }

    /// Context length of each text encoder, in the order of the roles.
    pub fn text_encoders(&self) -> impl Iterator<Item = &'static str> {
        let [first, second] = &self.networks.encoders;
        let first = first.as_ref().map(|_| "text_encoder");
        first.into_iter().chain(second.as_ref().map(|_| "text_encoder_2"))
    }
}

/// Hashes what identifies a model without reading its weights: headers, sizes and configs.
pub(crate) fn fingerprint(headers: &[(&str, &Header)], configs: &[(&'static str, String)], scheduler: &str) -> String {
    let mut hash = Sha256::new();
    for (role, header) in headers {
        hash.update(role.as_bytes());
        hash.update([0]);
        hash.update(header.digest);
        hash.update(header.file_bytes.to_le_bytes());
    }
    for (role, text) in configs.iter().map(|(role, text)| (*role, text.as_str())).chain([("scheduler", scheduler)]) {
        hash.update(role.as_bytes());
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    }
    hex(&hash.finalize())
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
