//! Prompts: from the text a user wrote to the token ids and weights that a text encoder takes.
//!
//! The way of a prompt:
//! 1. [`adapters::extract`] takes `<lora:name:0.8>` tags out of it;
//! 2. [`schedule`] resolves `[a:b:0.5]` and `[a|b]` for a number of steps into segments, each with a text whose
//!    emphasis (`(a:1.2)`, `[a]`, `BREAK`) is parsed into weighted [`Piece`]s;
//! 3. [`encode`] tokenizes one of those texts for every encoder of a model, in chunks of the encoder's length.
//!
//! The grammar is that of AUTOMATIC1111's web UI, so that prompts found anywhere mean here what they meant there.
//! Deliberate differences: `AND` is text (composable diffusion is not supported), a `|` outside of brackets does not
//! switch scheduling off, a `BREAK` inside of brackets still breaks, and everything is bounded.
#![forbid(unsafe_code)]

pub mod adapters;
mod chunks;
mod embeddings;
mod emphasis;
mod error;
mod schedule;
mod specials;
mod tokenizer;

pub use chunks::{ChunkOptions, Chunks, Overflow, encode};
pub use embeddings::{FindEmbedding, Placeholder};
pub use emphasis::{Piece, WeightedText};
pub use error::PromptError;
pub use schedule::{Options, Pass, Schedule, Segment, Syntax, schedule};
pub use specials::SpecialTokens;
pub use tokenizer::{Tokenizer, TokenizerFiles};

/// The deepest nesting of brackets that a prompt may have, and the most brackets that may stay open.
pub const MAX_NESTING: usize = 100;
/// The largest weight, in magnitude, that emphasis may reach.
pub const MAX_WEIGHT: f32 = 1000.0;
