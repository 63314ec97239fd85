//! Tests of chunking, with a tokenizer of one token a letter.

use super::*;
use crate::{Placeholder, TokenizerFiles};

const BOS: u32 = 100;
const EOS: u32 = 101;
const COMMA: u32 = 44;

/// Every lower-case letter alone is a word: `a` = 0 … `z` = 25; a comma is 44.
fn tokenizer(pad: &str) -> Tokenizer {
    let letters = ('a'..='z').enumerate().map(|(id, letter)| format!("\"{letter}</w>\":{id},\"{letter}\":{}", id + 50));
    let letters = letters.collect::<Vec<_>>().join(",");
    let vocab = format!(
        "{{{letters},\",\":43,\",</w>\":{COMMA},\"!\":45,\"!</w>\":46,\"<|startoftext|>\":{BOS},\"<|endoftext|>\":{EOS}}}"
    );
    let config = format!("{{\"pad_token\":{{\"content\":\"{pad}\"}}}}");
    let files = TokenizerFiles {
        vocab_json: Some(vocab.as_bytes()),
        merges_txt: Some(b"#version: 0.2\n"),
        tokenizer_config: Some(config.as_bytes()),
        ..TokenizerFiles::default()
    };
    Tokenizer::load(&files).unwrap()
}

fn find(encoder: usize, name: &str) -> Option<Placeholder> {
    let vectors = match name {
        "emb" => 3,
        "big" => 6,
        _ => return None,
    };
    Some(Placeholder { first_id: 1000 * (encoder as u32 + 1), vectors })
}

fn options(overflow: Overflow) -> ChunkOptions<'static> {
    ChunkOptions { length: 7, overflow, max_chunks: 4, comma_backtrack: 2, embeddings: Some(&find) }
}

/// Chunks as text: letters, `<` start, `>` end, `_` padding, `#` placeholder, `/` between chunks.
fn show(prompt: &str, options: &ChunkOptions<'_>) -> String {
    let tokenizer = tokenizer("!");
    let text = WeightedText::parse(prompt).unwrap();
    match encode_one(&text, 0, &tokenizer, options) {
        Err(error) => error.code().into(),
        Ok(chunks) => {
            assert_eq!(chunks.tokens.len(), chunks.weights.len());
            assert_eq!(chunks.tokens.len() % options.length, 0);
            let sign = |id: &u32| match *id {
                BOS => '<',
                EOS => '>',
                COMMA => ',',
                45 => '_',
                1000.. => '#',
                letter => char::from(b'a' + letter as u8),
            };
            let shown = chunks.tokens.chunks(options.length).map(|chunk| chunk.iter().map(sign).collect::<String>());
            shown.collect::<Vec<_>>().join("/")
        }
    }
}

#[track_caller]
fn check(prompt: &str, overflow: Overflow, expected: &str) {
    assert_eq!(show(prompt, &options(overflow)), expected, "for {prompt:?}");
}

#[test]
fn layout() {
    use Overflow::Chunk;
    check("", Chunk, "<>_____");
    check("a b", Chunk, "<ab>___");
    check("a b c d e", Chunk, "<abcde>");
    check("a b c d e f", Chunk, "<abcde>/<f>____");
    check("a BREAK b", Chunk, "<a>____/<b>____");
    check("a BREAK", Chunk, "<a>____");
    check("BREAK a", Chunk, "<>_____/<a>____");
    check(&"a ".repeat(20), Chunk, "<aaaaa>/<aaaaa>/<aaaaa>/<aaaaa>");
    check(&"a ".repeat(21), Chunk, "prompt_too_many_chunks");
}

#[test]
fn the_words_after_the_last_comma_move_on() {
    use Overflow::Chunk;
    check("a b c, e f", Chunk, "<abc,>_/<ef>___");
    check("a b, d e f", Chunk, "<ab,de>/<f>____");
    check("a, c d e f", Chunk, "<a,cde>/<f>____");
    check("a b c d, f", Chunk, "<abcd,>/<f>____");
    check("a b c d e, f", Chunk, "<abcde>/<,f>___");
    check("a b, d e, f", Chunk, "<ab,de>/<,f>___");
}

#[test]
fn overflow() {
    check("a b c d e", Overflow::Reject, "<abcde>");
    check("a b c d e f", Overflow::Reject, "prompt_overflow");
    check("a BREAK b", Overflow::Reject, "prompt_overflow");
    check("a b c d, f g", Overflow::Truncate, "<abcd,>");
    check("a b, d e f", Overflow::Truncate, "<ab,de>");
    check("a BREAK b", Overflow::Truncate, "<ab>___");
    let text = WeightedText::parse("a b c d e f g").unwrap();
    let cut = encode_one(&text, 0, &tokenizer("!"), &options(Overflow::Truncate)).unwrap();
    assert_eq!((cut.used, cut.truncated), (7, 2));
    let error = encode_one(&text, 0, &tokenizer("!"), &options(Overflow::Reject)).unwrap_err();
    assert_eq!(error, PromptError::Overflow { tokens: 7, limit: 5 });
}

#[test]
fn embeddings() {
    use Overflow::Chunk;
    check("a emb b", Chunk, "<a###b>");
    check("a b c emb", Chunk, "<abc>__/<###>__");
    check("a b c emb d", Overflow::Truncate, "<abcd>_");
    check("big", Chunk, "embedding_too_long");
    check("embedding:nope", Chunk, "unknown_embedding");
    let none = ChunkOptions { embeddings: None, ..options(Chunk) };
    assert_eq!(show("a b", &none), "<ab>___");
}

#[test]
fn weights_follow_their_tokens() {
    let tokenizer = tokenizer("<|endoftext|>");
    let text = WeightedText::parse("a (b emb:2)").unwrap();
    let chunks = encode_one(&text, 0, &tokenizer, &options(Overflow::Chunk)).unwrap();
    assert_eq!(chunks.tokens, [BOS, 0, 1, 1000, 1001, 1002, EOS]);
    assert_eq!(chunks.weights, [1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 1.0]);
    assert_eq!(chunks.empty, [BOS, EOS, EOS, EOS, EOS, EOS, EOS]);
}

#[test]
fn encoders_share_the_number_of_chunks() {
    let (first, second) = (tokenizer("<|endoftext|>"), tokenizer("!"));
    let text = WeightedText::parse("a b c d e f").unwrap();
    let all = encode(&text, &[&first, &second], &options(Overflow::Chunk)).unwrap();
    assert_eq!(all.iter().map(Chunks::count).collect::<Vec<_>>(), [2, 2]);
    assert_eq!((all[0].tokens[10], all[1].tokens[10]), (EOS, 45));
    let text = WeightedText::parse("emb").unwrap();
    let own = encode(&text, &[&first, &second], &options(Overflow::Chunk)).unwrap();
    assert_eq!((own[0].tokens[1], own[1].tokens[1]), (1000, 2000), "each encoder has its own placeholders");
    let mut padded = all[1].clone();
    padded.pad_to(3);
    assert_eq!((padded.count(), &padded.tokens[14..], padded.weights.len()), (3, &all[1].empty[..], 21));
}

#[test]
fn lengths() {
    for length in [0, 2, 5000] {
        assert_eq!(show("a", &ChunkOptions { length, ..options(Overflow::Chunk) }), "chunk_length");
    }
    assert_eq!(show("a b", &ChunkOptions { length: 3, ..options(Overflow::Chunk) }), "<a>/<b>");
}

#[test]
fn broken_files_name_themselves() {
    /// Vocabulary, merges, configuration, the file that the error names.
    type Case = (&'static [u8], Option<&'static [u8]>, Option<&'static [u8]>, &'static str);
    let good = br#"{"a":0,"<|startoftext|>":1,"<|endoftext|>":2}"#;
    let cases: [Case; 6] = [
        (b"[1]", Some(b""), None, "vocab.json"),
        (good, None, None, "merges.txt"),
        (good, Some(b"a b c"), None, "merges.txt"),
        (good, Some(b"x y"), None, "merges.txt"),
        (good, Some(b""), Some(b"{"), "tokenizer_config.json"),
        (good, Some(b""), Some(br#"{"pad_token":"?"}"#), "vocab.json"),
    ];
    for (vocab_json, merges_txt, tokenizer_config, expected) in cases {
        let files =
            TokenizerFiles { vocab_json: Some(vocab_json), merges_txt, tokenizer_config, ..TokenizerFiles::default() };
        let error = Tokenizer::load(&files).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error} should name {expected}");
        assert_eq!(error.code(), "tokenizer_invalid");
    }
    let json = TokenizerFiles { tokenizer_json: Some(b"{}"), ..TokenizerFiles::default() };
    assert!(Tokenizer::load(&json).unwrap_err().to_string().starts_with("tokenizer.json"));
    assert!(Tokenizer::load(&TokenizerFiles::default()).unwrap_err().to_string().starts_with("tokenizer.json"));
}
