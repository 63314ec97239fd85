//! The start, end, padding and unknown tokens, as a model's configuration names them.

use crate::PromptError;
use serde_json::Value;

/// The texts of the special tokens. SD 1 pads with the end token, SD 2 and SDXL's second encoder with `!` (id 0).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Start of a chunk.
    pub bos: String,
    /// End of a chunk.
    pub eos: String,
    /// What fills the rest of a chunk.
    pub pad: String,
    /// What stands for unknown text.
    pub unk: String,
}

impl Default for SpecialTokens {
    /// CLIP's own.
    fn default() -> Self {
        let end = "<|endoftext|>";
        Self { bos: "<|startoftext|>".into(), eos: end.into(), pad: end.into(), unk: end.into() }
    }
}

impl SpecialTokens {
    /// Takes the tokens that a `tokenizer_config.json` or `special_tokens_map.json` names, keeps the others. A token
    /// is a text or an object with `content`. Errors: `Tokenizer` where the file is no JSON object.
    pub fn read(&mut self, file: &'static str, json: &[u8]) -> Result<(), PromptError> {
        let value: Value =
            serde_json::from_slice(json).map_err(|error| PromptError::Tokenizer { file, reason: error.to_string() })?;
        let Value::Object(map) = value else {
            return Err(PromptError::Tokenizer { file, reason: "it is not a JSON object".into() });
        };
        for (key, token) in [
            ("bos_token", &mut self.bos),
            ("eos_token", &mut self.eos),
            ("pad_token", &mut self.pad),
            ("unk_token", &mut self.unk),
        ] {
            let found = map.get(key).and_then(|value| value.as_str().or_else(|| value.get("content")?.as_str()));
            if let Some(text) = found.filter(|text| !text.is_empty()) {
                text.clone_into(token);
            }
        }
        Ok(())
    }
}
