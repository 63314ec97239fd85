//! Emphasis: `(a)` × 1.1, `[a]` ÷ 1.1, `(a:1.3)` × 1.3, escapes with `\`, and `BREAK`.
//!
//! The rules, those for unbalanced brackets included, are AUTOMATIC1111's (`modules/prompt_parser.py`): a bracket that
//! stays open reaches to the end, one that closes nothing is text.

use crate::{MAX_NESTING, MAX_WEIGHT, PromptError};

const ROUND: f64 = 1.1;
const SQUARE: f64 = 1.0 / 1.1;

/// A part of a weighted text.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// A text whose tokens all carry one weight; 1 = unchanged.
    Text {
        /// The text, escapes resolved.
        text: String,
        /// Its weight.
        weight: f32,
    },
    /// `BREAK`: the next text starts a new chunk.
    Break,
}

/// A text with emphasis resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightedText {
    /// The text before emphasis was parsed: what a cache may use as its key.
    pub source: String,
    /// Its parts in order; at least one.
    pub pieces: Vec<Piece>,
}

impl WeightedText {
    /// The text as it is, nothing parsed, every weight 1.
    pub fn literal(source: impl Into<String>) -> Self {
        let source = source.into();
        let pieces = vec![Piece::Text { text: source.clone(), weight: 1.0 }];
        Self { source, pieces }
    }

    /// Parses emphasis. Errors: `Nesting`, `Weight`.
    pub fn parse(source: impl Into<String>) -> Result<Self, PromptError> {
        let source = source.into();
        let pieces = Parser::default().run(&source)?;
        Ok(Self { source, pieces })
    }

    /// Whether any part has a weight other than 1.
    pub fn has_weights(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Text { weight, .. } if *weight != 1.0))
    }
}

/// A part while brackets around it may still be open; `None` = `BREAK`.
type Draft = (Option<String>, f64);

#[derive(Default)]
struct Parser {
    drafts: Vec<Draft>,
    round: Vec<usize>,
    square: Vec<usize>,
}

impl Parser {
    fn run(mut self, source: &str) -> Result<Vec<Piece>, PromptError> {
        let mut rest = source;
        while let Some(first) = rest.chars().next() {
            let taken = match first {
                '\\' => {
                    // Only brackets and the backslash are escaped by it; before anything else it disappears.
                    let escaped = rest[1..].chars().next().filter(|c| "()[]\\".contains(*c));
                    self.push(escaped.map(String::from).unwrap_or_default());
                    1 + escaped.map_or(0, char::len_utf8)
                }
                '(' | '[' => {
                    self.open(first)?;
                    1
                }
                ')' | ']' => {
                    self.close(first);
                    1
                }
                ':' => match explicit_weight(rest) {
                    Some((weight, length)) if !self.round.is_empty() => {
                        let start = self.round.pop().unwrap_or(0);
                        self.scale(start, weight);
                        length
                    }
                    _ => {
                        self.push(":".into());
                        1
                    }
                },
                _ => {
                    let end = rest.find(['\\', '(', ')', '[', ']', ':']).unwrap_or(rest.len());
                    self.push_text(&rest[..end]);
                    end
                }
            };
            rest = &rest[taken..];
        }
        for start in std::mem::take(&mut self.round) {
            self.scale(start, ROUND);
        }
        for start in std::mem::take(&mut self.square) {
            self.scale(start, SQUARE);
        }
        merge(self.drafts)
    }

    fn open(&mut self, bracket: char) -> Result<(), PromptError> {
        let stack = if bracket == '(' { &mut self.round } else { &mut self.square };
        stack.push(self.drafts.len());
        // This also bounds the work: each closing bracket walks over the parts inside of it.
        if self.round.len() + self.square.len() > MAX_NESTING {
            return Err(PromptError::Nesting { limit: MAX_NESTING });
        }
        Ok(())
    }

    fn close(&mut self, bracket: char) {
        let (stack, factor) = if bracket == ')' { (&mut self.round, ROUND) } else { (&mut self.square, SQUARE) };
        match stack.pop() {
            Some(start) => self.scale(start, factor),
            None => self.push(bracket.into()),
        }
    }

    fn scale(&mut self, start: usize, factor: f64) {
        for (_, weight) in &mut self.drafts[start..] {
            *weight *= factor;
        }
    }

    fn push(&mut self, text: String) {
        self.drafts.push((Some(text), 1.0));
    }

    fn push_text(&mut self, text: &str) {
        let mut rest = text;
        while let Some(at) = find_break(rest) {
            self.push(rest[..at].trim_end().into());
            self.drafts.push((None, 1.0));
            rest = rest[at + "BREAK".len()..].trim_start();
        }
        self.push(rest.into());
    }
}

/// Where `BREAK` stands as a word of its own.
fn find_break(text: &str) -> Option<usize> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices("BREAK").map(|(at, _)| at).find(|&at| {
        !text[..at].chars().next_back().is_some_and(is_word)
            && !text[at + "BREAK".len()..].chars().next().is_some_and(is_word)
    })
}

/// Reads `: 1.3 )` and tells the weight and the length in bytes.
fn explicit_weight(rest: &str) -> Option<(f64, usize)> {
    let number = rest.strip_prefix(':')?.trim_start();
    let digits = number.find(|c: char| !(c.is_ascii_digit() || "+-.".contains(c))).unwrap_or(number.len());
    let weight = number[..digits].parse().ok()?;
    let tail = number[digits..].trim_start().strip_prefix(')')?;
    Some((weight, rest.len() - tail.len()))
}

/// Joins neighbours of exactly the same weight, as the reference does: what is tokenized together depends on it.
fn merge(drafts: Vec<Draft>) -> Result<Vec<Piece>, PromptError> {
    let mut merged: Vec<Draft> = Vec::with_capacity(drafts.len());
    for (text, weight) in drafts {
        if !weight.is_finite() || weight.abs() > f64::from(MAX_WEIGHT) {
            return Err(PromptError::Weight { weight, limit: MAX_WEIGHT });
        }
        match (merged.last_mut(), text) {
            (Some((Some(last), same)), Some(text)) if *same == weight => last.push_str(&text),
            (_, text) => merged.push((text, weight)),
        }
    }
    let pieces = merged.into_iter().filter_map(|(text, weight)| match text {
        None => Some(Piece::Break),
        Some(text) if text.is_empty() => None,
        Some(text) => Some(Piece::Text { text, weight: weight as f32 }),
    });
    let mut pieces: Vec<Piece> = pieces.collect();
    if pieces.is_empty() {
        pieces.push(Piece::Text { text: String::new(), weight: 1.0 });
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(source: &str) -> String {
        match WeightedText::parse(source) {
            Err(error) => error.code().into(),
            Ok(parsed) => {
                let parts = parsed.pieces.iter().map(|piece| match piece {
                    Piece::Break => "BREAK".into(),
                    Piece::Text { text, weight } => format!("{text}@{weight:.4}"),
                });
                parts.collect::<Vec<_>>().join("|")
            }
        }
    }

    #[track_caller]
    fn check(source: &str, expected: &str) {
        assert_eq!(show(source), expected, "for {source:?}");
    }

    #[test]
    fn emphasis_as_automatic1111_has_it() {
        check("normal text", "normal text@1.0000");
        check("", "@1.0000");
        check("an (important) word", "an @1.0000|important@1.1000| word@1.0000");
        check("(unbalanced", "unbalanced@1.1000");
        check("unbalanced)", "unbalanced)@1.0000");
        check("[a]b", "a@0.9091|b@1.0000");
        check("\\(literal\\]", "(literal]@1.0000");
        check("a\\b \\\\", "ab \\@1.0000");
        check("(unnecessary)(parens)", "unnecessaryparens@1.1000");
        check(
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            "a @1.0000|house@1.5730| @1.1000|on@1.0000| a @1.1000|hill@0.5500|, sun, @1.1000|sky@1.4641|.@1.1000",
        );
        check("(a : 1.5 )b", "a @1.5000|b@1.0000");
        check("(a:-0.5)", "a@-0.5000");
        check("(a:+2)", "a@2.0000");
        check("(a:.5)", "a@0.5000");
        check("(a:1.2.3)", "a:1.2.3@1.1000");
        check("a:1.2) b", "a:1.2) b@1.0000");
        check("[a:1.2]", "a:1.2@0.9091");
        check("(日本:1.2)é", "日本@1.2000|é@1.0000");
    }

    #[test]
    fn breaks() {
        check("a BREAK b", "a@1.0000|BREAK|b@1.0000");
        check("aBREAK b BREAK_", "aBREAK b BREAK_@1.0000");
        check("BREAK\n BREAK", "BREAK|BREAK");
        check("(a BREAK b:1.5)", "a@1.5000|BREAK|b@1.5000");
    }

    #[test]
    fn bounds() {
        check("(a:99999999999999999999999999999999999999999999999999)", "prompt_weight");
        check("((a:900):900)", "prompt_weight");
        check(&"(".repeat(MAX_NESTING + 1), "prompt_nesting");
        check(&format!("{}a", "[".repeat(MAX_NESTING)), "a@0.0001");
        check(&"a) ".repeat(20_000), &format!("{}@1.0000", "a) ".repeat(20_000)));
    }
}
