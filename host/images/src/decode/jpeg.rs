//! JPEG: the walk over its segments, and decoding.

use super::{Limits, Walk, corrupt, no_trailer, picture};
use crate::{ImageError, Picture};
use zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};

const JPEG: &str = "JPEG";
/// The most scans of a progressive picture; encoders write about 10. Each costs a pass over all pixels.
const MAX_SCANS: usize = 24;

pub(super) fn walk<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Walk<'a>, ImageError> {
    let truncated = || ImageError::Truncated { format: JPEG };
    let unsupported = |what| Err(ImageError::Unsupported { format: JPEG, what });
    let mut walk = Walk::default();
    walk.keep(0..2, JPEG)?;
    let mut at = 2;
    let mut scans = 0;
    loop {
        // Any number of 0xFF may stand before a marker; one is kept.
        if *bytes.get(at).ok_or_else(truncated)? != 0xFF {
            return Err(corrupt(JPEG, "a segment does not start with a marker"));
        }
        while bytes.get(at) == Some(&0xFF) {
            at += 1;
        }
        let marker = *bytes.get(at).ok_or_else(truncated)?;
        let from = at - 1;
        at += 1;
        if marker == 0xD9 {
            if scans == 0 {
                return Err(corrupt(JPEG, "it has no image data"));
            }
            walk.keep(from..at, JPEG)?;
            no_trailer(JPEG, &bytes[at..])?;
            return Ok(walk);
        }
        if matches!(marker, 0x00 | 0x01 | 0xD0..=0xD8) {
            return Err(corrupt(JPEG, "a marker stands where none may be"));
        }
        let length =
            bytes.get(at..at + 2).map(|l| usize::from(u16::from_be_bytes([l[0], l[1]]))).ok_or_else(truncated)?;
        if length < 2 {
            return Err(corrupt(JPEG, "a segment has no length"));
        }
        let content = bytes.get(at + 2..at + length).ok_or_else(truncated)?;
        at += length;
        match marker {
            0xC0..=0xC2 => {
                frame(&mut walk, content, limits)?;
                walk.keep(from..at, JPEG)?;
            }
            0xC3 | 0xC5..=0xC7 => return unsupported("is lossless or hierarchical"),
            0xC8..=0xCF if marker != 0xC8 => return unsupported("uses arithmetic coding"),
            0xDC => return unsupported("tells its height late"),
            0xDA => {
                scans += 1;
                if walk.width == 0 {
                    return Err(corrupt(JPEG, "its data come before its header"));
                }
                if scans > MAX_SCANS {
                    return Err(corrupt(JPEG, "it has too many scans"));
                }
                at += entropy_coded(&bytes[at..]).ok_or_else(truncated)?;
                walk.keep(from..at, JPEG)?;
            }
            0xC4 | 0xDB | 0xDD => walk.keep(from..at, JPEG)?,
            // What says how colours are coded.
            0xE0 if content.starts_with(b"JFIF\0") => walk.keep(from..at, JPEG)?,
            0xEE if content.starts_with(b"Adobe") => walk.keep(from..at, JPEG)?,
            0xE1 if content.starts_with(b"Exif\0\0") => walk.exif = walk.exif.or(Some(content)),
            _ => {}
        }
    }
}

fn frame(walk: &mut Walk<'_>, content: &[u8], limits: &Limits) -> Result<(), ImageError> {
    let &[depth, h1, h0, w1, w0, components, ..] = content else {
        return Err(ImageError::Truncated { format: JPEG });
    };
    if walk.width != 0 {
        return Err(corrupt(JPEG, "it has two headers"));
    }
    (walk.width, walk.height) = (u16::from_be_bytes([w1, w0]).into(), u16::from_be_bytes([h1, h0]).into());
    limits.check(walk.width.into(), walk.height.into())?;
    let unsupported = |what| Err(ImageError::Unsupported { format: JPEG, what });
    match (depth, components) {
        (8, 1 | 3) => Ok(()),
        (8, 4) => unsupported("is CMYK"),
        (8, _) => unsupported("has an unusual number of colour components"),
        _ => unsupported("has more than 8 bits a colour"),
    }
}

/// The length of entropy-coded data: up to the next marker that is neither a stuffed zero nor a restart.
fn entropy_coded(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += bytes.get(at..)?.iter().position(|&b| b == 0xFF)?;
        match bytes.get(at + 1)? {
            0x00 | 0xD0..=0xD7 => at += 2,
            0xFF => at += 1,
            _ => return Some(at),
        }
    }
}

pub(super) fn decode(clean: &[u8], walk: &Walk<'_>) -> Result<Picture, ImageError> {
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(walk.width as usize)
        .set_max_height(walk.height as usize)
        .jpeg_set_max_scans(MAX_SCANS)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(clean), options);
    let samples = decoder.decode().map_err(|error| corrupt(JPEG, error))?;
    let dimensions = decoder.dimensions();
    if dimensions != Some((walk.width as usize, walk.height as usize)) {
        return Err(corrupt(JPEG, "its data do not match its dimensions"));
    }
    picture(JPEG, walk, samples, 3)
}
