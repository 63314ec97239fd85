//! Decoding untrusted bytes: PNG, JPEG and WebP, still images only.
//!
//! A picture goes through two stages. First we walk over the container ourselves: that costs no memory, finds the
//! dimensions (checked before anything is allocated), and refuses animations, variants we do not read, cut files and
//! files with something behind the picture. Then the decoder gets a copy that holds nothing but the chunks that carry
//! pixels, so no text, profile or other compressed extra is ever inflated.

mod jpeg;
mod png;
mod webp;

pub(crate) use self::png::{packed, split};
use crate::{ImageError, Picture, exif};
use std::ops::Range;

/// Bounds for pictures from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of a file.
    pub max_bytes: usize,
    /// The longest side in pixels.
    pub max_side: u32,
    /// The most pixels.
    pub max_pixels: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: 32 << 20, max_side: 8192, max_pixels: 4096 * 4096 }
    }
}

impl Limits {
    /// Whether a picture of this size is allowed. Errors: `Dimensions`.
    pub fn check(&self, width: u64, height: u64) -> Result<(), ImageError> {
        let side = u64::from(self.max_side);
        let sides = (1..=side).contains(&width) && (1..=side).contains(&height);
        if sides && width * height <= self.max_pixels {
            return Ok(());
        }
        Err(ImageError::Dimensions { width, height, max_side: self.max_side, max_pixels: self.max_pixels })
    }
}

/// A format that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Portable Network Graphics.
    Png,
    /// JPEG.
    Jpeg,
    /// WebP, lossy or lossless.
    Webp,
}

impl Format {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::Webp => "WebP",
        }
    }

    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Webp => "image/webp",
        }
    }
}

/// Tells the format by the first bytes. Errors: `Format`, naming well-known formats that are not read.
pub fn sniff(bytes: &[u8]) -> Result<Format, ImageError> {
    let at = |offset: usize, magic: &[u8]| bytes.get(offset..offset + magic.len()) == Some(magic);
    let found = match bytes {
        [] => "it is empty",
        _ if at(0, png::SIGNATURE) => return Ok(Format::Png),
        _ if at(0, b"\xff\xd8\xff") => return Ok(Format::Jpeg),
        _ if at(0, b"RIFF") && at(8, b"WEBP") => return Ok(Format::Webp),
        _ if at(0, b"GIF8") => "it is a GIF",
        _ if at(0, b"BM") => "it is a BMP",
        _ if at(0, b"II*\0") || at(0, b"MM\0*") => "it is a TIFF",
        _ if at(4, b"ftypavif") || at(4, b"ftypavis") => "it is an AVIF",
        _ if at(4, b"ftyp") => "it is a HEIC or a video",
        _ if at(0, b"\xff\x0a") || at(4, b"JXL ") => "it is a JPEG XL",
        _ if at(0, b"<") || at(0, b"\xef\xbb\xbf<") => "it is SVG, XML or HTML",
        _ if at(0, b"%PDF") => "it is a PDF",
        _ if at(0, b"PK\x03\x04") => "it is a ZIP archive",
        _ => "it is no known image format",
    };
    Err(ImageError::Format { found })
}

/// What the walk over a container found.
#[derive(Debug, Default)]
pub(crate) struct Walk<'a> {
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// The chunks that carry pixels, neighbours joined.
    keep: Vec<Range<usize>>,
    /// EXIF data.
    pub(crate) exif: Option<&'a [u8]>,
    /// PNG's text chunks: type and content.
    pub(crate) texts: Vec<(&'a [u8], &'a [u8])>,
}

impl Walk<'_> {
    /// The most stretches and texts that are remembered.
    const MAX_PARTS: usize = 65_536;

    fn keep(&mut self, range: Range<usize>, format: &'static str) -> Result<(), ImageError> {
        let parts = self.keep.len();
        match self.keep.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ if parts == Self::MAX_PARTS => return Err(corrupt(format, "it has too many parts")),
            _ => self.keep.push(range),
        }
        Ok(())
    }

    /// A copy of the file with nothing but the kept stretches.
    fn clean(&self, bytes: &[u8]) -> Vec<u8> {
        let parts = self.keep.iter().map(|range| &bytes[range.clone()]);
        parts.collect::<Vec<_>>().concat()
    }
}

/// Walks over a picture's container. Errors: everything that can be told without decoding.
pub(crate) fn walk<'a>(bytes: &'a [u8], limits: &Limits) -> Result<(Format, Walk<'a>), ImageError> {
    if bytes.len() > limits.max_bytes {
        return Err(ImageError::TooManyBytes { bytes: bytes.len(), limit: limits.max_bytes });
    }
    let format = sniff(bytes)?;
    let walk = match format {
        Format::Png => png::walk(bytes, limits),
        Format::Jpeg => jpeg::walk(bytes, limits),
        Format::Webp => webp::walk(bytes, limits),
    }?;
    Ok((format, walk))
}

/// Decodes a picture: upright, 8-bit RGB, alpha apart. Colour profiles are ignored, 16-bit values keep their high byte.
///
/// Errors: `TooManyBytes`, `Format`, `Dimensions`, `Animated`, `Unpacks`, `Unsupported`, `Truncated`, `Corrupt`, `Trailing`.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Picture, ImageError> {
    let (format, walk) = walk(bytes, limits)?;
    let clean = walk.clean(bytes);
    let picture = match format {
        Format::Png => png::decode(&clean, &walk),
        Format::Jpeg => jpeg::decode(&clean, &walk),
        Format::Webp => webp::decode(clean, &walk),
    }?;
    Ok(match walk.exif {
        Some(data) => picture.oriented(exif::read(data).orientation),
        None => picture,
    })
}

fn corrupt(format: &'static str, reason: impl ToString) -> ImageError {
    let words = reason.to_string();
    let reason = if words.starts_with("CRC error") {
        "a checksum does not match".to_owned()
    } else if ["0x", "{", "::"].iter().any(|sign| words.contains(sign)) {
        // A decoder's own structures, which tell whoever sent the picture nothing.
        "its data cannot be decoded".to_owned()
    } else {
        // The decoders' words may quote the file; they are kept short.
        words.chars().take(120).collect()
    };
    ImageError::Corrupt { format, reason }
}

/// Refuses what follows the end of a picture; padding with zeros or a line end is harmless and common.
fn no_trailer(format: &'static str, rest: &[u8]) -> Result<(), ImageError> {
    if rest.iter().all(|&b| b == 0) || matches!(rest, b"\n" | b"\r\n") {
        return Ok(());
    }
    Err(ImageError::Trailing { format, bytes: rest.len() })
}

/// Makes a picture of decoded samples with 1 to 4 channels: grey, grey and alpha, RGB, RGB and alpha.
fn picture(format: &'static str, walk: &Walk<'_>, samples: Vec<u8>, channels: usize) -> Result<Picture, ImageError> {
    let pixels = walk.width as usize * walk.height as usize;
    if samples.len() != pixels * channels {
        return Err(corrupt(format, "its data do not match its dimensions"));
    }
    let (rgb, alpha) = match channels {
        1 => (samples.iter().flat_map(|&grey| [grey; 3]).collect(), None),
        2 => {
            let rgb = samples.chunks_exact(2).flat_map(|pixel| [pixel[0]; 3]).collect();
            (rgb, Some(samples.chunks_exact(2).map(|pixel| pixel[1]).collect()))
        }
        3 => (samples, None),
        _ => {
            let rgb = samples.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
            (rgb, Some(samples.chunks_exact(4).map(|pixel| pixel[3]).collect()))
        }
    };
    Picture::new(walk.width, walk.height, rgb, alpha)
}

#[cfg(test)]
mod tests;
