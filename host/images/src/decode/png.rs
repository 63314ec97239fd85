//! PNG: the walk over its chunks, and decoding.

use super::{Limits, Walk, corrupt, no_trailer, picture};
use crate::{ImageError, Picture};
use std::io::{Cursor, Read};

pub(super) const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
const PNG: &str = "PNG";
/// The most bytes that the compressed texts and the colour profile of a file may unpack to. They carry no pixels and are
/// not needed, but what holds more than this is no picture that somebody wants to send.
const MAX_UNPACKED: u64 = 8 << 20;
/// What the decoder may allocate beside the picture itself: rows and the inflater's window.
const WORKING_BYTES: usize = 16 << 20;

pub(super) fn walk<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Walk<'a>, ImageError> {
    let truncated = || ImageError::Truncated { format: PNG };
    let mut walk = Walk::default();
    walk.keep(0..SIGNATURE.len(), PNG)?;
    let mut at = SIGNATURE.len();
    let mut data = 0;
    let mut room = MAX_UNPACKED;
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
        if let b"zTXt" | b"iTXt" | b"iCCP" = kind {
            let packed = packed(kind, content).unwrap_or_default();
            room = room
                .checked_sub(unpacked(packed, room))
                .ok_or(ImageError::Unpacks { format: PNG, limit: MAX_UNPACKED })?;
        }
        match kind {
            b"IHDR" | b"PLTE" | b"tRNS" => walk.keep(at..end, PNG)?,
            b"IDAT" => {
                data += content.len() as u64;
                walk.keep(at..end, PNG)?;
            }
            b"IEND" if data > most_data(&walk) => {
                return Err(corrupt(PNG, "it holds more data than its dimensions explain"));
            }
            b"IEND" if data == 0 => return Err(corrupt(PNG, "it has no image data")),
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

/// The most bytes of compressed data that a picture's pixels need: eight bytes each, a filter byte a row (Adam7 has up to
/// seven short rows in place of one), a percent for what does not compress, and some to be kind to odd encoders.
fn most_data(walk: &Walk<'_>) -> u64 {
    let (width, height) = (u64::from(walk.width), u64::from(walk.height));
    (width * height * 8 + height * 7) * 101 / 100 + (64 << 10)
}

/// The compressed part of a text or profile chunk, if it has one.
pub(crate) fn packed<'a>(kind: &[u8], content: &'a [u8]) -> Option<&'a [u8]> {
    let (_keyword, rest) = split(content)?;
    if kind != b"iTXt" {
        return rest.strip_prefix(b"\0");
    }
    let rest = rest.strip_prefix(b"\x01\0")?;
    let (_language, rest) = split(rest)?;
    Some(split(rest)?.1)
}

/// What stands before and behind the first zero byte.
pub(crate) fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&b| b == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// How many bytes a zlib stream unpacks to, counted to `room` + 1 and kept nowhere.
fn unpacked(packed: &[u8], room: u64) -> u64 {
    let mut inflated = flate2::read::ZlibDecoder::new(packed).take(room + 1);
    // Broken streams count as far as they go; whoever reads them finds out by himself.
    let _ = std::io::copy(&mut inflated, &mut std::io::sink());
    room + 1 - inflated.limit()
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
