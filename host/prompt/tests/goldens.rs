//! Prompts against the golden file that `tests/golden` makes: emphasis, schedules and chunks by the rules of the
//! AUTOMATIC1111 web UI, token ids by transformers, for CLIP's vocabulary and for the small one of the test models.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test file: its helpers may fail loudly")]

use sd_prompt::{
    ChunkOptions, Options, Overflow, Piece, SpecialTokens, Tokenizer, TokenizerFiles, WeightedText, encode, schedule,
};
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> Vec<u8> {
    std::fs::read(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn goldens(part: &str) -> Vec<Value> {
    let all: Value = serde_json::from_slice(&read("tests/fixtures/goldens/prompts.json")).unwrap();
    all[part].as_array().unwrap().clone()
}

fn merges() -> Vec<u8> {
    let mut out = Vec::new();
    flate2::read::GzDecoder::new(read("host/models/assets/clip/merges.txt.gz").as_slice())
        .read_to_end(&mut out)
        .unwrap();
    out
}

fn full() -> Tokenizer {
    Tokenizer::load(&TokenizerFiles { merges_txt: Some(&merges()), ..TokenizerFiles::default() }).unwrap()
}

fn tiny() -> Tokenizer {
    let file = |name: &str| read(&format!("tests/fixtures/models/sd15/tokenizer/{name}"));
    let (vocab, merges) = (file("vocab.json"), file("merges.txt"));
    let (config, map) = (file("tokenizer_config.json"), file("special_tokens_map.json"));
    let files = TokenizerFiles {
        tokenizer_json: None,
        vocab_json: Some(&vocab),
        merges_txt: Some(&merges),
        tokenizer_config: Some(&config),
        special_tokens_map: Some(&map),
    };
    Tokenizer::load(&files).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn emphasis() {
    for golden in goldens("emphasis") {
        let prompt = golden["prompt"].as_str().unwrap();
        // Empty parts mean nothing; we leave them out.
        let part = |part: &Value| match (part[0].as_str().unwrap(), part[1].as_f64().unwrap()) {
            ("", _) => None,
            ("BREAK", -1.0) => Some(Piece::Break),
            (text, weight) => Some(Piece::Text { text: text.into(), weight: weight as f32 }),
        };
        let mut expected: Vec<Piece> = golden["parts"].as_array().unwrap().iter().filter_map(part).collect();
        if expected.is_empty() {
            expected.push(Piece::Text { text: String::new(), weight: 1.0 });
        }
        assert_eq!(WeightedText::parse(prompt).unwrap().pieces, expected, "{prompt:?}");
    }
}

#[test]
fn schedules() {
    for golden in goldens("schedules") {
        let (prompt, steps) = (golden["prompt"].as_str().unwrap(), golden["steps"].as_u64().unwrap() as u32);
        let found = schedule(prompt, steps, &Options::default()).unwrap();
        // The reference may repeat a text; what counts is the text of each step.
        let mut from = 0;
        for part in golden["until"].as_array().unwrap() {
            let (until, text) = (part[0].as_u64().unwrap() as u32, part[1].as_str().unwrap());
            for step in from..until {
                assert_eq!(found.texts[found.text_at(step)].source, text, "{prompt:?}, step {step} of {steps}");
            }
            from = until;
        }
        assert_eq!(from, steps);
    }
}

#[test]
fn tokens() {
    for (name, tokenizer) in [("tiny", tiny()), ("full", full())] {
        for golden in goldens("tokens") {
            let text = golden["text"].as_str().unwrap();
            assert_eq!(tokenizer.ids(text).unwrap(), ids(&golden[name]), "{name}: {text:?}");
        }
    }
}

#[test]
fn chunks() {
    for (name, tokenizer) in [("tiny", tiny()), ("full", full())] {
        for golden in goldens("chunks") {
            let prompt = golden["prompt"].as_str().unwrap();
            let expected = golden[name].as_array().unwrap();
            let text = WeightedText::parse(prompt).unwrap();
            let options = ChunkOptions { max_chunks: 64, ..ChunkOptions::default() };
            let found = encode(&text, &[&tokenizer], &options).unwrap().remove(0);
            assert_eq!(found.count(), expected.len(), "{name}: {prompt:?}");
            for (i, chunk) in expected.iter().enumerate() {
                let range = i * 77..(i + 1) * 77;
                assert_eq!(found.tokens[range.clone()], ids(&chunk["ids"]), "{name}: {prompt:?}, chunk {i}");
                let weights = chunk["weights"].as_array().unwrap().iter().map(|weight| weight.as_f64().unwrap() as f32);
                assert_eq!(found.weights[range], weights.collect::<Vec<_>>(), "{name}: {prompt:?}, chunk {i}");
            }
        }
    }
}

#[test]
fn the_three_kinds_of_files_agree() {
    let from_merges = full();
    assert_eq!((from_merges.bos(), from_merges.eos(), from_merges.pad()), (49406, 49407, 49407));
    assert_eq!(from_merges.vocab_size(), 49408);
    assert_eq!(from_merges.comma(), Some(267));
    let json = from_merges.to_json().unwrap();
    let files = TokenizerFiles { tokenizer_json: Some(json.as_bytes()), ..TokenizerFiles::default() };
    let from_json = Tokenizer::load(&files).unwrap();
    for golden in goldens("tokens") {
        let text = golden["text"].as_str().unwrap();
        assert_eq!(from_json.ids(text).unwrap(), ids(&golden["full"]), "{text:?}");
    }
}

/// SD 2 and SDXL's second encoder pad with `!`, whose id is 0; the reference then reads every `!` as that token.
#[test]
fn padding_with_an_exclamation_mark() {
    let tokenizer = full().with_pad("!").unwrap();
    assert_eq!(*tokenizer.specials(), SpecialTokens { pad: "!".into(), ..SpecialTokens::default() });
    let text = WeightedText::literal("wow!");
    let options = ChunkOptions { length: 6, overflow: Overflow::Truncate, ..ChunkOptions::default() };
    let chunks = encode(&text, &[&tokenizer], &options).unwrap().remove(0);
    assert_eq!(chunks.tokens, [49406, 2781, 0, 49407, 0, 0]);
    assert_eq!(chunks.empty, [49406, 49407, 0, 0, 0, 0]);
    assert_eq!(full().with_pad("no such token").unwrap_err().code(), "tokenizer_invalid");
}
