//! PNG: the walk over its chunks, and decoding.

use super::{Limits, Walk, corrupt, no_trailer, picture};
use crate::{ImageError, Picture};
use std::io::Cursor;

pub(super) const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
const PNG: &str = "PNG";
/// What the decoder may allocate beside the picture itself: rows and the inflater's window.
const WORKING_BYTES: usize = 16 << 20;

pub(super) fn walk<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Walk<'a>, ImageError> {
    let truncated = || ImageError::Truncated { format: PNG };
    let mut walk = Walk::default();
    walk.keep(0..SIGNATURE.len(), PNG)?;
    let mut at = SIGNATURE.len();
    let mut has_data = false;
    loop {
        let head: [u8; 8] = bytes.get(at..at + 8).and_then(|head| head.try_into().ok()).ok_or_else(truncated)?;
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let kind = &bytes[at + 4..at + 8];
        if !kind.iter().all(u8::is_ascii_alphabetic) {
            return Err(corrupt(PNG, "a chunk has no valid name"));
        }
        if walk.width == 0 && kind != b"IHDR" {
            return Err(corrupt(PNG, "it does not start with its header"));
        }
        // Length, name, content, checksum. The header is judged even in a file that is cut right after it.
        let end = at + 12 + length;
        let content = bytes.get(at + 8..end - 4);
        if kind == b"IHDR" && walk.width == 0 {
            header(&mut walk, content.filter(|c| c.len() == 13).ok_or_else(truncated)?, limits)?;
        } else if kind == b"IHDR" {
            return Err(corrupt(PNG, "it has two headers"));
        }
        let content = content.filter(|_| end <= bytes.len()).ok_or_else(truncated)?;
        match kind {
            b"IHDR" | b"PLTE" | b"tRNS" => walk.keep(at..end, PNG)?,
            b"IDAT" => {
                has_data = true;
                walk.keep(at..end, PNG)?;
            }
            b"IEND" if !has_data => return Err(corrupt(PNG, "it has no image data")),
            b"IEND" => {
                walk.keep(at..end, PNG)?;
                no_trailer(PNG, &bytes[end..])?;
                return Ok(walk);
            }
            b"acTL" | b"fcTL" | b"fdAT" => return Err(ImageError::Animated { format: PNG }),
            b"eXIf" => walk.exif = walk.exif.or(Some(content)),
            b"tEXt" | b"zTXt" | b"iTXt" if walk.texts.len() < 256 => walk.texts.push((kind, content)),
            _ if kind[0].is_ascii_uppercase() => return Err(corrupt(PNG, "it has an unknown critical chunk")),
            _ => {}
        }
        at = end;
    }
}

fn header(walk: &mut Walk<'_>, content: &[u8], limits: &Limits) -> Result<(), ImageError> {
    let number = |at: usize| u32::from_be_bytes([content[at], content[at + 1], content[at + 2], content[at + 3]]);
    (walk.width, walk.height) = (number(0), number(4));
    limits.check(walk.width.into(), walk.height.into())
}

pub(super) fn decode(clean: &[u8], walk: &Walk<'_>) -> Result<Picture, ImageError> {
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(clean), png::Limits { bytes: WORKING_BYTES });
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(error)?;
    let size = reader.output_buffer_size().ok_or_else(|| corrupt(PNG, "its dimensions overflow"))?;
    let mut samples = vec![0; size];
    let info = reader.next_frame(&mut samples).map_err(error)?;
    samples.truncate(info.buffer_size());
    reader.finish().map_err(error)?;
    picture(PNG, walk, samples, info.color_type.samples())
}

fn error(error: png::DecodingError) -> ImageError {
    match error {
        png::DecodingError::IoError(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => {
            ImageError::Truncated { format: PNG }
        }
        other => corrupt(PNG, other),
    }
}
