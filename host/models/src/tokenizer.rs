//! Where a text encoder's tokenizer lies, and whether it fits the encoder.

use crate::{
    config::clip::ClipConfig,
    error::{ModelError, Result},
    files::{Folder, FoundFile, Json, MAX_CONFIG_BYTES, MAX_TOKENIZER_BYTES},
    resolved::{Tokenizer, TokenizerSource},
};
use serde_json::Value;
use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

/// Finds the tokenizer of the encoder `role` in the folder `sub`.
pub(crate) fn find(folder: &Folder, role: &'static str, sub: &str, encoder: &ClipConfig) -> Result<Tokenizer> {
    let pair = (folder.find(&format!("{sub}/vocab.json"))?, folder.find(&format!("{sub}/merges.txt"))?);
    // vocab.json and merges.txt first: some published tokenizer.json lack the padding rules, none lacks these two.
    let source = match (pair, folder.find(&format!("{sub}/tokenizer.json"))?) {
        ((Some(vocab), Some(merges)), _) => {
            for file in [&vocab, &merges] {
                bounded(file)?;
            }
            TokenizerSource::VocabMerges { vocab: vocab.path, merges: merges.path }
        }
        (_, Some(json)) => {
            bounded(&json)?;
            TokenizerSource::Json(json.path)
        }
        _ => return Err(ModelError::MissingTokenizer { folder: sub.into() }),
    };
    let names = [format!("{sub}/tokenizer_config.json"), format!("{sub}/special_tokens_map.json")];
    let (mut pad_token, mut max_length) = (None, None);
    let mut settings = [None, None];
    for (name, slot) in names.iter().zip(&mut settings) {
        let Some(file) = folder.find(name)? else { continue };
        let json = file.json(MAX_CONFIG_BYTES)?;
        // The special tokens' own file wins over the general one.
        pad_token = token(&json, "pad_token")?.or(pad_token);
        max_length = max_length.or(json.fields.get("model_max_length").and_then(Value::as_u64));
        *slot = Some(file.path);
    }
    let positions = encoder.positions;
    let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    Ok(Tokenizer {
        encoder: role,
        source,
        settings,
        pad_token: pad_token.unwrap_or_else(|| "<|endoftext|>".into()),
        // Some configs say 10^30 for "no bound".
        max_length: narrow(max_length.unwrap_or(positions).min(positions)),
        vocab_size: narrow(encoder.vocab),
    })
}

/// CLIP's merges, from which its vocabulary follows (see the notice beside the file).
const CLIP_MERGES: &[u8] = include_bytes!("../assets/clip/merges.txt.gz");

/// The contents of a tokenizer's files, as far as there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenizerTexts {
    /// `tokenizer.json`.
    pub tokenizer_json: Option<Vec<u8>>,
    /// `vocab.json`.
    pub vocab_json: Option<Vec<u8>>,
    /// `merges.txt`; alone it means CLIP's own vocabulary.
    pub merges_txt: Option<Vec<u8>>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<Vec<u8>>,
    /// `special_tokens_map.json`.
    pub special_tokens_map: Option<Vec<u8>>,
}

impl Tokenizer {
    /// Reads the files, each within its bound. Single files get CLIP's merges.
    ///
    /// # Errors
    /// [`ModelError::Io`], [`ModelError::JsonTooLarge`].
    pub fn read(&self) -> Result<TokenizerTexts> {
        let all = |path: &Path| read_bounded(path, MAX_TOKENIZER_BYTES);
        let small = |path: &Option<PathBuf>| path.as_ref().map(|path| read_bounded(path, MAX_CONFIG_BYTES)).transpose();
        let mut texts = TokenizerTexts {
            tokenizer_config: small(&self.settings[0])?,
            special_tokens_map: small(&self.settings[1])?,
            ..TokenizerTexts::default()
        };
        match &self.source {
            TokenizerSource::Json(path) => texts.tokenizer_json = Some(all(path)?),
            TokenizerSource::VocabMerges { vocab, merges } => {
                texts.vocab_json = Some(all(vocab)?);
                texts.merges_txt = Some(all(merges)?);
            }
            TokenizerSource::EmbeddedClip => {
                let mut merges = Vec::new();
                let read = flate2::read::GzDecoder::new(CLIP_MERGES).read_to_end(&mut merges);
                read.map_err(|error| ModelError::io("merges.txt", error))?;
                texts.merges_txt = Some(merges);
            }
        }
        Ok(texts)
    }
}

fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes));
    read.map_err(|error| ModelError::io(&name, error))?;
    if bytes.len() as u64 > limit {
        return Err(ModelError::JsonTooLarge { file: name, limit });
    }
    Ok(bytes)
}

fn bounded(file: &FoundFile) -> Result<()> {
    if file.len > MAX_TOKENIZER_BYTES {
        return Err(ModelError::JsonTooLarge { file: file.name.clone(), limit: MAX_TOKENIZER_BYTES });
    }
    if file.len == 0 {
        return Err(ModelError::BadTokenizer { file: file.name.clone(), reason: "it is empty".into() });
    }
    Ok(())
}

/// A special token: a string, or an object with `content`.
fn token(json: &Json, field: &str) -> Result<Option<String>> {
    let text = match json.fields.get(field) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(fields)) => fields.get("content").and_then(Value::as_str),
        Some(value) => value.as_str(),
    };
    match text {
        Some(text) if text.len() <= 256 => Ok(Some(text.to_owned())),
        _ => Err(ModelError::config(&json.file, field, "must be a token")),
    }
}

/// Reads a vocabulary whole and compares it with its encoder: an id beyond the embedding table would fail later.
pub(crate) fn check_vocabulary(folder: &Folder, sub: &str, vocab_size: u32) -> Result<()> {
    let name = format!("{sub}/vocab.json");
    let Some(file) = folder.find(&name)? else { return Ok(()) };
    let json = file.json(MAX_TOKENIZER_BYTES)?;
    let bad = |reason: String| ModelError::BadTokenizer { file: name.clone(), reason };
    for (token, id) in &json.fields {
        let id = id.as_u64().ok_or_else(|| bad(format!("token `{token:.32}` has no number")))?;
        if id >= u64::from(vocab_size) {
            return Err(bad(format!("token `{token:.32}` has id {id}, its text encoder knows {vocab_size}")));
        }
    }
    for special in ["<|startoftext|>", "<|endoftext|>"] {
        if !json.fields.contains_key(special) {
            return Err(bad(format!("it lacks the token `{special}`")));
        }
    }
    let merges = folder.need(&format!("{sub}/merges.txt"))?;
    merges.text(MAX_TOKENIZER_BYTES).map(|_| ())
}
