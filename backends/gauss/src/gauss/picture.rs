//! Between latent cells and tiles of pixels, and the enlarging of pictures.

use backend_api::{AbiError, Ctl, StepStats, TensorMut, TensorRef, author};

/// Latent units from black to white.
const RANGE: f32 = 8.0;

/// `[n, c, h, w]` latents to `[n, h·f, w·f, 3]` values 0–1. Missing channels repeat the last one.
pub(super) fn decode(latents: &[f32], [n, c, h, w]: [usize; 4], f: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(n * h * f * w * f * 3);
    for image in latents.chunks_exact(c * h * w).take(n) {
        for y in 0..h * f {
            for x in 0..w * f {
                for colour in 0..3 {
                    let z = image[colour.min(c - 1) * h * w + (y / f) * w + x / f];
                    out.push((0.5 + z / RANGE).clamp(0.0, 1.0));
                }
            }
        }
    }
    out
}

/// `[n, h·f, w·f, 3]` values 0–1 to `[n, 2c, h, w]`: each tile's mean colour, then deviations of 0. Channels beyond the
/// third hold the mean of the colours.
pub(super) fn encode(pixels: &[f32], n: usize, c: usize, [h, w]: [usize; 2], f: usize) -> Vec<f32> {
    let mut out = vec![0.0; n * 2 * c * h * w];
    let per_tile = (f * f) as f32;
    for image in 0..n {
        let (source, target) = (&pixels[image * h * f * w * f * 3..], &mut out[image * 2 * c * h * w..]);
        for y in 0..h {
            for x in 0..w {
                let mut sum = [0.0f32; 3];
                for (dy, dx) in (0..f).flat_map(|dy| (0..f).map(move |dx| (dy, dx))) {
                    let at = ((y * f + dy) * w * f + x * f + dx) * 3;
                    sum.iter_mut().zip(&source[at..at + 3]).for_each(|(s, v)| *s += v);
                }
                let z = sum.map(|s| (s / per_tile - 0.5) * RANGE);
                for channel in 0..c {
                    let value = z.get(channel).copied().unwrap_or((z[0] + z[1] + z[2]) / 3.0);
                    target[channel * h * w + y * w + x] = value;
                }
            }
        }
    }
    out
}

/// An upscaler that repeats pixels.
pub(super) struct Enlarge(pub(super) u32);

impl author::Upscaler for Enlarge {
    fn upscale(&mut self, image: TensorRef<'_>, mut out: TensorMut<'_>, ctl: &Ctl) -> Result<StepStats, AbiError> {
        if ctl.cancelled() {
            return Err(AbiError::cancelled());
        }
        let ([h, w, colours], f) = (image.dims::<3>()?, self.0 as usize);
        if out.dims::<3>()? != [h * f, w * f, colours] {
            return Err(AbiError::invalid("the output of `upscale` does not have the enlarged shape"));
        }
        let pixels = image.to_picture()?;
        let at = |y: usize, x: usize| &pixels[((y / f) * w + x / f) * colours..][..colours];
        let large: Vec<f32> = (0..h * f).flat_map(|y| (0..w * f).flat_map(move |x| at(y, x).iter().copied())).collect();
        out.write_f32(&large)?;
        Ok(StepStats::default())
    }
}
