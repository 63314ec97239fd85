//! Adapter tags: `<lora:name:0.8>` and its relatives, taken out of a prompt before anything else reads it.

use crate::PromptError;

/// The most tags in one prompt.
pub const MAX_TAGS: usize = 32;

/// One `<kind:name:…>` tag.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterTag {
    /// What stands before the first colon, in lower case: `lora`, `lyco`, `hypernet`.
    pub kind: String,
    /// The adapter's name as written.
    pub name: String,
    /// Strength on the text encoders.
    pub text_weight: f32,
    /// Strength on the denoiser.
    pub unet_weight: f32,
}

/// Takes the tags out: the rest of the prompt and the tags in their order.
///
/// `<lora:name>` is strength 1, `<lora:name:0.8>` both strengths, `<lora:name:0.8:0.5>` text encoder and denoiser;
/// `te=` and `unet=` name them. Tags of other kinds stay text. Errors: `AdapterTag` for numbers that are none.
pub fn extract(prompt: &str) -> Result<(String, Vec<AdapterTag>), PromptError> {
    let mut text = String::with_capacity(prompt.len());
    let mut tags = Vec::new();
    let mut rest = prompt;
    while let Some(open) = rest.find('<') {
        let inner = &rest[open + 1..];
        let end = inner.find(['<', '>']).filter(|&end| inner.as_bytes()[end] == b'>');
        let Some((end, kind, arguments)) = end.and_then(|end| {
            let (kind, arguments) = inner[..end].split_once(':')?;
            let kind = kind.to_ascii_lowercase();
            matches!(kind.as_str(), "lora" | "lyco" | "hypernet").then_some((end, kind, arguments))
        }) else {
            text.push_str(&rest[..=open]);
            rest = inner;
            continue;
        };
        if tags.len() == MAX_TAGS {
            return Err(PromptError::TooManyTags { limit: MAX_TAGS });
        }
        tags.push(read(kind, arguments)?);
        text.push_str(&rest[..open]);
        rest = &inner[end + 1..];
    }
    text.push_str(rest);
    Ok((text, tags))
}

fn read(kind: String, arguments: &str) -> Result<AdapterTag, PromptError> {
    let wrong = || PromptError::AdapterTag { tag: format!("<{kind}:{arguments}>").chars().take(80).collect() };
    let number = |text: &str| {
        let number = text.trim().parse::<f32>().ok();
        number.filter(|n| n.abs() <= crate::MAX_WEIGHT).ok_or_else(wrong)
    };
    let mut parts = arguments.split(':');
    let name = parts.next().unwrap_or_default().trim().to_owned();
    if name.is_empty() {
        return Err(wrong());
    }
    let (mut text, mut unet) = (None, None);
    for part in parts {
        match part.split_once('=') {
            Some((key, value)) if key.trim() == "te" => text = Some(number(value)?),
            Some((key, value)) if key.trim() == "unet" => unet = Some(number(value)?),
            Some(_) => return Err(wrong()),
            None if text.is_none() => text = Some(number(part)?),
            None if unet.is_none() => unet = Some(number(part)?),
            None => return Err(wrong()),
        }
    }
    let text_weight = text.unwrap_or(1.0);
    // As in the web UI, one number means both.
    Ok(AdapterTag { kind, name, text_weight, unet_weight: unet.unwrap_or(text_weight) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(prompt: &str, expected: &str) {
        let shown = match extract(prompt) {
            Err(error) => error.code().into(),
            Ok((text, tags)) => tags.iter().fold(text, |all, tag| {
                format!("{all}|{} {} {} {}", tag.kind, tag.name, tag.text_weight, tag.unet_weight)
            }),
        };
        assert_eq!(shown, expected, "for {prompt:?}");
    }

    #[test]
    fn tags() {
        check("a cat", "a cat");
        check("a <lora:x:0.8>cat", "a cat|lora x 0.8 0.8");
        check("<lora:x><LoRA:y z:1:0.5>", "|lora x 1 1|lora y z 1 0.5");
        check("<lora:x:te=0.2:unet=0.4>", "|lora x 0.2 0.4");
        check("<lora:x:-1>", "|lora x -1 -1");
        check("<3 <b> <foo:bar> a<b", "<3 <b> <foo:bar> a<b");
        check("<<lora:x>", "<|lora x 1 1");
        check("<lora:x", "<lora:x");
        for wrong in ["<lora:>", "<lora:x:y>", "<lora:x:1:2:3>", "<lora:x:a=1>", "<lora:x:nan>", "<lora:x:1e9>"] {
            check(wrong, "adapter_tag");
        }
        check(&"<lora:x>".repeat(MAX_TAGS + 1), "too_many_adapters");
    }
}
