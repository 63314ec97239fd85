//! CLIP's tokenizer, from a model's files.

use crate::{PromptError, SpecialTokens};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers, replace::ReplacePattern};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

/// The largest tokenizer file that is read; CLIP's has 3.6 MB.
const MAX_FILE_BYTES: usize = 32 << 20;

/// CLIP's words: contractions, runs of letters, single digits, runs of other signs.
const WORDS: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// The contents of a tokenizer's files: `tokenizer_json`, or `vocab_json` and `merges_txt`, or `merges_txt` alone, from
/// which CLIP's vocabulary follows.
#[derive(Debug, Clone, Copy, Default)]
pub struct TokenizerFiles<'a> {
    /// `tokenizer.json`: everything in one file; preferred.
    pub tokenizer_json: Option<&'a [u8]>,
    /// `vocab.json`: token → id.
    pub vocab_json: Option<&'a [u8]>,
    /// `merges.txt`: one pair a line, best first.
    pub merges_txt: Option<&'a [u8]>,
    /// `tokenizer_config.json`, for the special tokens.
    pub tokenizer_config: Option<&'a [u8]>,
    /// `special_tokens_map.json`, for the special tokens; wins over the other.
    pub special_tokens_map: Option<&'a [u8]>,
}

/// A tokenizer with its special tokens. Cheap to share (`Arc`), tokenizing takes `&self`.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    specials: SpecialTokens,
    bos: u32,
    eos: u32,
    pad: u32,
    comma: Option<u32>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("size", &self.vocab_size()).field("specials", &self.specials).finish()
    }
}

impl Tokenizer {
    /// Builds the tokenizer that a model's files describe. Errors: `Tokenizer`, naming the file.
    pub fn load(files: &TokenizerFiles<'_>) -> Result<Self, PromptError> {
        let mut specials = SpecialTokens::default();
        let configs =
            [("tokenizer_config.json", files.tokenizer_config), ("special_tokens_map.json", files.special_tokens_map)];
        for (file, json) in configs {
            if let Some(json) = json {
                specials.read(file, bounded(file, json)?)?;
            }
        }
        let (file, inner) = match (files.tokenizer_json, files.vocab_json, files.merges_txt) {
            (Some(json), _, _) => ("tokenizer.json", from_json(json)?),
            (None, Some(vocab), Some(merges)) => ("vocab.json", clip(Some(vocab), merges, &specials)?),
            (None, None, Some(merges)) => ("merges.txt", clip(None, merges, &specials)?),
            (None, Some(_), None) => return Err(invalid("merges.txt", "it is missing")),
            (None, None, None) => return Err(invalid("tokenizer.json", "it is missing, and so is vocab.json")),
        };
        Self::new(file, inner, specials)
    }

    fn new(file: &'static str, mut inner: tokenizers::Tokenizer, specials: SpecialTokens) -> Result<Self, PromptError> {
        let id = |inner: &tokenizers::Tokenizer, token: &str| {
            inner.token_to_id(token).ok_or_else(|| invalid(file, format!("it lacks the special token {token:?}")))
        };
        let (bos, eos, pad) = (id(&inner, &specials.bos)?, id(&inner, &specials.eos)?, id(&inner, &specials.pad)?);
        // The reference matches special tokens in the text before anything else: with SD 2's files a "!" is id 0.
        let texts = [&specials.bos, &specials.eos, &specials.pad];
        inner
            .add_special_tokens(texts.map(|text| AddedToken::from(text.as_str(), true)))
            .map_err(|error| invalid(file, error))?;
        let comma = inner.token_to_id(",</w>").or_else(|| inner.token_to_id(","));
        Ok(Self { inner, specials, bos, eos, pad, comma })
    }

    /// The same tokenizer with another padding token. Errors: `Tokenizer` where it is no token.
    pub fn with_pad(self, pad: &str) -> Result<Self, PromptError> {
        let specials = SpecialTokens { pad: pad.into(), ..self.specials };
        Self::new("the tokenizer", self.inner, specials)
    }

    /// The ids of a text, without start and end. Errors: `Tokenize`.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>, PromptError> {
        let encoding =
            self.inner.encode_fast(text, false).map_err(|error| PromptError::Tokenize { reason: error.to_string() })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The tokenizer as the text of a `tokenizer.json`. Errors: `Tokenize`.
    pub fn to_json(&self) -> Result<String, PromptError> {
        self.inner.to_string(false).map_err(|error| PromptError::Tokenize { reason: error.to_string() })
    }

    /// Number of tokens, added ones included: the first id that a placeholder may take.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The special tokens' texts.
    pub fn specials(&self) -> &SpecialTokens {
        &self.specials
    }

    /// The id that starts a chunk.
    pub fn bos(&self) -> u32 {
        self.bos
    }

    /// The id that ends a chunk.
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// The id that fills a chunk.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// The id of a comma, where there is one.
    pub fn comma(&self) -> Option<u32> {
        self.comma
    }
}

fn invalid(file: &'static str, reason: impl ToString) -> PromptError {
    PromptError::Tokenizer { file, reason: reason.to_string() }
}

fn bounded<'a>(file: &'static str, bytes: &'a [u8]) -> Result<&'a [u8], PromptError> {
    if bytes.len() > MAX_FILE_BYTES {
        return Err(invalid(file, format!("it has {} bytes, at most {MAX_FILE_BYTES} are read", bytes.len())));
    }
    Ok(bytes)
}

fn from_json(json: &[u8]) -> Result<tokenizers::Tokenizer, PromptError> {
    let file = "tokenizer.json";
    let mut inner = tokenizers::Tokenizer::from_bytes(bounded(file, json)?).map_err(|error| invalid(file, error))?;
    // Chunks are cut by us; a length or padding from the file would lose text without a word.
    inner.with_truncation(None).map_err(|error| invalid(file, error))?.with_padding(None);
    Ok(inner)
}

/// The pipeline of the reference's `CLIPTokenizer`.
fn clip(vocab: Option<&[u8]>, merges: &[u8], specials: &SpecialTokens) -> Result<tokenizers::Tokenizer, PromptError> {
    let merges = std::str::from_utf8(bounded("merges.txt", merges)?).map_err(|error| invalid("merges.txt", error))?;
    let mut pairs = Vec::new();
    for (number, line) in merges.lines().enumerate() {
        if line.starts_with("#version") || line.trim().is_empty() {
            continue;
        }
        let pair = line.trim_end().split_once(' ').filter(|(_, right)| !right.contains(' '));
        let (left, right) = pair.ok_or_else(|| invalid("merges.txt", format!("line {} is not a pair", number + 1)))?;
        pairs.push((left.to_owned(), right.to_owned()));
    }
    let vocab: Vocab = match vocab {
        Some(json) => {
            serde_json::from_slice(bounded("vocab.json", json)?).map_err(|error| invalid("vocab.json", error))?
        }
        None => vocabulary(&pairs, specials).into_iter().zip(0..).collect(),
    };
    let model = BPE::builder()
        .vocab_and_merges(vocab, pairs)
        .unk_token(specials.unk.clone())
        .continuing_subword_prefix(String::new())
        .end_of_word_suffix("</w>".into())
        .build()
        .map_err(|error| invalid("merges.txt", error))?;

    let fail = |error| invalid("the CLIP pipeline", error);
    let blanks = Replace::new(ReplacePattern::Regex(r"\s+".into()), " ").map_err(fail)?;
    let words = Split::new(SplitPattern::Regex(WORDS.into()), SplitDelimiterBehavior::Removed, true).map_err(fail)?;
    let mut inner = tokenizers::Tokenizer::new(model);
    inner
        .with_normalizer(Some(Normalizers::new(vec![NFC.into(), blanks.into(), Lowercase.into()])))
        .map_err(fail)?
        .with_pre_tokenizer(Some(PreTokenizers::new(vec![
            words.into(),
            ByteLevel::default().add_prefix_space(false).into(),
        ])));
    Ok(inner)
}

/// CLIP's tokens in the order of their ids: the byte signs, the same at a word's end, every merge, start and end.
fn vocabulary(merges: &[(String, String)], specials: &SpecialTokens) -> Vec<String> {
    // Bytes that are printable stand for themselves and come first, the others for U+0100 and up (GPT-2's alphabet).
    let printable = |byte: &u8| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let others = (0..=255u8).filter(|byte| !printable(byte)).count() as u32;
    let signs: Vec<char> = (0..=255u8)
        .filter(printable)
        .map(char::from)
        .chain((0..others).filter_map(|i| char::from_u32(0x100 + i)))
        .collect();
    let mut tokens: Vec<String> = signs.iter().map(char::to_string).collect();
    tokens.extend(signs.iter().map(|sign| format!("{sign}</w>")));
    tokens.extend(merges.iter().map(|(left, right)| format!("{left}{right}")));
    tokens.extend([specials.bos.clone(), specials.eos.clone()]);
    tokens
}
