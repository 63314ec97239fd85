//! Writing pictures with their recipe inside.

use crate::{ImageError, Picture, exif};
use image::{ExtendedColorType, ImageEncoder, codecs};

/// The keyword of A1111's text in a PNG.
pub(crate) const PARAMETERS: &str = "parameters";
/// The keyword of our JSON in a PNG.
pub(crate) const RECIPE: &str = "sd-worker";
/// The most bytes of EXIF data: a JPEG segment's, less its header.
const MAX_EXIF: usize = 65_500;

/// A format to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OutputFormat {
    /// Lossless; keeps alpha.
    #[default]
    Png,
    /// Lossy; drops alpha.
    Jpeg {
        /// 1 to 100.
        quality: u8,
    },
    /// Lossy; keeps alpha.
    Webp {
        /// 0 to 100.
        quality: u8,
    },
    /// Lossless; keeps alpha.
    WebpLossless,
}

impl OutputFormat {
    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg { .. } => "image/jpeg",
            Self::Webp { .. } | Self::WebpLossless => "image/webp",
        }
    }

    /// Its file extension.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg { .. } => "jpg",
            Self::Webp { .. } | Self::WebpLossless => "webp",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Png => "PNG",
            Self::Jpeg { .. } => "JPEG",
            Self::Webp { .. } | Self::WebpLossless => "WebP",
        }
    }
}

/// The recipe that a picture carries.
#[derive(Debug, Clone, Copy, Default)]
pub struct Embedded<'a> {
    /// A1111's text.
    pub parameters: Option<&'a str>,
    /// Our JSON.
    pub recipe: Option<&'a str>,
}

/// Writes a picture. PNG carries the recipe as text chunks, JPEG and WebP as EXIF data: `UserComment` and `MakerNote`.
/// A JPEG has room for 64 KiB: first the JSON is left out, then the text.
///
/// Errors: `Length`, `Encode`.
pub fn encode(picture: &Picture, format: OutputFormat, embedded: &Embedded<'_>) -> Result<Vec<u8>, ImageError> {
    picture.check()?;
    match format {
        OutputFormat::Png => png(picture, embedded),
        OutputFormat::Jpeg { quality } => jpeg(picture, quality, embedded),
        OutputFormat::Webp { quality } => {
            let (samples, alpha) = interleaved(picture);
            let encoder = if alpha {
                webp::Encoder::from_rgba(&samples, picture.width, picture.height)
            } else {
                webp::Encoder::from_rgb(&samples, picture.width, picture.height)
            };
            let quality = f32::from(quality.min(100));
            let simple = encoder.encode_simple(false, quality).map_err(|e| failed(format, format!("{e:?}")))?;
            with_exif(picture, alpha, &simple, embedded)
        }
        OutputFormat::WebpLossless => {
            let (samples, alpha) = interleaved(picture);
            let mut simple = Vec::new();
            codecs::webp::WebPEncoder::new_lossless(&mut simple)
                .write_image(&samples, picture.width, picture.height, colour(alpha))
                .map_err(|error| failed(format, error))?;
            with_exif(picture, alpha, &simple, embedded)
        }
    }
}

fn failed(format: OutputFormat, reason: impl ToString) -> ImageError {
    ImageError::Encode { format: format.name(), reason: reason.to_string() }
}

fn colour(alpha: bool) -> ExtendedColorType {
    if alpha { ExtendedColorType::Rgba8 } else { ExtendedColorType::Rgb8 }
}

/// RGB or RGBA samples, and whether there is alpha.
fn interleaved(picture: &Picture) -> (std::borrow::Cow<'_, [u8]>, bool) {
    match &picture.alpha {
        None => (picture.rgb.as_slice().into(), false),
        Some(alpha) => {
            let pixels = picture.rgb.chunks_exact(3).zip(alpha);
            let samples: Vec<u8> = pixels.flat_map(|(rgb, &alpha)| [rgb[0], rgb[1], rgb[2], alpha]).collect();
            (samples.into(), true)
        }
    }
}

fn png(picture: &Picture, embedded: &Embedded<'_>) -> Result<Vec<u8>, ImageError> {
    let fail = |error| failed(OutputFormat::Png, error);
    let (samples, alpha) = interleaved(picture);
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, picture.width, picture.height);
    encoder.set_color(if alpha { png::ColorType::Rgba } else { png::ColorType::Rgb });
    encoder.set_depth(png::BitDepth::Eight);
    // A ninth of the balanced setting's time for files up to half as large again: nobody waits for a picture's file.
    encoder.set_compression(png::Compression::Fast);
    for (keyword, text) in [(PARAMETERS, embedded.parameters), (RECIPE, embedded.recipe)] {
        let Some(text) = text else { continue };
        // A text chunk ends nowhere but at its end; a NUL would cut it for some readers.
        let text = text.replace('\0', "");
        if text.chars().all(|c| u32::from(c) < 256) {
            encoder.add_text_chunk(keyword.into(), text).map_err(fail)?;
        } else {
            encoder.add_itxt_chunk(keyword.into(), text).map_err(fail)?;
        }
    }
    let mut writer = encoder.write_header().map_err(fail)?;
    writer.write_image_data(&samples).map_err(fail)?;
    writer.finish().map_err(fail)?;
    Ok(out)
}

fn jpeg(picture: &Picture, quality: u8, embedded: &Embedded<'_>) -> Result<Vec<u8>, ImageError> {
    let format = OutputFormat::Jpeg { quality };
    if picture.width > 65_535 || picture.height > 65_535 {
        return Err(failed(format, "a side is longer than 65535 pixels"));
    }
    let attempts = [
        exif::write(embedded.parameters, embedded.recipe),
        exif::write(embedded.parameters, None),
        exif::write(None, embedded.recipe),
        Vec::new(),
    ];
    let exif = attempts.into_iter().find(|data| data.len() <= MAX_EXIF).unwrap_or_default();
    let mut out = Vec::new();
    let mut encoder = codecs::jpeg::JpegEncoder::new_with_quality(&mut out, quality.clamp(1, 100));
    if !exif.is_empty() {
        encoder.set_exif_metadata(exif).map_err(|error| failed(format, error))?;
    }
    encoder
        .write_image(&picture.rgb, picture.width, picture.height, ExtendedColorType::Rgb8)
        .map_err(|error| failed(format, error))?;
    Ok(out)
}

/// Turns a WebP file into its extended form with EXIF data behind the picture (the container's specification, RFC 9649).
fn with_exif(picture: &Picture, alpha: bool, simple: &[u8], embedded: &Embedded<'_>) -> Result<Vec<u8>, ImageError> {
    let exif = exif::write(embedded.parameters, embedded.recipe);
    let chunks = simple.get(12..).unwrap_or_default();
    if exif.is_empty() {
        return Ok(simple.to_vec());
    }
    let mut out = b"RIFF\0\0\0\0WEBP".to_vec();
    // libwebp writes the extended header itself where alpha is apart; it only lacks the flag.
    if chunks.starts_with(b"VP8X") {
        out.extend_from_slice(chunks);
        out[20] |= 0x08;
    } else {
        let flags = 0x08 | if alpha { 0x10 } else { 0 };
        out.extend_from_slice(b"VP8X\x0a\0\0\0");
        out.extend([flags, 0, 0, 0]);
        out.extend_from_slice(&(picture.width - 1).to_le_bytes()[..3]);
        out.extend_from_slice(&(picture.height - 1).to_le_bytes()[..3]);
        out.extend_from_slice(chunks);
    }
    out.extend_from_slice(b"EXIF");
    out.extend_from_slice(&(exif.len() as u32).to_le_bytes());
    out.extend_from_slice(&exif);
    out.resize(out.len() + out.len() % 2, 0);
    let length = (out.len() - 8) as u32;
    out[4..8].copy_from_slice(&length.to_le_bytes());
    Ok(out)
}
