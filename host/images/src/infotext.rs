//! A1111's infotext: prompt, negative prompt, and a last line of `Key: value` pairs.
//!
//! Reading and quoting follow `modules/infotext_utils.py`, so that texts go through both programs unharmed.

/// An infotext taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Infotext {
    /// The prompt; may have several lines.
    pub prompt: String,
    /// The negative prompt.
    pub negative_prompt: String,
    /// The pairs of the last line, in order.
    pub fields: Vec<(String, String)>,
}

/// The longest text that is read.
const MAX_BYTES: usize = 1 << 20;
const NEGATIVE: &str = "Negative prompt:";

impl Infotext {
    /// Reads an infotext. Anything is one: without at least three pairs on its last line it is all prompt. More than
    /// 1 MiB is cut.
    pub fn parse(text: &str) -> Self {
        let mut end = text.len().min(MAX_BYTES);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let text = text[..end].trim();
        let (mut body, last) = text.rsplit_once('\n').unwrap_or(("", text));
        let mut pairs = pairs(last);
        if pairs.len() < 3 {
            (body, pairs) = (text, Vec::new());
        }
        let pairs = pairs.into_iter().filter(|(_, value)| !value.is_empty());
        let fields = pairs.map(|(key, value)| (key.to_owned(), unquote(value))).collect();
        let mut info = Self { fields, ..Self::default() };
        let mut negative = false;
        for line in body.split('\n').map(str::trim) {
            let rest = line.strip_prefix(NEGATIVE);
            negative |= rest.is_some();
            let target = if negative { &mut info.negative_prompt } else { &mut info.prompt };
            if !target.is_empty() {
                target.push('\n');
            }
            target.push_str(rest.unwrap_or(line).trim());
        }
        info
    }

    /// The value of a key; of several the last one, as in A1111.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.fields.iter().rfind(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

impl std::fmt::Display for Infotext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = self.prompt.clone();
        if !self.negative_prompt.is_empty() {
            text.push_str(&format!("\n{NEGATIVE} {}", self.negative_prompt));
        }
        let pairs = self.fields.iter().map(|(key, value)| format!("{key}: {}", quote(value)));
        text.push('\n');
        text.push_str(&pairs.collect::<Vec<_>>().join(", "));
        f.write_str(text.trim())
    }
}

/// A value as it stands in the last line: in JSON quotes where it would be misread.
fn quote(value: &str) -> String {
    let plain = !value.contains([',', '\n', ':', '"']) && value.trim() == value;
    if plain { value.to_owned() } else { serde_json::Value::from(value).to_string() }
}

fn unquote(value: &str) -> String {
    let quoted = value.len() > 1 && value.starts_with('"') && value.ends_with('"');
    quoted.then(|| serde_json::from_str(value).ok()).flatten().unwrap_or_else(|| value.to_owned())
}

/// All `key: value` pairs of a line, values as they stand there. A key is two or more word characters, blanks, `-` or `/`; a value reaches to the
/// next comma, or is a quoted string.
fn pairs(line: &str) -> Vec<(&str, &str)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let is_key = |c: char| is_word(c) || matches!(c, ' ' | '-' | '/');
    let mut found = Vec::new();
    let mut rest = line;
    while let Some(start) = rest.find(is_word) {
        rest = &rest[start..];
        let end = rest.find(|c| !is_key(c)).unwrap_or(rest.len());
        let key = &rest[..end];
        let Some(value) = rest[end..].strip_prefix(':').filter(|_| key.chars().nth(1).is_some()) else {
            rest = &rest[end..];
            continue;
        };
        let value = value.trim_start();
        let length = quoted_length(value).unwrap_or_else(|| value.find(',').unwrap_or(value.len()));
        found.push((key, &value[..length]));
        rest = &value[length..];
    }
    found
}

/// The length of a quoted string that is followed by a comma or the end.
fn quoted_length(value: &str) -> Option<usize> {
    let inner = value.strip_prefix('"')?;
    let mut escaped = false;
    let close = inner.find(|c| {
        let closes = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        closes
    })?;
    let end = close + 2;
    (close > 0 && (value.len() == end || value[end..].starts_with(','))).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, prompt: &str, negative: &str, fields: &[(&str, &str)]) {
        let info = Infotext::parse(text);
        let found: Vec<_> = info.fields.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!((info.prompt.as_str(), info.negative_prompt.as_str(), &found[..]), (prompt, negative, fields));
    }

    #[test]
    fn texts_from_elsewhere() {
        check(
            "a cat, (hat:1.2)\nsecond line\nNegative prompt: ugly\nand more\nSteps: 20, Sampler: Euler a, CFG scale: 7, Size: 512x768",
            "a cat, (hat:1.2)\nsecond line",
            "ugly\nand more",
            &[("Steps", "20"), ("Sampler", "Euler a"), ("CFG scale", "7"), ("Size", "512x768")],
        );
        check("just a prompt", "just a prompt", "", &[]);
        check("a: b, c: d", "a: b, c: d", "", &[]);
        check("", "", "", &[]);
        check("Steps: 1, Seed: 2, Model: x", "", "", &[("Steps", "1"), ("Seed", "2"), ("Model", "x")]);
        check(
            "p\nSteps: 2, Lora hashes: \"a: 1, b: 2\", Template: \"x\\ny \\\"q\\\"\", Version: v1.9",
            "p",
            "",
            &[("Steps", "2"), ("Lora hashes", "a: 1, b: 2"), ("Template", "x\ny \"q\""), ("Version", "v1.9")],
        );
        check("p\nSteps: 2, Bad: \"x, Yes: z", "p", "", &[("Steps", "2"), ("Bad", "\"x"), ("Yes", "z")]);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let values = ["1", "a, b: c", "\"quoted\"", "new\nline", "日本: é", " blank ", "back\\slash", "a\"b"];
        for value in values {
            let info = Infotext {
                prompt: "one\ntwo <lora:x:1>".into(),
                negative_prompt: "bad, worse".into(),
                fields: vec![pair("Steps", "20"), pair("Value here", value), pair("Seed", "7")],
            };
            assert_eq!(Infotext::parse(&info.to_string()), info, "{info}");
        }
    }

    #[test]
    fn arbitrary_texts() {
        let alphabet = ['a', 'B', ' ', ',', ':', '"', '\\', '\n', 'é', '-', '1'];
        let mut state = 3u64;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..40 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                text.push(alphabet[(state >> 40) as usize % alphabet.len()]);
            }
            Infotext::parse(&text);
        }
        Infotext::parse(&"é".repeat(MAX_BYTES));
    }
}
