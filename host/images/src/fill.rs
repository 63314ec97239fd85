//! Filling the masked area with colours from around it, so that the sampler starts from something likely.
//!
//! The method is A1111's "fill": the unmasked part is blurred ever less and laid over itself, the sharp original last.
//! Blurs are three box blurs a side, the approximation Pillow uses for its Gaussian.

use crate::{ImageError, Mask, Picture};

/// Radius of each blur and how often it is laid over what is there.
const LAYERS: [(f32, usize); 6] = [(256.0, 1), (64.0, 1), (16.0, 2), (4.0, 4), (2.0, 2), (0.0, 1)];

/// The picture with the masked area filled; where the mask is 0 its bytes are unchanged. Errors: `SizeMismatch`.
pub fn fill_masked(picture: &Picture, mask: &Mask) -> Result<Picture, ImageError> {
    picture.check()?;
    mask.same_size("the picture", picture.size())?;
    let (width, height) = (picture.width as usize, picture.height as usize);
    // Red, green, blue and coverage; colours multiplied by coverage.
    let mut kept: Vec<[f32; 4]> = Vec::with_capacity(picture.pixels());
    for (pixel, &mask) in picture.rgb.chunks_exact(3).zip(&mask.data) {
        let cover = f32::from(255 - mask) / 255.0;
        let colour = |i: usize| f32::from(pixel[i]) * cover;
        kept.push([colour(0), colour(1), colour(2), cover]);
    }
    let mut canvas = vec![[0f32; 4]; kept.len()];
    for (radius, repeats) in LAYERS {
        let layer = blurred(&kept, width, height, radius);
        for _ in 0..repeats {
            for (under, over) in canvas.iter_mut().zip(&layer) {
                let rest = 1.0 - over[3];
                under.iter_mut().zip(over).for_each(|(under, over)| *under = over + *under * rest);
            }
        }
    }
    let mut out = picture.clone();
    for ((pixel, filled), &mask) in out.rgb.chunks_exact_mut(3).zip(canvas).zip(&mask.data) {
        if mask > 0 && filled[3] > 0.0 {
            pixel.iter_mut().zip(filled).for_each(|(value, colour)| *value = (colour / filled[3] + 0.5) as u8);
        } else if mask > 0 {
            // Nothing around it: everything is masked.
            pixel.fill(128);
        }
    }
    Ok(out)
}

fn blurred(data: &[[f32; 4]], width: usize, height: usize, sigma: f32) -> Vec<[f32; 4]> {
    let mut out = data.to_vec();
    if sigma > 0.0 {
        // Three boxes of this width have the variance of the Gaussian.
        let radius = ((12.0 * sigma * sigma / 3.0 + 1.0).sqrt() - 1.0) / 2.0;
        for _ in 0..3 {
            box_lines(&mut out, width, height, 1, width, radius);
            box_lines(&mut out, height, width, width, 1, radius);
        }
    }
    out
}

/// A running mean over 2·radius + 1 values, the ends of the window weighted by the radius's fraction; edges repeat.
fn box_lines(data: &mut [[f32; 4]], length: usize, lines: usize, step: usize, jump: usize, radius: f32) {
    let whole = radius as usize;
    let part = f64::from(radius.fract());
    let total = 2.0 * f64::from(radius) + 1.0;
    let mut line = vec![[0f32; 4]; length];
    for index in 0..lines {
        let start = index * jump;
        let at = |i: isize, data: &[[f32; 4]]| data[start + (i.clamp(0, length as isize - 1) as usize) * step];
        for channel in 0..4 {
            let value = |i: isize, data: &[[f32; 4]]| f64::from(at(i, data)[channel]);
            let reach = whole as isize;
            let mut sum: f64 = (-reach..=reach).map(|i| value(i, data)).sum();
            for (i, out) in line.iter_mut().enumerate() {
                let i = i as isize;
                let ends = value(i - reach - 1, data) + value(i + reach + 1, data);
                out[channel] = ((sum + part * ends) / total) as f32;
                sum += value(i + reach + 1, data) - value(i - reach, data);
            }
        }
        line.iter().enumerate().for_each(|(i, &value)| data[start + i * step] = value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hole_takes_the_colours_around_it_and_the_rest_stays() {
        let mut picture = Picture::filled(48, 32, [200, 40, 10]);
        let mut mask = Mask::filled(48, 32, 0);
        for y in 8..20 {
            for x in 10..30 {
                mask.data[y * 48 + x] = 255;
                picture.rgb[(y * 48 + x) * 3..][..3].copy_from_slice(&[0, 255, 255]);
            }
        }
        let filled = fill_masked(&picture, &mask).unwrap();
        for (i, (old, new)) in picture.rgb.chunks_exact(3).zip(filled.rgb.chunks_exact(3)).enumerate() {
            if mask.data[i] == 0 {
                assert_eq!(old, new, "pixel {i} must not change");
            } else {
                let close = new.iter().zip([200, 40, 10]).all(|(&a, b)| a.abs_diff(b) <= 1);
                assert!(close, "pixel {i} is {new:?}");
            }
        }
    }

    #[test]
    fn ends() {
        let picture = Picture::filled(5, 3, [9, 9, 9]);
        assert_eq!(fill_masked(&picture, &Mask::filled(5, 3, 0)).unwrap(), picture);
        assert_eq!(fill_masked(&picture, &Mask::filled(5, 3, 255)).unwrap().rgb, vec![128; 45]);
        assert_eq!(fill_masked(&picture, &Mask::filled(5, 4, 0)).unwrap_err().code(), "image_size_mismatch");
    }
}
