//! Every format carries its recipe, and hostile texts are left out.

use super::*;
use crate::{Embedded, OutputFormat, Picture, decode, encode};
use std::io::Write;

const FORMATS: [OutputFormat; 4] = [
    OutputFormat::Png,
    OutputFormat::Jpeg { quality: 90 },
    OutputFormat::Webp { quality: 90 },
    OutputFormat::WebpLossless,
];

fn sample(alpha: bool) -> Picture {
    let rgb: Vec<u8> = (0..21u32 * 13).flat_map(|i| [(i * 3 / 4) as u8, (i / 2) as u8, 90]).collect();
    Picture::new(21, 13, rgb, alpha.then(|| (0..21 * 13).map(|i| (i % 256) as u8).collect())).unwrap()
}

#[test]
fn pictures_and_recipes_come_back() {
    for format in FORMATS {
        for alpha in [false, true] {
            for text in ["a cat\nSteps: 2, Seed: 3, Size: 8x8", "猫 é 😀", ""] {
                let picture = sample(alpha);
                let embedded = Embedded { parameters: Some(text), recipe: Some("{\"prompt\":\"猫\"}") };
                let bytes = encode(&picture, format, &embedded).unwrap();
                let found = inspect(&bytes, &Limits::default()).unwrap();
                let context = format!("{format:?}, alpha {alpha}, {text:?}");
                assert_eq!(found.parameters.as_deref(), Some(text), "{context}");
                assert_eq!(found.recipe.as_deref(), embedded.recipe, "{context}");
                assert_eq!((found.width, found.height), picture.size(), "{context}");
                assert_eq!(found.format.media_type(), format.media_type());
                check_pixels(&bytes, &picture, format, &context);
                let bare = encode(&picture, format, &Embedded::default()).unwrap();
                assert_eq!(inspect(&bare, &Limits::default()).unwrap().parameters, None, "{context}");
                check_pixels(&bare, &picture, format, &context);
            }
        }
    }
}

fn check_pixels(bytes: &[u8], picture: &Picture, format: OutputFormat, context: &str) {
    let back = decode(bytes, &Limits::default()).unwrap();
    match format {
        OutputFormat::Png | OutputFormat::WebpLossless => {
            // Where nothing is visible an encoder may forget the colour; none of ours does.
            assert_eq!(back, *picture, "{context}");
        }
        OutputFormat::Jpeg { .. } => assert_eq!(back.alpha, None, "{context}"),
        OutputFormat::Webp { .. } => assert_eq!(back.alpha, picture.alpha, "{context}"),
    }
    if picture.alpha.is_none() {
        let off = back.rgb.iter().zip(&picture.rgb).map(|(a, b)| u64::from(a.abs_diff(*b))).sum::<u64>();
        assert!(off / (picture.rgb.len() as u64) < 6, "{context}: mean difference {off}");
    }
}

#[test]
fn quality_changes_the_size() {
    let rgb: Vec<u8> = (0..128u32 * 128 * 3).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let picture = Picture::new(128, 128, rgb, None).unwrap();
    let size = |format| encode(&picture, format, &Embedded::default()).unwrap().len();
    assert!(size(OutputFormat::Jpeg { quality: 20 }) * 2 < size(OutputFormat::Jpeg { quality: 95 }));
    assert!(size(OutputFormat::Webp { quality: 5 }) * 2 < size(OutputFormat::Webp { quality: 95 }));
    assert!(size(OutputFormat::Webp { quality: 50 }) < size(OutputFormat::WebpLossless));
}

#[test]
fn a_jpeg_leaves_out_what_does_not_fit() {
    let (short, long) = ("a: 1", "x".repeat(60_000));
    let read = |parameters: &str, recipe: &str| {
        let embedded = Embedded { parameters: Some(parameters), recipe: Some(recipe) };
        let bytes = encode(&sample(false), OutputFormat::Jpeg { quality: 80 }, &embedded).unwrap();
        let found = inspect(&bytes, &Limits::default()).unwrap();
        (found.parameters.is_some(), found.recipe.is_some())
    };
    assert_eq!(read(short, "{}"), (true, true));
    assert_eq!(read(&long[..30_000], &long), (true, false));
    assert_eq!(read(&long, "{}"), (false, true));
    assert_eq!(read(&long, &long.repeat(2)), (false, false));
}

/// A PNG with further chunks behind its header.
pub(crate) fn png_with(chunks: &[(&[u8; 4], Vec<u8>)]) -> Vec<u8> {
    let mut png = encode(&sample(false), OutputFormat::Png, &Embedded::default()).unwrap();
    let tail = png.split_off(33);
    for (kind, content) in chunks {
        png.extend((content.len() as u32).to_be_bytes());
        png.extend_from_slice(*kind);
        png.extend_from_slice(content);
        let mut crc = flate2::Crc::new();
        crc.update(*kind);
        crc.update(content);
        png.extend(crc.sum().to_be_bytes());
    }
    png.extend(tail);
    png
}

fn zlib(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn text_chunks_of_all_kinds() {
    let png = png_with(&[
        (b"tEXt", b"parameters\0caf\xe9".to_vec()),
        (b"tEXt", "prompt\0{\"1\": \"猫\"}".as_bytes().to_vec()),
        (b"zTXt", [b"Comment\0\0".as_slice(), &zlib(b"small")].concat()),
        (b"iTXt", [b"Title\0\x01\0en\0\0".as_slice(), &zlib("猫".as_bytes())].concat()),
        (b"iTXt", b"Bad utf8\0\0\0\0\0\xff".to_vec()),
        (b"tEXt", b"no end".to_vec()),
        (b"zTXt", b"Broken\0\0zzz".to_vec()),
    ]);
    let found = inspect(&png, &Limits::default()).unwrap();
    let texts: Vec<_> = found.texts.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let expected = [("parameters", "café"), ("prompt", "{\"1\": \"猫\"}"), ("Comment", "small"), ("Title", "猫")];
    assert_eq!(texts, expected);
    assert_eq!(found.parameters.as_deref(), Some("café"));
    assert_eq!(decode(&png, &Limits::default()).unwrap(), sample(false));
}

#[test]
fn texts_are_bounded() {
    let bomb = zlib(&vec![0; 64 << 20]);
    let many = [b"Comment\0\0".as_slice(), &zlib(&vec![b'x'; MAX_TEXT / 2])].concat();
    let png = png_with(&[
        (b"zTXt", many.clone()),
        (b"zTXt", many.clone()),
        (b"zTXt", many),
        (b"tEXt", [b"Long\0".as_slice(), &vec![b'y'; MAX_TEXT + 1]].concat()),
    ]);
    let found = inspect(&png, &Limits::default()).unwrap();
    assert_eq!((found.parameters, found.texts.len()), (None, 2));
    // What is a bomb is refused as a picture too, and so are small ones that add up.
    for kind in [b"zTXt", b"iCCP"] {
        let png = png_with(&[(kind, [b"parameters\0\0".as_slice(), &bomb].concat())]);
        assert_eq!(inspect(&png, &Limits::default()).unwrap_err().code(), "image_unpacks");
        assert_eq!(decode(&png, &Limits::default()).unwrap_err().code(), "image_unpacks");
    }
    let piece = zlib(&vec![0; 1 << 20]);
    let pieces: Vec<_> = (0..9).map(|_| (b"iTXt", [b"a\0\x01\0\0\0".as_slice(), &piece].concat())).collect();
    assert!(decode(&png_with(&pieces[..8]), &Limits::default()).is_ok());
    assert_eq!(decode(&png_with(&pieces), &Limits::default()).unwrap_err().code(), "image_unpacks");
}
