//! Pictures as text: base64, with or without a data URL around it. Links are refused, never fetched.

use crate::{ImageError, Limits};
use base64::{
    Engine,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::URL_SAFE, LENIENT);

const LINKS: [(&str, &str); 6] = [
    ("http:", "http"),
    ("https:", "https"),
    ("file:", "file"),
    ("ftp:", "ftp"),
    ("blob:", "blob"),
    ("//", "scheme-relative"),
];

/// The bytes of a picture given as base64 or as `data:image/…;base64,…`. White space is ignored, padding optional.
///
/// Errors: `Link`, `DataUrl`, `Base64`, `TooManyBytes` (before anything is decoded).
pub fn bytes_from_text(text: &str, limits: &Limits) -> Result<Vec<u8>, ImageError> {
    let text = text.trim();
    let starts = |prefix: &str| text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    if let Some((_, scheme)) = LINKS.iter().find(|(prefix, _)| starts(prefix)) {
        return Err(ImageError::Link { scheme });
    }
    let payload = if starts("data:") {
        let (head, payload) = text["data:".len()..].split_once(',').ok_or(ImageError::DataUrl)?;
        let mut parts = head.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default().to_ascii_lowercase();
        let image = media.starts_with("image/") || media == "application/octet-stream";
        if !image || !parts.next_back().is_some_and(|last| last.eq_ignore_ascii_case("base64")) {
            return Err(ImageError::DataUrl);
        }
        payload
    } else {
        text
    };
    let blanks = payload.bytes().filter(u8::is_ascii_whitespace).count();
    let bytes = (payload.len() - blanks) / 4 * 3;
    if bytes > limits.max_bytes {
        return Err(ImageError::TooManyBytes { bytes, limit: limits.max_bytes });
    }
    let url_safe = payload.bytes().any(|b| b == b'-' || b == b'_');
    let engine = if url_safe { &URL_SAFE } else { &STANDARD };
    let decoded = if blanks == 0 {
        engine.decode(payload)
    } else {
        engine.decode(payload.bytes().filter(|b| !b.is_ascii_whitespace()).collect::<Vec<_>>())
    };
    decoded.map_err(|error| ImageError::Base64 { reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&[u8], &str>) {
        let limits = Limits { max_bytes: 12, ..Limits::default() };
        let found = bytes_from_text(text, &limits);
        assert_eq!(found.as_deref().map_err(ImageError::code), expected, "for {text:?}");
    }

    #[test]
    fn base64_and_data_urls() {
        check("aGVsbG8=", Ok(b"hello"));
        check(" aGVs\nbG8 \r\n", Ok(b"hello"));
        check("_-8", Ok(&[255, 239]));
        check("/+8=", Ok(&[255, 239]));
        check("data:image/png;base64,aGVsbG8=", Ok(b"hello"));
        check("DATA:Image/JPEG;name=x;BASE64,aGVsbG8=", Ok(b"hello"));
        check("data:image/png,hello", Err("image_data_url"));
        check("data:text/html;base64,aGVsbG8=", Err("image_data_url"));
        check("data:image/png;base64", Err("image_data_url"));
        check("a%b", Err("image_base64"));
        check("é", Err("image_base64"));
        check(&"A".repeat(16), Ok(&[0; 12]));
        check(&"A".repeat(20), Err("image_too_large"));
        check("", Ok(b""));
    }

    #[test]
    fn links_are_refused_by_name() {
        for link in ["http://a/b.png", " HTTPS://a", "file:///etc/passwd", "ftp://x", "//host/x", "blob:x"] {
            check(link, Err("image_link"));
        }
    }
}
