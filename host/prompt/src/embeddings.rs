//! Textual inversion: names in a text that stand for trained vectors.

use crate::PromptError;

/// The token ids that stand for an embedding's vectors: `first_id`, `first_id + 1`, …
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placeholder {
    /// The first id; the caller gives ids beyond the encoder's vocabulary.
    pub first_id: u32,
    /// Number of vectors, at least 1.
    pub vectors: u32,
}

/// Looks an embedding up for an encoder (its index in [`crate::encode`]'s list) by name. Ignoring case is the caller's
/// choice; so is what an encoder reads that an embedding has no vectors for.
pub type FindEmbedding<'a> = dyn Fn(usize, &str) -> Option<Placeholder> + 'a;

/// The same for one encoder.
type Find<'a> = dyn Fn(&str) -> Option<Placeholder> + 'a;

/// Names with blanks are looked for up to this many words.
const MAX_WORDS: usize = 4;
const PREFIX: &str = "embedding:";

/// A stretch of a text.
#[derive(Debug, PartialEq)]
pub(crate) enum Part<'a> {
    Text(&'a str),
    Embedding { name: &'a str, placeholder: Placeholder },
}

/// Finds `embedding:name` (an error where it is unknown) and bare names that stand as words of their own.
pub(crate) fn split<'a>(text: &'a str, find: &Find<'_>) -> Result<Vec<Part<'a>>, PromptError> {
    let mut parts = Vec::new();
    let (mut from, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        let Some(first) = rest.chars().next() else { break };
        if !is_name(first) {
            at += first.len_utf8();
            continue;
        }
        // `at` is the start of a word.
        let found = match rest.get(..PREFIX.len()) {
            Some(prefix) if prefix.eq_ignore_ascii_case(PREFIX) => {
                let name = &rest[PREFIX.len()..];
                let name = longest(name, find)
                    .ok_or_else(|| PromptError::UnknownEmbedding { name: word(name).chars().take(80).collect() })?;
                Some((PREFIX.len(), name))
            }
            _ => longest(rest, find).map(|name| (0, name)),
        };
        match found {
            Some((skipped, (name, placeholder))) => {
                parts.push(Part::Text(&text[from..at]));
                parts.push(Part::Embedding { name, placeholder });
                at += skipped + name.len();
                from = at;
            }
            None => at += word(rest).len(),
        }
    }
    parts.push(Part::Text(&text[from..]));
    parts.retain(|part| !matches!(part, Part::Text("")));
    Ok(parts)
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || "_-.".contains(c)
}

fn word(text: &str) -> &str {
    &text[..text.find(|c| !is_name(c)).unwrap_or(text.len())]
}

/// The longest known name that `text` starts with and that ends where a word ends.
fn longest<'a>(text: &'a str, find: &Find<'_>) -> Option<(&'a str, Placeholder)> {
    let mut best = None;
    let mut end = 0;
    for _ in 0..MAX_WORDS {
        let length = word(&text[end..]).len();
        if length == 0 {
            break;
        }
        end += length;
        // A full stop after a name ends a sentence, it seldom belongs to the name.
        for name in [&text[..end], text[..end].trim_end_matches('.')] {
            if let Some(placeholder) = find(name).filter(|found| found.vectors > 0) {
                best = Some((name, placeholder));
                break;
            }
        }
        if !text[end..].starts_with(' ') {
            break;
        }
        end += 1;
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(name: &str) -> Option<Placeholder> {
        let vectors = match name.to_ascii_lowercase().as_str() {
            "easynegative" => 8,
            "bad-hands-5" => 2,
            "by bad artist" => 3,
            "by" => 1,
            _ => return None,
        };
        Some(Placeholder { first_id: 49408, vectors })
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let shown = match split(text, &find) {
            Err(error) => error.to_string(),
            Ok(parts) => {
                let parts = parts.iter().map(|part| match part {
                    Part::Text(text) => format!("'{text}'"),
                    Part::Embedding { name, placeholder } => format!("{name}*{}", placeholder.vectors),
                });
                parts.collect::<Vec<_>>().join(" ")
            }
        };
        assert_eq!(shown, expected, "for {text:?}");
    }

    #[test]
    fn names() {
        check("a cat", "'a cat'");
        check("", "");
        check("easynegative, blurry", "easynegative*8 ', blurry'");
        check("x EasyNegative.", "'x ' EasyNegative*8 '.'");
        check("veryeasynegative easynegative2", "'veryeasynegative easynegative2'");
        check("embedding:bad-hands-5 a", "bad-hands-5*2 ' a'");
        check("(Embedding:easynegative)", "'(' easynegative*8 ')'");
        check("art by bad artist", "'art ' by bad artist*3");
        check("art by bad", "'art ' by*1 ' bad'");
        check("é embedding:nope, b", "the prompt asks for the embedding \"nope\", which is not installed");
        check("embedding:", "the prompt asks for the embedding \"\", which is not installed");
        check("embeddings: easynegative", "'embeddings: ' easynegative*8");
        check("日本easynegative 日", "'日本easynegative 日'");
    }
}
