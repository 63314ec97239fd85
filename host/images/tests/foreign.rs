//! Pictures of other programs: the pixels and texts that Pillow reads in them.
#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail loudly")]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sd_images::{Limits, decode, inspect};
use serde_json::{Map, Value};

/// The largest difference of a colour. JPEG decoders round differently, and spread halved colours differently (those
/// with orientations have them in full); everything else is exact.
fn allowed(name: &str) -> u8 {
    match name {
        _ if !name.ends_with(".jpg") => 0,
        _ if name.starts_with("exif") || name.starts_with("grey") => 3,
        _ => 8,
    }
}

#[test]
fn pixels_and_texts_are_those_that_pillow_reads() {
    let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/images"));
    let expected = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    let expected: Map<String, Value> = serde_json::from_str(&expected).unwrap();
    assert!(expected.len() > 25);
    for (name, wanted) in &expected {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        let decoded = decode(&bytes, &Limits::default());
        if wanted["refused"] == true {
            let error = decoded.unwrap_err();
            assert!(error.is_input(), "{name}: {error}");
            continue;
        }
        let picture = decoded.unwrap();
        let size = (picture.width, picture.height);
        assert_eq!(
            size,
            (wanted["width"].as_u64().unwrap() as u32, wanted["height"].as_u64().unwrap() as u32),
            "{name}"
        );
        let pixels = STANDARD.decode(wanted["pixels"].as_str().unwrap()).unwrap();
        let channels = if wanted["mode"] == "RGBA" { 4 } else { 3 };
        assert_eq!(picture.alpha.is_some(), channels == 4, "{name}");
        let far = pixels
            .chunks_exact(channels)
            .zip(picture.rgb.chunks_exact(3))
            .flat_map(|(theirs, ours)| ours.iter().zip(theirs).map(|(a, b)| a.abs_diff(*b)).collect::<Vec<_>>());
        let far = far.max().unwrap();
        assert!(far <= allowed(name), "{name}: {far}");
        if let Some(alpha) = &picture.alpha {
            let theirs: Vec<u8> = pixels.chunks_exact(4).map(|p| p[3]).collect();
            assert_eq!(alpha, &theirs, "{name}");
        }
        let told = inspect(&bytes, &Limits::default()).unwrap();
        assert_eq!(told.parameters.as_deref(), wanted["parameters"].as_str(), "{name}");
        for (key, text) in wanted["texts"].as_object().unwrap() {
            let found = told.texts.iter().find(|(k, _)| k == key).map(|(_, t)| t.as_str());
            assert_eq!(found, text.as_str(), "{name}: {key}");
        }
    }
}
