//! Filling the masked area with colours from around it, so that the sampler starts from something likely.
//!
//! The method is A1111's "fill": the unmasked part is blurred ever less and laid over itself, the sharp original last.
//! A1111 leaves the arithmetic to Pillow, and where cover is thin its rounding to bytes decides the colour. So each step
//! here is Pillow's own, to the bit: `paste`, `GaussianBlur` (three box blurs a side) and `alpha_composite`.

use crate::{ImageError, Mask, Picture};

/// Radius of each blur and how often it is laid over what is there.
const LAYERS: [(f32, usize); 6] = [(256.0, 1), (64.0, 1), (16.0, 2), (4.0, 4), (2.0, 2), (0.0, 1)];

/// Box blurs that stand for one Gaussian.
const PASSES: usize = 3;

/// Red, green, blue and coverage.
type Rgba = [u8; 4];

/// The picture with the masked area filled; where the mask is 0 its bytes are unchanged. Where nothing reaches, it is
/// middle grey. Errors: `Length`, `SizeMismatch`.
pub fn fill_masked(picture: &Picture, mask: &Mask) -> Result<Picture, ImageError> {
    picture.check()?;
    mask.same_size("the picture", picture.size())?;
    let (width, height) = (picture.width as usize, picture.height as usize);
    if picture.pixels() == 0 {
        return Ok(picture.clone());
    }
    // Colours multiplied by coverage, as the blurs need them.
    let pixels = picture.rgb.chunks_exact(3).zip(&mask.data);
    let kept: Vec<Rgba> = pixels
        .map(|(pixel, &mask)| [pixel[0], pixel[1], pixel[2], 255].map(|v| div255(u32::from(v) * u32::from(255 - mask))))
        .collect();
    let mut canvas = vec![[0u8; 4]; kept.len()];
    for (radius, repeats) in LAYERS {
        let mut layer = kept.clone();
        blur(&mut layer, width, height, radius);
        layer.iter_mut().for_each(|pixel| *pixel = divided(*pixel));
        for _ in 0..repeats {
            canvas.iter_mut().zip(&layer).for_each(|(under, &over)| *under = laid_over(over, *under));
        }
    }
    let mut out = picture.clone();
    for ((pixel, filled), &mask) in out.rgb.chunks_exact_mut(3).zip(canvas).zip(&mask.data) {
        if mask > 0 && filled[3] > 0 {
            pixel.copy_from_slice(&filled[..3]);
        } else if mask > 0 {
            // Nothing around it: everything is masked.
            pixel.fill(128);
        }
    }
    Ok(out)
}

/// `value / 255`, rounded, for values up to 255².
fn div255(value: u32) -> u8 {
    let value = value + 128;
    (((value >> 8) + value) >> 8) as u8
}

/// Colours no longer multiplied by coverage (Pillow's `RGBa` to `RGBA`, which rounds down).
fn divided(pixel: Rgba) -> Rgba {
    let [r, g, b, cover] = pixel;
    if cover == 0 || cover == 255 {
        return pixel;
    }
    let colour = |value: u8| (u32::from(value) * 255 / u32::from(cover)).min(255) as u8;
    [colour(r), colour(g), colour(b), cover]
}

/// `over` composited onto `under` (Pillow's `alpha_composite`, with its 7 bits beyond the byte).
fn laid_over(over: Rgba, under: Rgba) -> Rgba {
    let cover = u32::from(over[3]);
    if cover == 0 {
        return under;
    }
    let sum = cover * 255 + u32::from(under[3]) * (255 - cover);
    let share = ((cover * 255 * 255) << 7) / sum;
    let rest = (255 << 7) - share;
    let colour = |i: usize| {
        let value = u32::from(over[i]) * share + u32::from(under[i]) * rest + (0x80 << 7);
        ((((value >> 8) + value) >> 8) >> 7) as u8
    };
    [colour(0), colour(1), colour(2), div255(sum)]
}

/// The radius of the boxes that stand for a Gaussian of this sigma: its whole part, and the weight of the two pixels at
/// the ends (Gwosdek et al., "Theoretical foundations of Gaussian convolution by extended box filtering", 2011).
fn box_radius(sigma: f32) -> f32 {
    let variance = sigma * sigma / PASSES as f32;
    let length = (12.0 * f64::from(variance) + 1.0).sqrt() as f32;
    let whole = ((length - 1.0) / 2.0).floor();
    let part = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance);
    whole + part / (6.0 * (variance - (whole + 1.0) * (whole + 1.0)))
}

/// Blurs in place: along the rows, then along the columns.
fn blur(data: &mut Vec<Rgba>, width: usize, height: usize, sigma: f32) {
    if sigma <= 0.0 {
        return;
    }
    let radius = box_radius(sigma);
    for length in [width, height] {
        (0..PASSES).for_each(|_| box_rows(data, length, radius));
        *data = transposed(data, length);
    }
}

/// Columns become rows.
fn transposed(data: &[Rgba], width: usize) -> Vec<Rgba> {
    (0..width).flat_map(|x| data.iter().skip(x).step_by(width).copied()).collect()
}

/// One box blur along each row, in 24-bit fixed point and rounded to bytes; beyond its ends the last value repeats. A
/// running sum makes the work independent of the radius.
fn box_rows(data: &mut [Rgba], width: usize, radius: f32) {
    let reach = radius as usize;
    let margin = reach + 1;
    // What each pixel of the box counts for, and the two at its ends.
    let weight = ((1u32 << 24) as f32 / (radius * 2.0 + 1.0)) as u32;
    let end = ((1 << 24) - (reach as u32 * 2 + 1) * weight) / 2;
    let mut padded = vec![[0u8; 4]; width + 2 * margin];
    for row in data.chunks_exact_mut(width) {
        padded[..margin].fill(row[0]);
        padded[margin..margin + width].copy_from_slice(row);
        padded[margin + width..].fill(row[width - 1]);
        let mut sum = [0u32; 4];
        for value in &padded[1..2 * margin] {
            sum.iter_mut().zip(value).for_each(|(sum, &value)| *sum += u32::from(value));
        }
        for (i, out) in row.iter_mut().enumerate() {
            let (before, first, after) = (padded[i], padded[i + 1], padded[i + 2 * margin]);
            *out = std::array::from_fn(|c| {
                let ends = u32::from(before[c]) + u32::from(after[c]);
                ((sum[c] * weight + ends * end + (1 << 23)) >> 24) as u8
            });
            sum = std::array::from_fn(|c| sum[c] + u32::from(after[c]) - u32::from(first[c]));
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
                // Bytes of little cover hold few shades of a colour.
                let close = new.iter().zip([200, 40, 10]).all(|(&a, b)| a.abs_diff(b) <= 3);
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
