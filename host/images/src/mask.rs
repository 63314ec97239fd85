//! Masks: one byte a pixel, 255 = repaint, 0 = keep.

use crate::{Filter, ImageError, Picture, ResizeMode, resample, resize};

/// The strongest blur.
const MAX_SIGMA: f32 = 64.0;

/// Where to repaint.
#[derive(Clone, PartialEq, Eq)]
pub struct Mask {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// `height × width` values; 255 = repaint, 0 = keep.
    pub data: Vec<u8>,
}

/// How a mask becomes latent-sized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LatentMask {
    /// The pixel at the upper left of each cell: `interpolate(mode="nearest")`, as diffusers' inpainting pipelines do.
    #[default]
    Nearest,
    /// The mean of each cell, which keeps soft edges soft.
    Box,
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mask({} × {})", self.width, self.height)
    }
}

impl Mask {
    /// Checks lengths and makes a mask. Errors: `Length`.
    pub fn new(width: u32, height: u32, data: Vec<u8>) -> Result<Self, ImageError> {
        let expected = width as usize * height as usize;
        if data.len() != expected {
            return Err(ImageError::Length { what: "mask", found: data.len(), expected });
        }
        Ok(Self { width, height, data })
    }

    /// A mask of one value.
    pub fn filled(width: u32, height: u32, value: u8) -> Self {
        Self { width, height, data: vec![value; width as usize * height as usize] }
    }

    /// White = repaint. A picture that is partly transparent is read as strokes on glass: its alpha is the mask.
    pub fn from_white(picture: &Picture) -> Self {
        let data = match &picture.alpha {
            Some(alpha) if alpha.iter().any(|&value| value != 255) => alpha.clone(),
            _ => picture.rgb.chunks_exact(3).map(|p| luma(p[0], p[1], p[2])).collect(),
        };
        Self { width: picture.width, height: picture.height, data }
    }

    /// Transparent = repaint, as OpenAI's clients send it. Errors: `MaskWithoutAlpha`.
    pub fn from_transparent(picture: &Picture) -> Result<Self, ImageError> {
        let alpha = picture.alpha.as_ref().ok_or(ImageError::MaskWithoutAlpha)?;
        let data = alpha.iter().map(|&value| 255 - value).collect();
        Ok(Self { width: picture.width, height: picture.height, data })
    }

    /// Swaps repaint and keep.
    pub fn invert(mut self) -> Self {
        self.data.iter_mut().for_each(|value| *value = 255 - *value);
        self
    }

    /// All or nothing: values of `threshold` and more become 255. 128 is what diffusers' mask processor does.
    pub fn binarize(mut self, threshold: u8) -> Self {
        self.data.iter_mut().for_each(|value| *value = if *value >= threshold { 255 } else { 0 });
        self
    }

    /// Resizes the mask as its picture is resized. `filter`: only for `Stretch`; the other modes use Lanczos.
    pub fn resize(&self, width: u32, height: u32, mode: ResizeMode, filter: Filter) -> Result<Self, ImageError> {
        let picture = Picture::new(self.width, self.height, vec![0; self.data.len() * 3], Some(self.data.clone()))?;
        let resized = match mode {
            ResizeMode::Stretch => resample(&picture, width, height, filter)?,
            other => resize(&picture, width, height, other)?,
        };
        Self::new(resized.width, resized.height, resized.alpha.unwrap_or_default())
    }

    /// Gaussian blur with its own strength (sigma in pixels) for each direction, as the web UI blurs masks:
    /// a window of 2·⌊2.5·sigma + 0.5⌋ + 1 pixels, mirrored at the edges. More than 64 counts as 64.
    pub fn blur(&self, sigma_x: f32, sigma_y: f32) -> Self {
        let (width, height) = (self.width as usize, self.height as usize);
        let mut data: Vec<f32> = self.data.iter().map(|&value| f32::from(value)).collect();
        blur_lines(&mut data, width, height, 1, width, sigma_x);
        // The web UI blurs bytes, each direction by itself: what is next to nothing after the first is nothing.
        data.iter_mut().for_each(|value| *value = value.round());
        blur_lines(&mut data, height, width, width, 1, sigma_y);
        let data = data.into_iter().map(|value| (value + 0.5).clamp(0.0, 255.0) as u8).collect();
        Self { width: self.width, height: self.height, data }
    }

    /// The mask in latent size: `height × width` values from 0 to 1.
    pub fn latent(&self, width: u32, height: u32, mode: LatentMask) -> Vec<f32> {
        let (from, to) = ((self.width as usize, self.height as usize), (width as usize, height as usize));
        if self.data.is_empty() {
            return Vec::new();
        }
        match mode {
            LatentMask::Nearest => {
                let rows = (0..to.1).map(|y| y * from.1 / to.1);
                let cell = |y: usize, x: usize| f32::from(self.data[y * from.0 + x * from.0 / to.0]) / 255.0;
                rows.flat_map(|y| (0..to.0).map(move |x| cell(y, x))).collect()
            }
            LatentMask::Box => {
                let cells = crate::resample::plane(&self.data, 1, from, to, Filter::Box);
                cells.into_iter().map(|value| f32::from(value) / 255.0).collect()
            }
        }
    }

    /// The smallest rectangle around everything to repaint: x, y, width, height.
    pub fn bounds(&self) -> Option<(u32, u32, u32, u32)> {
        let width = self.width as usize;
        let rows = || self.data.chunks_exact(width.max(1)).map(|row| row.iter().any(|&value| value != 0));
        let top = rows().position(|used| used)?;
        let bottom = rows().rposition(|used| used)?;
        let column = |x: &usize| self.data.iter().skip(*x).step_by(width).any(|&value| value != 0);
        let left = (0..width).find(column)?;
        let right = (0..width).rev().find(column)?;
        Some((left as u32, top as u32, (right - left + 1) as u32, (bottom - top + 1) as u32))
    }

    /// Whether nothing is to be repainted.
    pub fn is_empty(&self) -> bool {
        self.data.iter().all(|&value| value == 0)
    }

    /// The mask's part at `x`, `y`; cut to what lies inside.
    pub fn crop(&self, x: u32, y: u32, width: u32, height: u32) -> Self {
        let (x, y) = (x.min(self.width), y.min(self.height));
        let (width, height) = (width.min(self.width - x), height.min(self.height - y));
        let rows = self.data.chunks_exact(self.width.max(1) as usize).skip(y as usize).take(height as usize);
        let data = rows.flat_map(|row| row[x as usize..(x + width) as usize].iter().copied()).collect();
        Self { width, height, data }
    }

    /// Repaint where either mask says so. Errors: `SizeMismatch`.
    pub fn union(mut self, other: &Self) -> Result<Self, ImageError> {
        self.same_size("the second mask", (other.width, other.height))?;
        self.data.iter_mut().zip(&other.data).for_each(|(mine, &theirs)| *mine = (*mine).max(theirs));
        Ok(self)
    }

    /// The masked picture that 9-channel models encode: `height × width × 3` values from 0 to 1, exactly ½ wherever the
    /// mask is 128 or more, as diffusers makes it. Errors: `SizeMismatch`, `Length`.
    pub fn masked_pixels(&self, picture: &Picture) -> Result<Vec<f32>, ImageError> {
        picture.check()?;
        self.same_size("the picture", picture.size())?;
        let pixels = picture.rgb.chunks_exact(3).zip(&self.data);
        let value = |value: u8, mask: u8| if mask >= 128 { 0.5 } else { f32::from(value) / 255.0 };
        Ok(pixels.flat_map(|(pixel, &mask)| [0, 1, 2].map(|i| value(pixel[i], mask))).collect())
    }

    pub(crate) fn same_size(&self, what: &'static str, size: (u32, u32)) -> Result<(), ImageError> {
        if size == (self.width, self.height) {
            return Ok(());
        }
        Err(ImageError::SizeMismatch { what, left: size, right: (self.width, self.height) })
    }
}

/// ITU-R 601 luma with Pillow's rounding.
fn luma(r: u8, g: u8, b: u8) -> u8 {
    ((u32::from(r) * 19_595 + u32::from(g) * 38_470 + u32::from(b) * 7_471 + 0x8000) >> 16) as u8
}

/// Convolves `lines` lines of `length` values, `step` apart within a line and `jump` between lines.
fn blur_lines(data: &mut [f32], length: usize, lines: usize, step: usize, jump: usize, sigma: f32) {
    // The work grows with sigma, which comes from outside.
    let sigma = if sigma.is_nan() { 0.0 } else { sigma.min(MAX_SIGMA) };
    if sigma <= 0.0 || length < 2 {
        return;
    }
    let radius = (2.5 * sigma + 0.5) as usize;
    let weights: Vec<f32> = (0..=radius).map(|i| (-((i * i) as f32) / (2.0 * sigma * sigma)).exp()).collect();
    let sum: f32 = weights[0] + 2.0 * weights[1..].iter().sum::<f32>();
    // Mirrored without repeating the edge; a small line is mirrored several times.
    let period = 2 * (length - 1);
    let mirror = |i: isize| {
        let i = i.rem_euclid(period as isize) as usize;
        i.min(period - i)
    };
    let mut line = vec![0.0; length];
    let mut padded = vec![0.0; length + 2 * radius];
    for index in 0..lines {
        let start = index * jump;
        for (i, value) in padded.iter_mut().enumerate() {
            *value = data[start + mirror(i as isize - radius as isize) * step];
        }
        for (i, value) in line.iter_mut().enumerate() {
            let centre = i + radius;
            let sides = (1..=radius).map(|d| weights[d] * (padded[centre - d] + padded[centre + d]));
            *value = (weights[0] * padded[centre] + sides.sum::<f32>()) / sum;
        }
        line.iter().enumerate().for_each(|(i, &value)| data[start + i * step] = value);
    }
}

#[cfg(test)]
#[path = "mask_tests.rs"]
mod tests;
