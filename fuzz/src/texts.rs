//! Prompts: adapter tags, schedules, emphasis, tokens.

use sd_prompt::{
    ChunkOptions, MAX_WEIGHT, Options, Overflow, Pass, Piece, Tokenizer, TokenizerFiles, adapters, encode, schedule,
};
use sd_tests::bundled_models;
use std::sync::OnceLock;

fn tokenizer() -> &'static Tokenizer {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| {
        let file = |name: &str| std::fs::read(bundled_models().join("emoji-sd/tokenizer").join(name)).ok();
        let (vocab, merges) = (file("vocab.json"), file("merges.txt"));
        let (config, map) = (file("tokenizer_config.json"), file("special_tokens_map.json"));
        let files = TokenizerFiles {
            vocab_json: vocab.as_deref(),
            merges_txt: merges.as_deref(),
            tokenizer_config: config.as_deref(),
            special_tokens_map: map.as_deref(),
            ..TokenizerFiles::default()
        };
        Tokenizer::load(&files).expect("the bundled tokenizer")
    })
}

/// A prompt; its first byte is the number of steps.
pub(crate) fn prompt(data: &[u8]) {
    let Some((steps, text)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(text);
    let Ok((rest, tags)) = adapters::extract(&text) else { return };
    assert!(
        tags.len() <= adapters::MAX_TAGS && tags.iter().all(|t| t.text_weight.is_finite() && t.unet_weight.is_finite())
    );
    let steps = u32::from(*steps) % 151;
    for pass in [Pass::First, Pass::Second { first_steps: 7 }] {
        let options = Options { pass, ..Options::default() };
        let Ok(plan) = schedule(&rest, steps, &options) else { continue };
        assert!(!plan.texts.is_empty() && plan.texts.len() <= options.max_texts);
        let mut at = 0;
        for segment in &plan.segments {
            assert!(segment.from_step == at && segment.to_step > at && segment.text < plan.texts.len(), "{plan:?}");
            at = segment.to_step;
        }
        assert_eq!(at, steps.max(1));
        for text in &plan.texts {
            for piece in &text.pieces {
                assert!(
                    !matches!(piece, Piece::Text { weight, .. } if !weight.is_finite() || weight.abs() > MAX_WEIGHT)
                );
            }
            for overflow in [Overflow::Chunk, Overflow::Reject, Overflow::Truncate] {
                let options = ChunkOptions { overflow, ..ChunkOptions::default() };
                let Ok(all) = encode(text, &[tokenizer()], &options) else { continue };
                for chunks in all {
                    assert_eq!(chunks.tokens.len(), chunks.count() * chunks.length);
                    assert_eq!(chunks.weights.len(), chunks.tokens.len());
                    assert!((1..=options.max_chunks).contains(&chunks.count()));
                    assert!(chunks.tokens.iter().all(|t| (*t as usize) < tokenizer().vocab_size().max(49_408)));
                }
            }
        }
    }
}
