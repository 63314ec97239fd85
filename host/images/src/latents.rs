//! Resizing latents for a second pass, as torch's `interpolate` does (half-pixel centres).

use crate::resample::{cubic, windows};
use crate::{Filter, ImageError};

/// How latents are resized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LatentResize {
    /// `nearest`: ⌊i · in / out⌋.
    Nearest,
    /// `nearest-exact`: ⌊(i + ½) · in / out⌋.
    NearestExact,
    /// `bilinear`.
    #[default]
    Bilinear,
    /// `bilinear` with `antialias`.
    BilinearAntialiased,
    /// `bicubic`, a = −0.75.
    Bicubic,
    /// `bicubic` with `antialias`, a = −0.5.
    BicubicAntialiased,
}

/// Resizes planes. `x`: `planes × height × width`. Answers `planes × to_height × to_width`. Errors: `Length`.
pub fn resize_latents(
    x: &[f32],
    planes: usize,
    (height, width): (usize, usize),
    (to_height, to_width): (usize, usize),
    mode: LatentResize,
) -> Result<Vec<f32>, ImageError> {
    let expected = planes * height * width;
    if x.len() != expected || expected == 0 || to_height == 0 || to_width == 0 {
        return Err(ImageError::Length { what: "latents", found: x.len(), expected });
    }
    let (columns, rows) = (taps(width, to_width, mode), taps(height, to_height, mode));
    let mut out = Vec::with_capacity(planes * to_height * to_width);
    let mut lines = vec![0f32; height * to_width];
    for plane in x.chunks_exact(height * width) {
        for (line, row) in lines.chunks_exact_mut(to_width).zip(plane.chunks_exact(width)) {
            for (value, taps) in line.iter_mut().zip(&columns) {
                *value = taps.iter().map(|&(at, weight)| row[at] * weight).sum();
            }
        }
        for taps in &rows {
            let column = |x: usize| taps.iter().map(|&(at, weight)| lines[at * to_width + x] * weight).sum::<f32>();
            out.extend((0..to_width).map(column));
        }
    }
    Ok(out)
}

/// For every output place: input places and weights.
fn taps(input: usize, output: usize, mode: LatentResize) -> Vec<Vec<(usize, f32)>> {
    let scale = input as f64 / output as f64;
    let last = input as isize - 1;
    let at = |i: f64| (i as isize).clamp(0, last) as usize;
    let antialiased = |filter| {
        let windows = windows(input, output, filter).into_iter();
        windows.map(|(first, weights)| (first..).zip(weights.into_iter().map(|w| w as f32)).collect()).collect()
    };
    let each = |taps: &dyn Fn(f64) -> Vec<(usize, f32)>| (0..output).map(|place| taps(place as f64)).collect();
    match mode {
        LatentResize::Nearest => each(&|place| vec![(at(place * scale), 1.0)]),
        LatentResize::NearestExact => each(&|place| vec![(at((place + 0.5) * scale), 1.0)]),
        LatentResize::BilinearAntialiased => antialiased(Filter::Bilinear),
        LatentResize::BicubicAntialiased => antialiased(Filter::Bicubic),
        LatentResize::Bilinear => each(&|place| {
            let source = ((place + 0.5) * scale - 0.5).max(0.0);
            let weight = source.fract() as f32;
            vec![(at(source), 1.0 - weight), (at(source + 1.0), weight)]
        }),
        LatentResize::Bicubic => each(&|place| {
            let source = (place + 0.5) * scale - 0.5;
            let (base, t) = (source.floor(), source - source.floor());
            let tap = |offset: f64| (at(base + offset), cubic((t - offset).abs(), -0.75) as f32);
            [-1.0, 0.0, 1.0, 2.0].map(tap).to_vec()
        }),
    }
}

#[cfg(test)]
#[path = "latents_tests.rs"]
mod tests;
