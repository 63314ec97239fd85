//! Pictures and the recipes inside them.

use sd_images::{Infotext, Limits, Recipe, bytes_from_text, decode, inspect};

/// Small, so that the fuzzer does not wait for pixels.
const LIMITS: Limits = Limits { max_bytes: 1 << 20, max_side: 1024, max_pixels: 1 << 18 };

/// A picture's file, and the same bytes as the text of a request.
pub(crate) fn image(data: &[u8]) {
    match decode(data, &LIMITS) {
        Ok(picture) => {
            picture.check().unwrap_or_else(|e| panic!("{e}"));
            assert!(picture.pixels() as u64 <= LIMITS.max_pixels);
        }
        Err(error) => assert!(error.is_input(), "{error}"),
    }
    match inspect(data, &LIMITS) {
        Ok(seen) => assert!(seen.texts.iter().map(|(_, text)| text.len()).sum::<usize>() <= 4 << 20),
        Err(error) => assert!(error.is_input(), "{error}"),
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(bytes) = bytes_from_text(text, &LIMITS)
    {
        assert!(bytes.len() <= LIMITS.max_bytes);
    }
}

/// An infotext: what was read and written again reads as the same.
pub(crate) fn recipe(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let info = Infotext::parse(&text);
    for (key, _) in &info.fields {
        assert!(info.get(key).is_some());
    }
    let once = Recipe::from_infotext(&text);
    let again = Recipe::from_infotext(&once.infotext());
    assert_eq!((again.steps, again.seed, again.width, again.height), (once.steps, once.seed, once.width, once.height));
    let _: Recipe = serde_json::from_str(&once.json()).unwrap_or_else(|e| panic!("{e}: {}", once.json()));
}
