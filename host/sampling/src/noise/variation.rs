//! Variation seeds: mixing the noise of two seeds along a great circle.

use super::NoiseShape;

/// Spherical interpolation from `low` (`t` = 0) to `high` (`t` = 1), both of shape `[channels, height, width]`.
///
/// Follows A1111's `rng.slerp`, so that a subseed gives the picture it gives there: the angle is taken along each
/// column of the latents, and nearly parallel noises are mixed linearly.
#[must_use]
pub fn slerp(t: f64, low: &[f32], high: &[f32], shape: NoiseShape) -> Vec<f32> {
    let NoiseShape { channels, height, width } = shape;
    let at = |c: usize, y: usize, x: usize| (c * height + y) * width + x;
    let mut cosines = Vec::with_capacity(channels * width);
    for c in 0..channels {
        for x in 0..width {
            let column = |v: &[f32]| (0..height).map(|y| f64::from(v[at(c, y, x)])).collect::<Vec<_>>();
            let (a, b) = (column(low), column(high));
            let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
            let dot: f64 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
            cosines.push(dot / (norm(&a) * norm(&b)));
        }
    }
    let mean = cosines.iter().sum::<f64>() / cosines.len().max(1) as f64;
    if mean > 0.9995 {
        return low.iter().zip(high).map(|(l, h)| (f64::from(*l) * t + f64::from(*h) * (1.0 - t)) as f32).collect();
    }
    let mut mixed = vec![0.0; low.len()];
    for c in 0..channels {
        for x in 0..width {
            let omega = cosines[c * width + x].clamp(-1.0, 1.0).acos();
            // Columns of one row can be exactly parallel; the limit of the formula is the linear mix.
            let (from, to) = if omega.sin().abs() < 1e-12 {
                (1.0 - t, t)
            } else {
                (((1.0 - t) * omega).sin() / omega.sin(), (t * omega).sin() / omega.sin())
            };
            for y in 0..height {
                let i = at(c, y, x);
                mixed[i] = (from * f64::from(low[i]) + to * f64::from(high[i])) as f32;
            }
        }
    }
    mixed
}
