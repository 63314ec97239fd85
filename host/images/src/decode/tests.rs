//! Hostile and unusual files.

use super::*;
use crate::{Embedded, OutputFormat, encode, exif};
use std::time::{Duration, Instant};

fn sample() -> Picture {
    let rgb: Vec<u8> = (0..33u32 * 18).flat_map(|i| [(i % 251) as u8, (i / 3) as u8, 17]).collect();
    Picture::new(33, 18, rgb, None).unwrap()
}

fn file(format: OutputFormat) -> Vec<u8> {
    let embedded = Embedded { parameters: Some("a cat"), recipe: Some("{}") };
    encode(&sample(), format, &embedded).unwrap()
}

fn files() -> [Vec<u8>; 4] {
    let jpeg = OutputFormat::Jpeg { quality: 80 };
    [OutputFormat::Png, jpeg, OutputFormat::Webp { quality: 80 }, OutputFormat::WebpLossless].map(file)
}

fn code(bytes: &[u8]) -> &'static str {
    match decode(bytes, &Limits::default()) {
        Ok(_) => "ok",
        Err(error) => error.code(),
    }
}

fn chunk(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(kind);
    crc.update(content);
    [&(content.len() as u32).to_be_bytes(), kind.as_slice(), content, &crc.sum().to_be_bytes()].concat()
}

/// A PNG from its parts. `data`: filtered rows, deflated here.
fn png(width: u32, height: u32, depth: u8, colour: u8, extra: &[Vec<u8>], data: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    zlib.write_all(data).unwrap();
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[depth, colour, 0, 0, 0]].concat();
    let mut out = [super::png::SIGNATURE, &chunk(b"IHDR", &header)].concat();
    extra.iter().for_each(|part| out.extend_from_slice(part));
    out.extend(chunk(b"IDAT", &zlib.finish().unwrap()));
    out.extend(chunk(b"IEND", &[]));
    out
}

#[test]
fn formats_by_their_first_bytes() {
    for (bytes, expected) in [
        (b"".as_slice(), "it is empty"),
        (b"GIF89a", "it is a GIF"),
        (b"BM....", "it is a BMP"),
        (b"\0\0\0\x1cftypavif", "it is an AVIF"),
        (b"\0\0\0\x1cftypheic", "it is a HEIC or a video"),
        (b"<svg xmlns", "it is SVG, XML or HTML"),
        (b"II*\0", "it is a TIFF"),
        (b"MZ\0\0", "it is no known image format"),
        (b"RIFF\0\0\0\0WAVE", "it is no known image format"),
    ] {
        assert_eq!(decode(bytes, &Limits::default()).unwrap_err(), ImageError::Format { found: expected });
    }
}

#[test]
fn colour_types_of_png() {
    /// Name, file, colours, alpha.
    type Case = (&'static str, Vec<u8>, Vec<u8>, Option<Vec<u8>>);
    let alpha = Some(vec![255, 7]);
    let cases: [Case; 8] = [
        ("grey", png(2, 1, 8, 0, &[], &[0, 9, 200]), vec![9, 9, 9, 200, 200, 200], None),
        ("1-bit grey", png(2, 1, 1, 0, &[], &[0, 0b0100_0000]), vec![0, 0, 0, 255, 255, 255], None),
        ("16-bit grey", png(2, 1, 16, 0, &[], &[0, 9, 77, 200, 3]), vec![9, 9, 9, 200, 200, 200], None),
        ("grey, alpha", png(2, 1, 8, 4, &[], &[0, 9, 255, 8, 7]), vec![9, 9, 9, 8, 8, 8], alpha.clone()),
        (
            "16-bit RGBA",
            png(2, 1, 16, 6, &[], &[0, 1, 0, 2, 0, 3, 0, 255, 255, 4, 0, 5, 0, 6, 0, 7, 7]),
            vec![1, 2, 3, 4, 5, 6],
            alpha.clone(),
        ),
        ("palette", png(2, 1, 8, 3, &[chunk(b"PLTE", &[1, 2, 3, 4, 5, 6])], &[0, 0, 1]), vec![1, 2, 3, 4, 5, 6], None),
        (
            "transparent palette",
            png(2, 1, 8, 3, &[chunk(b"PLTE", &[1, 2, 3, 4, 5, 6]), chunk(b"tRNS", &[255, 7])], &[0, 0, 1]),
            vec![1, 2, 3, 4, 5, 6],
            alpha,
        ),
        (
            "transparent colour",
            png(2, 1, 8, 2, &[chunk(b"tRNS", &[0, 4, 0, 5, 0, 6])], &[0, 1, 2, 3, 4, 5, 6]),
            vec![1, 2, 3, 4, 5, 6],
            Some(vec![255, 0]),
        ),
    ];
    for (name, bytes, rgb, alpha) in cases {
        let picture = decode(&bytes, &Limits::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((picture.rgb, picture.alpha), (rgb, alpha), "{name}");
    }
}

#[test]
fn orientation_is_applied() {
    let expected = sample().oriented(6);
    let tiff = exif::orientation_only(6);
    let plain = encode(&sample(), OutputFormat::Png, &Embedded::default()).unwrap();
    let png = [&plain[..33], &chunk(b"eXIf", &tiff[6..]), &plain[33..]].concat();
    assert_eq!(decode(&png, &Limits::default()).unwrap(), expected);
    let jpeg = file(OutputFormat::Jpeg { quality: 95 });
    let segment = [&[0xFF, 0xE1][..], &(tiff.len() as u16 + 2).to_be_bytes(), &tiff].concat();
    let turned = decode(&[&jpeg[..2], &segment, &jpeg[2..]].concat(), &Limits::default()).unwrap();
    assert_eq!(turned, decode(&jpeg, &Limits::default()).unwrap().oriented(6));
}

#[test]
fn variants_that_are_not_read() {
    assert_eq!(code(&crate::inspect::tests::png_with(&[(b"acTL", vec![0; 8])])), "image_animated");
    assert_eq!(code(&crate::inspect::tests::png_with(&[(b"ABCD", vec![0; 8])])), "image_corrupt");
    let jpeg = file(OutputFormat::Jpeg { quality: 80 });
    let frame = jpeg.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
    let changed = |offset: usize, value: u8| {
        let mut copy = jpeg.clone();
        copy[frame + offset] = value;
        copy
    };
    assert_eq!(code(&changed(9, 4)), "image_unsupported", "CMYK");
    assert_eq!(code(&changed(4, 12)), "image_unsupported", "12 bits");
    assert_eq!(code(&changed(1, 0xC3)), "image_unsupported", "lossless");
    assert_eq!(code(&changed(1, 0xC9)), "image_unsupported", "arithmetic");
    let mut webp = file(OutputFormat::WebpLossless);
    webp[20] |= 0x02;
    assert_eq!(code(&webp), "image_animated");
}

#[test]
fn bombs_are_refused_by_their_dimensions() {
    let start = Instant::now();
    let huge = [0xEA, 0x60];
    let wide = png(60_000, 60_000, 8, 6, &[], &[0; 100]);
    let mut jpeg = file(OutputFormat::Jpeg { quality: 80 });
    let frame = jpeg.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
    jpeg[frame + 5..frame + 7].copy_from_slice(&huge);
    jpeg[frame + 7..frame + 9].copy_from_slice(&huge);
    let mut extended = file(OutputFormat::WebpLossless);
    extended[24..30].copy_from_slice(&[0x5F, 0xEA, 0, 0x5F, 0xEA, 0]);
    let simple = |format| {
        let mut bytes = encode(&sample(), format, &Embedded::default()).unwrap();
        match format {
            OutputFormat::WebpLossless => bytes[21..25].copy_from_slice(&0x0FFF_FFFFu32.to_le_bytes()),
            _ => bytes[26..30].copy_from_slice(&[0xFF, 0x3F, 0xFF, 0x3F]),
        }
        bytes
    };
    let cases = [
        wide.clone(),
        wide[..33].to_vec(),
        jpeg,
        extended,
        simple(OutputFormat::WebpLossless),
        simple(OutputFormat::Webp { quality: 80 }),
        // Nothing at all.
        png(0, 5, 8, 6, &[], &[]),
    ];
    for (i, bytes) in cases.iter().enumerate() {
        assert_eq!(code(bytes), "image_dimensions", "case {i}");
    }
    let mut inner = file(OutputFormat::WebpLossless);
    inner[24] = 40;
    assert_eq!(code(&inner), "image_corrupt", "the picture does not fill the frame");
    assert!(start.elapsed() < Duration::from_millis(400), "{:?}", start.elapsed());
    let small = Limits { max_bytes: 50, ..Limits::default() };
    assert_eq!(decode(&cases[0], &small).unwrap_err().code(), "image_too_large");
}

#[test]
fn cut_files_and_files_with_a_tail() {
    for (i, bytes) in files().iter().enumerate() {
        assert_eq!(code(bytes), "ok", "format {i}");
        for end in 0..bytes.len() {
            assert_ne!(code(&bytes[..end]), "ok", "format {i} cut at {end}");
        }
        assert_eq!(code(&bytes[..bytes.len() - 3]), "image_truncated", "format {i}");
        assert_eq!(code(&[bytes.as_slice(), b"PK\x03\x04 and more"].concat()), "image_trailing_data", "format {i}");
        assert_eq!(code(&[bytes.as_slice(), &[0; 512]].concat()), "ok", "format {i} with zeros behind it");
    }
}

/// Text and profile bombs: refused at the first few MiB.
#[test]
fn bombs_in_extras_are_refused() {
    let bomb = {
        use std::io::Write;
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        (0..256).for_each(|_| zlib.write_all(&[0; 1 << 20]).unwrap());
        zlib.finish().unwrap()
    };
    for (kind, head) in
        [(b"zTXt", b"Comment\0\0".as_slice()), (b"iTXt", b"Comment\0\x01\0\0\0"), (b"iCCP", b"profile\0\0")]
    {
        let file = crate::inspect::tests::png_with(&[(kind, [head, &bomb].concat())]);
        let start = Instant::now();
        assert_eq!(code(&file), "image_unpacks");
        assert!(start.elapsed() < Duration::from_millis(200), "{:?}", start.elapsed());
    }
}

/// Valid files with random damage: an answer or an error, never a panic.
#[test]
fn damaged_files() {
    let mut state = 11u64;
    let mut next = move |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound.max(1)
    };
    let files = files();
    let limits = Limits { max_side: 512, max_pixels: 512 * 512, ..Limits::default() };
    let mut refused = 0;
    for round in 0..2_000 {
        let mut bytes = files[round % 4].clone();
        for _ in 0..=next(6) {
            let at = next(bytes.len());
            match next(5) {
                0 => bytes[at] = next(256) as u8,
                1 => bytes[at] ^= 1 << next(8),
                2 => drop(bytes.remove(at)),
                3 => bytes.insert(at, next(256) as u8),
                _ => bytes[at] = [0, 0xFF, 0x7F, 0x80][next(4)],
            }
        }
        refused += u32::from(decode(&bytes, &limits).is_err());
        let _ = crate::inspect(&bytes, &limits);
    }
    assert!(refused > 500, "only {refused} of 2000 were refused");
}
