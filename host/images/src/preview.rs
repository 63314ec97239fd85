//! Previews: latents to small pictures by a linear map, at no device cost.

use crate::{Embedded, Filter, ImageError, OutputFormat, Picture, encode, resample};

/// A linear map from the four latent channels to RGB from −1 to 1: `rgb = latentsᵀ · weights + bias`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Factors {
    /// A row per latent channel: red, green, blue.
    pub weights: [[f32; 3]; 4],
    /// Added at the end.
    pub bias: [f32; 3],
}

impl Factors {
    /// SD 1 and 2 (their VAEs share a latent space). Fitted by the community; the values are those ComfyUI uses.
    pub const SD: Self = Self {
        weights: [
            [0.3512, 0.2297, 0.3227],
            [0.3250, 0.4974, 0.2350],
            [-0.2829, 0.1762, 0.2721],
            [-0.2120, -0.2616, -0.7177],
        ],
        bias: [0.0; 3],
    };
    /// SDXL. Same source.
    pub const SDXL: Self = Self {
        weights: [
            [0.3651, 0.4232, 0.4341],
            [-0.2533, -0.0042, 0.1068],
            [0.1076, 0.1111, -0.0362],
            [-0.3165, -0.2492, -0.2188],
        ],
        bias: [0.1084, -0.0175, -0.0011],
    };
}

/// One picture of `width × height` pixels from `latents` (`4 × height × width`, in sampler space, scaled as the
/// denoiser sees them). Values that are not finite become black. Errors: `Length`.
pub fn latents_to_rgb(latents: &[f32], height: usize, width: usize, factors: &Factors) -> Result<Picture, ImageError> {
    let pixels = height * width;
    if latents.len() != 4 * pixels {
        return Err(ImageError::Length { what: "latents", found: latents.len(), expected: 4 * pixels });
    }
    let mut rgb = Vec::with_capacity(pixels * 3);
    for pixel in 0..pixels {
        for colour in 0..3 {
            let channels = factors.weights.iter().enumerate();
            let value: f32 = channels.map(|(c, row)| latents[c * pixels + pixel] * row[colour]).sum();
            // A cast from NaN gives 0.
            rgb.push(((value + factors.bias[colour] + 1.0) * 127.5).round() as u8);
        }
    }
    Picture::new(width as u32, height as u32, rgb, None)
}

/// A JPEG whose longer side is at most `max_side`; smaller pictures are enlarged by whole factors up to it.
/// Errors: `Encode`, `Length`.
pub fn preview_jpeg(picture: &Picture, max_side: u32, quality: u8) -> Result<Vec<u8>, ImageError> {
    let max_side = max_side.clamp(1, 4096);
    let long = picture.width.max(picture.height).max(1);
    let resized = if long > max_side {
        let scaled = |side: u32| (u64::from(side) * u64::from(max_side) / u64::from(long)).max(1) as u32;
        resample(picture, scaled(picture.width), scaled(picture.height), Filter::Box)?
    } else {
        let factor = (max_side / long).min(8);
        resample(picture, picture.width * factor, picture.height * factor, Filter::Bilinear)?
    };
    encode(&resized, OutputFormat::Jpeg { quality }, &Embedded::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, decode};

    #[test]
    fn the_map_is_linear_and_bounded() {
        let zero = latents_to_rgb(&[0.0; 4 * 6], 2, 3, &Factors::SD).unwrap();
        assert_eq!((zero.size(), zero.rgb.iter().all(|&v| v == 128)), ((3, 2), true));
        let mut latents = vec![0.0; 8];
        (latents[0], latents[2], latents[1], latents[7]) = (1.0, -1.0, f32::NAN, 1e9);
        let picture = latents_to_rgb(&latents, 1, 2, &Factors::SDXL).unwrap();
        let expected = [0.3651 + 0.2533 + 0.1084, 0.4232 + 0.0042 - 0.0175, 0.4341 - 0.1068 - 0.0011];
        assert_eq!(picture.rgb[..3], expected.map(|v: f32| ((v + 1.0) * 127.5).round() as u8));
        assert_eq!(picture.rgb[3..], [0, 0, 0]);
        assert_eq!(latents_to_rgb(&latents, 2, 2, &Factors::SD).unwrap_err().code(), "image_buffer_length");
    }

    #[test]
    fn previews_are_small_jpegs() {
        for (size, expected) in [((8, 8), (64, 64)), ((100, 50), (200, 100)), ((1000, 500), (256, 128))] {
            let bytes = preview_jpeg(&Picture::filled(size.0, size.1, [200, 10, 90]), 256, 70).unwrap();
            let picture = decode(&bytes, &Limits::default()).unwrap();
            assert_eq!(picture.size(), expected);
            assert!(bytes.len() < 10_000 && picture.rgb[0].abs_diff(200) < 6);
        }
    }
}
