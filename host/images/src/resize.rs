//! Fitting a picture into the size to work at: stretched, cropped or filled up.

use crate::{Filter, ImageError, Picture, resample};

/// How a picture of other proportions becomes the wanted size (A1111's `resize_mode` 0, 1 and 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResizeMode {
    /// Its proportions change.
    #[default]
    Stretch,
    /// It fills the size; what sticks out is cut off on both sides.
    Crop,
    /// It fits into the size; the bars at the sides repeat its edges.
    Fill,
}

/// Resizes to exactly `width × height` with the Lanczos filter. Errors: `Length`.
pub fn resize(picture: &Picture, width: u32, height: u32, mode: ResizeMode) -> Result<Picture, ImageError> {
    let (width, height) = (width.max(1), height.max(1));
    let (w, h) = (u64::from(picture.width.max(1)), u64::from(picture.height.max(1)));
    // Whether the wanted size is wider than the picture.
    let wider = u64::from(width) * h > w * u64::from(height);
    let fit_width = match mode {
        ResizeMode::Stretch => return resample(picture, width, height, Filter::Lanczos),
        ResizeMode::Crop => wider,
        ResizeMode::Fill => !wider,
    };
    let (inner_width, inner_height) = if fit_width {
        (width, (u64::from(width) * h / w).clamp(1, u64::from(u32::MAX)) as u32)
    } else {
        ((u64::from(height) * w / h).clamp(1, u64::from(u32::MAX)) as u32, height)
    };
    if mode == ResizeMode::Crop {
        return crop_then_resample(picture, width, height, inner_width, inner_height);
    }
    let inner = resample(picture, inner_width, inner_height, Filter::Lanczos)?;
    let (left, top) = (width / 2 - inner_width / 2, height / 2 - inner_height / 2);
    Ok(extended(&inner, width, height, left, top))
}

/// Resizes so that the middle `width × height` of `inner_width × inner_height` is what comes out. The whole inner size
/// is made only where it is not absurdly larger: a 1 × 8000 picture must not blow up.
fn crop_then_resample(
    picture: &Picture,
    width: u32,
    height: u32,
    inner_width: u32,
    inner_height: u32,
) -> Result<Picture, ImageError> {
    let inner_pixels = u64::from(inner_width) * u64::from(inner_height);
    if inner_pixels <= 8 * u64::from(width) * u64::from(height) {
        let inner = resample(picture, inner_width, inner_height, Filter::Lanczos)?;
        let (left, top) = (inner_width / 2 - width / 2, inner_height / 2 - height / 2);
        return Ok(inner.crop(left.min(inner_width - width), top.min(inner_height - height), width, height));
    }
    let part = |side: u32, wanted: u32, inner: u32| {
        let kept = (u64::from(side) * u64::from(wanted) / u64::from(inner.max(1))).clamp(1, u64::from(side)) as u32;
        ((side - kept) / 2, kept)
    };
    let (x, w) = part(picture.width, width, inner_width);
    let (y, h) = part(picture.height, height, inner_height);
    resample(&picture.crop(x, y, w, h), width, height, Filter::Lanczos)
}

/// A larger picture with `inner` at `left`, `top` and its edges repeated around it.
pub(crate) fn extended(inner: &Picture, width: u32, height: u32, left: u32, top: u32) -> Picture {
    let spread = |data: &[u8], channels: usize| {
        let mut out = Vec::with_capacity(width as usize * height as usize * channels);
        for y in 0..height {
            let row = y.saturating_sub(top).min(inner.height.saturating_sub(1)) as usize * inner.width as usize;
            for x in 0..width {
                let column = x.saturating_sub(left).min(inner.width.saturating_sub(1)) as usize;
                let at = (row + column) * channels;
                out.extend_from_slice(&data[at..at + channels]);
            }
        }
        out
    };
    let alpha = inner.alpha.as_deref().map(|alpha| spread(alpha, 1));
    Picture { width, height, rgb: spread(&inner.rgb, 3), alpha }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A horizontal ramp in red, a vertical one in green.
    fn ramp(width: u32, height: u32) -> Picture {
        let pixel = |x: u32, y: u32| [(x * 255 / width.max(2)) as u8, (y * 255 / height.max(2)) as u8, 7];
        let rgb = (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(x, y))).collect();
        Picture::new(width, height, rgb, None).unwrap()
    }

    #[test]
    fn every_mode_gives_the_exact_size() {
        let sides = [1, 2, 3, 7, 64, 65, 200];
        for mode in [ResizeMode::Stretch, ResizeMode::Crop, ResizeMode::Fill] {
            for (w, h) in sides.iter().flat_map(|&w| sides.map(|h| (w, h))) {
                for (width, height) in [(64, 64), (8, 72), (72, 8), (65, 63)] {
                    let picture = resize(&ramp(w, h), width, height, mode).unwrap();
                    picture.check().unwrap();
                    assert_eq!(picture.size(), (width, height), "{mode:?} of {w} × {h}");
                    assert!(picture.rgb.iter().skip(2).step_by(3).all(|&blue| blue == 7));
                }
            }
        }
    }

    #[test]
    fn crop_keeps_the_middle_and_fill_repeats_the_edges() {
        let wide = ramp(40, 20);
        assert_eq!(resize(&wide, 20, 20, ResizeMode::Crop).unwrap(), wide.crop(10, 0, 20, 20));
        let filled = resize(&wide, 40, 40, ResizeMode::Fill).unwrap();
        assert_eq!(filled.crop(0, 10, 40, 20), wide);
        for y in [0, 9] {
            assert_eq!(filled.crop(0, y, 40, 1), wide.crop(0, 0, 40, 1));
        }
        assert_eq!(filled.crop(0, 39, 40, 1), wide.crop(0, 19, 40, 1));
    }

    #[test]
    fn extreme_proportions_stay_cheap() {
        let needle = ramp(1, 8000);
        assert_eq!(resize(&needle, 512, 512, ResizeMode::Crop).unwrap().size(), (512, 512));
        assert_eq!(resize(&needle, 512, 512, ResizeMode::Fill).unwrap().size(), (512, 512));
    }
}
