//! Filling the masked area with colours from around it, so that the sampler starts from something likely.
//!
//! The method is A1111's "fill": the unmasked part is blurred ever less and laid over itself, the sharp original last.
//! Blurs are three box blurs a side, the approximation Pillow uses for its Gaussian.

use crate::{ImageError, Mask, Picture};

/// Radius of each blur and how often it is laid over what is there.
const LAYERS: [(f32, usize); 6] = [(256.0, 1), (64.0, 1), (16.0, 2), (4.0, 4), (2.0, 2), (0.0, 1)];

/// Red, green, blue and coverage; colours multiplied by coverage.
type Rgba = [f32; 4];

/// The picture with the masked area filled; where the mask is 0 its bytes are unchanged. Errors: `SizeMismatch`.
pub fn fill_masked(picture: &Picture, mask: &Mask) -> Result<Picture, ImageError> {
    picture.check()?;
    mask.same_size("the picture", picture.size())?;
    let (width, height) = (picture.width as usize, picture.height as usize);
    if picture.pixels() == 0 {
        return Ok(picture.clone());
    }
    let mut kept: Vec<Rgba> = Vec::with_capacity(picture.pixels());
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

fn blurred(data: &[Rgba], width: usize, height: usize, sigma: f32) -> Vec<Rgba> {
    let mut out = data.to_vec();
    if sigma > 0.0 {
        // Three boxes of this width have the variance of the Gaussian.
        let radius = ((12.0 * sigma * sigma / 3.0 + 1.0).sqrt() - 1.0) / 2.0;
        let mut rows = out.clone();
        for _ in 0..3 {
            box_rows(&out, &mut rows, width, radius);
            box_columns(&rows, &mut out, width, height, radius);
        }
    }
    out
}

/// The weights of a box of 2·radius + 1 values: how many count fully on each side, what the two at the ends count for,
/// and the scale. A running sum makes the work independent of the radius; it is kept in `f64` so as not to drift.
fn window(radius: f32) -> (usize, f64, f64) {
    (radius as usize, f64::from(radius.fract()), 1.0 / (2.0 * f64::from(radius) + 1.0))
}

fn add(sum: &mut [f64; 4], value: &Rgba, weight: f64) {
    sum.iter_mut().zip(value).for_each(|(sum, &value)| *sum += f64::from(value) * weight);
}

/// Blurs along each row; beyond its ends the last value repeats.
fn box_rows(data: &[Rgba], out: &mut [Rgba], width: usize, radius: f32) {
    let (reach, part, scale) = window(radius);
    let margin = reach + 1;
    let mut padded = vec![[0f32; 4]; width + 2 * margin];
    for (row, out) in data.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        padded[..margin].fill(row[0]);
        padded[margin..margin + width].copy_from_slice(row);
        padded[margin + width..].fill(row[width - 1]);
        let mut sum = [0f64; 4];
        padded[1..2 * margin].iter().for_each(|value| add(&mut sum, value, 1.0));
        for (i, out) in out.iter_mut().enumerate() {
            let (before, after) = (&padded[i], &padded[i + 2 * margin]);
            let mut all = sum;
            add(&mut all, before, part);
            add(&mut all, after, part);
            *out = all.map(|value| (value * scale) as f32);
            add(&mut sum, after, 1.0);
            add(&mut sum, &padded[i + 1], -1.0);
        }
    }
}

/// Blurs along each column, row by row, so that memory is read in order.
fn box_columns(data: &[Rgba], out: &mut [Rgba], width: usize, height: usize, radius: f32) {
    let (reach, part, scale) = window(radius);
    let reach = reach as isize;
    let row = |y: isize| {
        let start = y.clamp(0, height as isize - 1) as usize * width;
        &data[start..start + width]
    };
    let mut sums = vec![[0f64; 4]; width];
    for y in -reach..=reach {
        sums.iter_mut().zip(row(y)).for_each(|(sum, value)| add(sum, value, 1.0));
    }
    for (out, y) in out.chunks_exact_mut(width).zip(0isize..) {
        let (before, after, leaving) = (row(y - reach - 1), row(y + reach + 1), row(y - reach));
        for (x, (sum, out)) in sums.iter_mut().zip(out).enumerate() {
            let mut all = *sum;
            add(&mut all, &before[x], part);
            add(&mut all, &after[x], part);
            *out = all.map(|value| (value * scale) as f32);
            add(sum, &after[x], 1.0);
            add(sum, &leaving[x], -1.0);
        }
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
