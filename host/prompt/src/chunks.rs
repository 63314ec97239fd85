//! Chunks: a weighted text cut into stretches that a text encoder takes, start and end tokens around each.

use crate::embeddings::{self, Part};
use crate::{FindEmbedding, Piece, PromptError, Tokenizer, WeightedText};

/// What happens to a text that does not fit one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// It goes on in further chunks, whose states are joined.
    #[default]
    Chunk,
    /// It is an error.
    Reject,
    /// It is cut, as diffusers cuts it; `BREAK` means nothing.
    Truncate,
}

/// Choices and limits of [`encode`].
#[derive(Clone, Copy)]
pub struct ChunkOptions<'a> {
    /// Tokens in a chunk, start and end included.
    pub length: usize,
    /// What happens to a long text.
    pub overflow: Overflow,
    /// The most chunks.
    pub max_chunks: usize,
    /// When a chunk is full, the words after its last comma move into the next one if they are at most this many tokens.
    pub comma_backtrack: usize,
    /// Looks textual inversions up; none = names are text.
    pub embeddings: Option<&'a FindEmbedding<'a>>,
}

impl Default for ChunkOptions<'_> {
    fn default() -> Self {
        Self { length: 77, overflow: Overflow::Chunk, max_chunks: 16, comma_backtrack: 20, embeddings: None }
    }
}

/// The tokens of a text for one encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunks {
    /// Tokens in a chunk, start and end included.
    pub length: usize,
    /// `count() × length` ids.
    pub tokens: Vec<u32>,
    /// A weight for each id; 1 = unchanged.
    pub weights: Vec<f32>,
    /// The chunk of the empty text: `length` ids.
    pub empty: Vec<u32>,
    /// Tokens of the text itself, those that were cut included.
    pub used: usize,
    /// Tokens that were cut.
    pub truncated: usize,
}

impl Chunks {
    /// Number of chunks, at least 1.
    pub fn count(&self) -> usize {
        self.tokens.len() / self.length.max(1)
    }

    /// Adds empty chunks until there are `count`; so texts of different length can share a batch.
    pub fn pad_to(&mut self, count: usize) {
        while self.count() < count {
            self.tokens.extend_from_slice(&self.empty);
            self.weights.resize(self.tokens.len(), 1.0);
        }
    }
}

/// Tokenizes a text for every encoder of a model; all answers have the same number of chunks.
///
/// Errors: `Overflow`, `TooManyChunks`, `UnknownEmbedding`, `EmbeddingTooLong`, `ChunkLength`, `Tokenize`.
pub fn encode(
    text: &WeightedText,
    tokenizers: &[&Tokenizer],
    options: &ChunkOptions<'_>,
) -> Result<Vec<Chunks>, PromptError> {
    let mut all = tokenizers
        .iter()
        .enumerate()
        .map(|(i, one)| encode_one(text, i, one, options))
        .collect::<Result<Vec<_>, _>>()?;
    let most = all.iter().map(Chunks::count).max().unwrap_or(1);
    all.iter_mut().for_each(|chunks| chunks.pad_to(most));
    Ok(all)
}

fn encode_one(
    text: &WeightedText,
    encoder: usize,
    tokenizer: &Tokenizer,
    options: &ChunkOptions<'_>,
) -> Result<Chunks, PromptError> {
    if !(3..=4096).contains(&options.length) {
        return Err(PromptError::ChunkLength { length: options.length });
    }
    let mut cutter = Cutter::new(encoder, tokenizer, options);
    for piece in &text.pieces {
        match piece {
            Piece::Break if options.overflow == Overflow::Truncate => {}
            Piece::Break => cutter.close()?,
            Piece::Text { text, weight } => cutter.text(text, *weight)?,
        }
    }
    cutter.finish()
}

struct Cutter<'a> {
    encoder: usize,
    tokenizer: &'a Tokenizer,
    options: &'a ChunkOptions<'a>,
    /// Tokens that fit between start and end.
    room: usize,
    done: Chunks,
    open: Vec<(u32, f32)>,
    comma: Option<usize>,
}

impl<'a> Cutter<'a> {
    fn new(encoder: usize, tokenizer: &'a Tokenizer, options: &'a ChunkOptions<'a>) -> Self {
        let room = options.length - 2;
        let mut empty = vec![tokenizer.pad(); options.length];
        (empty[0], empty[1]) = (tokenizer.bos(), tokenizer.eos());
        let done =
            Chunks { length: options.length, tokens: Vec::new(), weights: Vec::new(), empty, used: 0, truncated: 0 };
        Self { encoder, tokenizer, options, room, done, open: Vec::new(), comma: None }
    }

    fn text(&mut self, text: &str, weight: f32) -> Result<(), PromptError> {
        let Some(find) = self.options.embeddings else {
            return self.plain(text, weight);
        };
        for part in embeddings::split(text, &|name| find(self.encoder, name))? {
            match part {
                Part::Text(text) => self.plain(text, weight)?,
                Part::Embedding { name, placeholder } => {
                    let vectors = placeholder.vectors as usize;
                    if vectors > self.room {
                        return Err(PromptError::EmbeddingTooLong {
                            name: name.into(),
                            vectors: placeholder.vectors,
                            limit: self.room,
                        });
                    }
                    self.done.used += vectors;
                    // An embedding is never torn apart.
                    if self.open.len() + vectors > self.room {
                        if self.options.overflow == Overflow::Truncate {
                            self.done.truncated += vectors;
                            continue;
                        }
                        self.close()?;
                    }
                    let ids = (0..placeholder.vectors).map(|i| placeholder.first_id.saturating_add(i));
                    self.open.extend(ids.map(|id| (id, weight)));
                }
            }
        }
        Ok(())
    }

    fn plain(&mut self, text: &str, weight: f32) -> Result<(), PromptError> {
        for id in self.tokenizer.ids(text)? {
            self.done.used += 1;
            if self.open.len() < self.room {
                self.note_comma(id);
                self.open.push((id, weight));
                continue;
            }
            if self.options.overflow == Overflow::Truncate {
                self.done.truncated += 1;
                continue;
            }
            self.next_chunk(id)?;
            self.note_comma(id);
            self.open.push((id, weight));
        }
        Ok(())
    }

    fn note_comma(&mut self, id: u32) {
        if Some(id) == self.tokenizer.comma() {
            self.comma = Some(self.open.len());
        }
    }

    /// Closes a full chunk before `id`, moving what stands behind its last comma into the next one.
    fn next_chunk(&mut self, id: u32) -> Result<(), PromptError> {
        let backtrack = self.options.comma_backtrack;
        let split = match self.comma {
            Some(comma) if Some(id) != self.tokenizer.comma() && self.open.len() - comma <= backtrack => comma + 1,
            _ => self.open.len(),
        };
        let moved = self.open.split_off(split);
        self.close()?;
        self.open = moved;
        Ok(())
    }

    /// Puts start, end and padding around the open chunk.
    fn close(&mut self) -> Result<(), PromptError> {
        // A text to be rejected is counted to its end, so that the error can say how long it is.
        if self.options.overflow != Overflow::Reject && self.done.count() == self.options.max_chunks.max(1) {
            return Err(PromptError::TooManyChunks { limit: self.options.max_chunks.max(1), length: self.room });
        }
        let end = self.done.tokens.len() + self.options.length;
        self.done.tokens.push(self.tokenizer.bos());
        self.done.weights.push(1.0);
        for (id, weight) in self.open.drain(..) {
            self.done.tokens.push(id);
            self.done.weights.push(weight);
        }
        self.done.tokens.push(self.tokenizer.eos());
        self.done.tokens.resize(end, self.tokenizer.pad());
        self.done.weights.resize(end, 1.0);
        self.comma = None;
        Ok(())
    }

    fn finish(mut self) -> Result<Chunks, PromptError> {
        if !self.open.is_empty() || self.done.tokens.is_empty() {
            self.close()?;
        }
        if self.options.overflow == Overflow::Reject && self.done.count() > 1 {
            return Err(PromptError::Overflow { tokens: self.done.used, limit: self.room });
        }
        Ok(self.done)
    }
}

#[cfg(test)]
#[path = "chunks_tests.rs"]
mod tests;
