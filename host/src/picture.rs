//! Pictures of requests: decoded within bounds and brought to the job's size.

use crate::{
    fault::{Fault, FaultCode},
    jobs::ResizeMode,
};
use sd_images::{Factors, Filter, ImageError, Limits, Mask, Picture};
use sd_models::ResolvedModel;

impl From<ImageError> for Fault {
    fn from(error: ImageError) -> Self {
        let code = if error.is_input() { FaultCode::InvalidImage } else { FaultCode::Internal };
        Fault::new(code, error.to_string())
    }
}

fn limits(pixels: u64) -> Limits {
    // A picture may come larger than the job's: four times as many pixels are still brought down.
    Limits { max_pixels: pixels.saturating_mul(4), ..Limits::default() }
}

/// The bytes of a picture given as base64 or data URL.
pub(crate) fn bytes_of(text: &str) -> Result<Vec<u8>, Fault> {
    Ok(sd_images::bytes_from_text(text, &Limits::default())?)
}

/// Decodes a picture given as base64 or data URL.
pub(crate) fn from_text(text: &str, pixels: u64) -> Result<Picture, Fault> {
    let limits = limits(pixels);
    Ok(sd_images::decode(&sd_images::bytes_from_text(text, &limits)?, &limits)?)
}

fn mode(mode: ResizeMode) -> sd_images::ResizeMode {
    match mode {
        // Latents are resized later; whatever must have the job's size before is stretched like them.
        ResizeMode::Stretch | ResizeMode::Latent => sd_images::ResizeMode::Stretch,
        ResizeMode::Crop => sd_images::ResizeMode::Crop,
        ResizeMode::Fill => sd_images::ResizeMode::Fill,
    }
}

/// Brings a picture to the job's size. Transparent parts become white.
pub(crate) fn fit(picture: Picture, width: u32, height: u32, resize: ResizeMode) -> Result<Picture, Fault> {
    let picture = picture.flatten([255; 3]);
    if picture.size() == (width, height) {
        return Ok(picture);
    }
    Ok(sd_images::resize(&picture, width, height, mode(resize))?)
}

/// How a mask in a request is to be read.
pub(crate) struct MaskRules {
    /// Transparent = repaint, in place of white.
    pub(crate) alpha: bool,
    /// Paint where it says keep, and the reverse.
    pub(crate) invert: bool,
    /// Blur in pixels.
    pub(crate) blur: u32,
}

/// Brings a mask to the job's size: 255 = repaint.
pub(crate) fn mask(
    picture: &Picture,
    width: u32,
    height: u32,
    resize: ResizeMode,
    rules: &MaskRules,
) -> Result<Mask, Fault> {
    let mask = if rules.alpha { Mask::from_transparent(picture)? } else { Mask::from_white(picture) };
    let mask = if rules.invert { mask.invert() } else { mask };
    let mask = if (mask.width, mask.height) == (width, height) {
        mask
    } else {
        mask.resize(width, height, mode(resize), Filter::Bilinear)?
    };
    Ok(if rules.blur > 0 { mask.blur(rules.blur as f32, rules.blur as f32) } else { mask })
}

/// A rough picture from latents by the model's own or its family's linear factors; `None` for latents that are not four
/// channels.
pub(crate) fn from_latents(latents: &[f32], width: usize, height: usize, model: &ResolvedModel) -> Option<Picture> {
    let factors = match model.defaults.preview_factors {
        Some([a, b, c, d, bias]) => Factors { weights: [a, b, c, d], bias },
        None if model.family.is_xl() => Factors::SDXL,
        None => Factors::SD,
    };
    sd_images::latents_to_rgb(latents, height, width, &factors).ok()
}
