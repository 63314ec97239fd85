//! Where a text encoder's tokenizer lies, and whether it fits the encoder.

use crate::{
    config::clip::ClipConfig,
    error::{ModelError, Result},
    files::{Folder, FoundFile, Json, MAX_CONFIG_BYTES, MAX_TOKENIZER_BYTES},
    resolved::{Tokenizer, TokenizerSource},
};
use serde_json::Value;

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
    let settings = [format!("{sub}/tokenizer_config.json"), format!("{sub}/special_tokens_map.json")];
    let mut pad_token = None;
    let mut max_length = None;
    for name in settings {
        let Some(file) = folder.find(&name)? else { continue };
        let json = file.json(MAX_CONFIG_BYTES)?;
        pad_token = pad_token.or(token(&json, "pad_token")?);
        max_length = max_length.or(json.fields.get("model_max_length").and_then(Value::as_u64));
    }
    let positions = encoder.positions;
    let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    Ok(Tokenizer {
        encoder: role,
        source,
        pad_token: pad_token.unwrap_or_else(|| "<|endoftext|>".into()),
        // Some configs say 10^30 for "no bound".
        max_length: narrow(max_length.unwrap_or(positions).min(positions)),
        vocab_size: narrow(encoder.vocab),
    })
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
