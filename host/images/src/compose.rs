//! Putting pictures together: compositing by a mask, the region of an "only masked" job, and outpainting.
//!
//! Where a mask is 0 the original's bytes come back unchanged; that is a promise, not a rounding accident.

use crate::picture::blend;
use crate::resize::{ResizeMode, extended, resize};
use crate::{ImageError, Limits, Mask, Picture};

/// A rectangle of a picture that is worked on at its own size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CropRegion {
    /// Left edge.
    pub x: u32,
    /// Upper edge.
    pub y: u32,
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
}

/// `painted` where the mask is 255, `original` where it is 0, blended between. Alpha is the original's.
///
/// Errors: `SizeMismatch`, `Length`.
pub fn composite(original: &Picture, painted: &Picture, mask: &Mask) -> Result<Picture, ImageError> {
    original.check()?;
    painted.check()?;
    mask.same_size("the picture", original.size())?;
    mask.same_size("the painted picture", painted.size())?;
    let mut out = original.clone();
    for ((pixel, new), &mask) in out.rgb.chunks_exact_mut(3).zip(painted.rgb.chunks_exact(3)).zip(&mask.data) {
        pixel.iter_mut().zip(new).for_each(|(value, &new)| *value = blend(*value, new, mask));
    }
    Ok(out)
}

/// The region to work on: around everything masked, `padding` pixels more on each side, widened to the proportions of
/// `width × height` as far as the picture allows (A1111's "only masked"). None for an empty mask.
pub fn crop_region(mask: &Mask, padding: u32, width: u32, height: u32) -> Option<CropRegion> {
    let (x, y, w, h) = mask.bounds()?;
    let grow = |start: u32, length: u32, side: u32| {
        (i64::from(start.saturating_sub(padding)), i64::from((start + length).saturating_add(padding).min(side)))
    };
    let (mut x1, mut x2) = grow(x, w, mask.width);
    let (mut y1, mut y2) = grow(y, h, mask.height);
    let wanted = f64::from(width.max(1)) / f64::from(height.max(1));
    let (w, h) = ((x2 - x1) as f64, (y2 - y1) as f64);
    if w / h > wanted {
        widen(&mut y1, &mut y2, (w / wanted - h) as i64, mask.height.into());
    } else {
        widen(&mut x1, &mut x2, (h * wanted - w) as i64, mask.width.into());
    }
    Some(CropRegion { x: x1 as u32, y: y1 as u32, width: (x2 - x1) as u32, height: (y2 - y1) as u32 })
}

/// Makes a range longer by `more`, half on each side, moved and then cut to fit into 0 to `side`.
fn widen(start: &mut i64, end: &mut i64, more: i64, side: i64) {
    *start -= more / 2;
    *end += more - more / 2;
    let over = (*end - side).max(0);
    (*start, *end) = (*start - over, *end - over);
    let under = (-*start).max(0);
    (*start, *end) = (*start + under, (*end + under).min(side));
}

/// Puts a painted region back into its picture: resized to the region in its own proportions, as it was fitted into the
/// job's (`ResizeMode::Fill`), and blended by the whole picture's mask.
///
/// Errors: `SizeMismatch`, `Length`.
pub fn paste_back(
    original: &Picture,
    painted: &Picture,
    mask: &Mask,
    region: CropRegion,
) -> Result<Picture, ImageError> {
    mask.same_size("the picture", original.size())?;
    let resized = resize(painted, region.width, region.height, ResizeMode::Crop)?;
    let mut overlay = original.clone();
    overlay.paste(&resized, region.x.into(), region.y.into());
    composite(original, &overlay, mask)
}

/// How far a picture grows on each side, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extend {
    /// To the left.
    pub left: u32,
    /// To the right.
    pub right: u32,
    /// Upwards.
    pub top: u32,
    /// Downwards.
    pub bottom: u32,
}

/// Outpainting: the larger picture, its edges repeated into the new area, and a mask of the new area. The mask reaches
/// `overlap` pixels into the old picture on the sides that grow, so that the seam is repainted too.
///
/// Errors: `Dimensions`, `Length`.
pub fn extend(picture: &Picture, by: Extend, overlap: u32, limits: &Limits) -> Result<(Picture, Mask), ImageError> {
    picture.check()?;
    let sum = |a: u32, b: u32, c: u32| u64::from(a) + u64::from(b) + u64::from(c);
    let (width, height) = (sum(picture.width, by.left, by.right), sum(picture.height, by.top, by.bottom));
    limits.check(width, height)?;
    let larger = extended(picture, width as u32, height as u32, by.left, by.top);
    let mut mask = Mask::filled(larger.width, larger.height, 255);
    // The part that is kept, as a range on each axis.
    let kept = |before: u32, after: u32, side: u32| {
        let from = before + if before > 0 { overlap.min(side) } else { 0 };
        let to = (before + side).saturating_sub(if after > 0 { overlap } else { 0 });
        from as usize..to.max(from) as usize
    };
    let columns = kept(by.left, by.right, picture.width);
    for y in kept(by.top, by.bottom, picture.height) {
        let row = y * larger.width as usize;
        mask.data[row + columns.start..row + columns.end].fill(0);
    }
    Ok((larger, mask))
}

#[cfg(test)]
#[path = "compose_tests.rs"]
mod tests;
