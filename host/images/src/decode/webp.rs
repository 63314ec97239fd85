//! WebP: the walk over its RIFF chunks, and decoding.

use super::{Limits, Walk, corrupt, no_trailer, picture};
use crate::{ImageError, Picture};
use std::io::Cursor;

const WEBP: &str = "WebP";
/// What the decoder may hold beside the picture itself.
const WORKING_BYTES: usize = 256 << 20;
/// Flags of the extended header: animation, and the three kinds of metadata, which we cut out.
const ANIMATION: u8 = 0x02;
const METADATA: u8 = 0x20 | 0x08 | 0x04;

pub(super) fn walk<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Walk<'a>, ImageError> {
    let truncated = || ImageError::Truncated { format: WEBP };
    let end = number(bytes, 4, 4).ok_or_else(truncated)? + 8;
    if end > bytes.len() {
        // The dimensions are judged first: they are in the first chunk.
        let mut walk = Walk::default();
        let (kind, content) = (bytes.get(12..16), bytes.get(20..));
        if let (Some(kind), Some(content)) = (kind, content) {
            dimensions(&mut walk, kind, content, limits)?;
        }
        return Err(truncated());
    }
    no_trailer(WEBP, &bytes[end..])?;
    let mut walk = Walk::default();
    walk.keep(0..12, WEBP)?;
    let (mut at, mut has_data) = (12, false);
    while at < end {
        let kind = bytes.get(at..at + 4).ok_or_else(truncated)?;
        let length = number(bytes, at + 4, 4).ok_or_else(truncated)?;
        // Chunks are padded to an even length.
        let next = at + 8 + length + length % 2;
        let content = bytes.get(at + 8..at + 8 + length).filter(|_| next <= end).ok_or_else(truncated)?;
        match kind {
            b"VP8X" | b"VP8 " | b"VP8L" => {
                if has_data || (kind == b"VP8X" && at != 12) {
                    return Err(corrupt(WEBP, "its chunks are out of order"));
                }
                has_data = kind != b"VP8X";
                dimensions(&mut walk, kind, content, limits)?;
                walk.keep(at..next, WEBP)?;
            }
            b"ALPH" if !has_data => walk.keep(at..next, WEBP)?,
            b"ANIM" | b"ANMF" => return Err(ImageError::Animated { format: WEBP }),
            b"EXIF" => walk.exif = walk.exif.or(Some(content)),
            _ if at == 12 => return Err(corrupt(WEBP, "it does not start with its header")),
            _ => {}
        }
        at = next;
    }
    if !has_data {
        return Err(corrupt(WEBP, "it has no image data"));
    }
    Ok(walk)
}

/// A little-endian number of 2 to 4 bytes.
fn number(bytes: &[u8], at: usize, length: usize) -> Option<usize> {
    Some(bytes.get(at..at + length)?.iter().rev().fold(0, |all, &byte| all << 8 | usize::from(byte)))
}

/// Reads the dimensions of a chunk. Inner pictures must fill the canvas: the decoder trusts the inner numbers.
fn dimensions(walk: &mut Walk<'_>, kind: &[u8], content: &[u8], limits: &Limits) -> Result<(), ImageError> {
    let read = || match kind {
        b"VP8X" => Some((number(content, 4, 3)? + 1, number(content, 7, 3)? + 1)),
        b"VP8 " => Some((number(content, 6, 2)? & 0x3FFF, number(content, 8, 2)? & 0x3FFF)),
        b"VP8L" => number(content, 1, 4).map(|bits| ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)),
        _ => Some((0, 0)),
    };
    let (width, height) = read().ok_or(ImageError::Truncated { format: WEBP })?;
    limits.check(width as u64, height as u64)?;
    let size = (width as u32, height as u32);
    if walk.width != 0 && (walk.width, walk.height) != size {
        return Err(corrupt(WEBP, "its data do not match its dimensions"));
    }
    (walk.width, walk.height) = size;
    if kind == b"VP8X" && content[0] & ANIMATION != 0 {
        return Err(ImageError::Animated { format: WEBP });
    }
    Ok(())
}

pub(super) fn decode(mut clean: Vec<u8>, walk: &Walk<'_>) -> Result<Picture, ImageError> {
    // Metadata were cut out: correct the file's length and the flags that announce them.
    let length = (clean.len() - 8) as u32;
    clean[4..8].copy_from_slice(&length.to_le_bytes());
    if clean.get(12..16) == Some(b"VP8X") {
        clean[20] &= !METADATA;
    }
    let fail = |error| match error {
        image_webp::DecodingError::IoError(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => {
            ImageError::Truncated { format: WEBP }
        }
        other => corrupt(WEBP, other),
    };
    let mut decoder = image_webp::WebPDecoder::new(Cursor::new(clean)).map_err(fail)?;
    decoder.set_memory_limit(WORKING_BYTES);
    if decoder.dimensions() != (walk.width, walk.height) {
        return Err(corrupt(WEBP, "its data do not match its dimensions"));
    }
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    let size = decoder.output_buffer_size().ok_or_else(|| corrupt(WEBP, "its dimensions overflow"))?;
    let mut samples = vec![0; size];
    decoder.read_image(&mut samples).map_err(fail)?;
    picture(WEBP, walk, samples, channels)
}
