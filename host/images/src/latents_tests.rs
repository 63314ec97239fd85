//! Latents resized against torch 2: the first values, and a weighted sum over all of them.

use super::*;
use LatentResize::*;

/// Mode, height and width after, first values, weighted sum.
type Case = (LatentResize, (usize, usize), [f32; 8], f64);

#[rustfmt::skip]
const TORCH: &[Case] = &[
    (Nearest, (5, 7), [-1.3125, -1.3125, 1.0, 1.0, -0.6875, -0.6875, 1.625, -1.3125], -523.625),
    (Nearest, (2, 3), [-1.3125, 1.0, -0.6875, -0.0625, -1.75, 0.5625, -1.5625, 0.75], -41.75),
    (NearestExact, (5, 7), [-1.3125, -1.3125, 1.0, -0.6875, -0.6875, 1.625, 1.625, -1.3125], 440.25),
    (NearestExact, (2, 3), [-1.3125, -0.6875, 1.625, 1.1875, 1.8125, 0.125, -1.5625, -0.9375], 35.75),
    (Bilinear, (5, 7), [-1.3125, -0.48661, 0.83482, 0.15625, -0.52232, 0.79911, 1.625, -0.8125], -194.979),
    (Bilinear, (2, 3), [-0.78125, -0.03125, 0.71875, 0.59375, 0.34375, 0.09375, -1.03125, -0.28125], 3.312),
    (BilinearAntialiased, (5, 7), [-1.3125, -0.48661, 0.83482, 0.15625, -0.52232, 0.79911, 1.625, -0.8125], -194.98),
    (BilinearAntialiased, (2, 3), [-0.6, -0.125, 0.35, 0.2125, 0.1875, 0.1625, -0.85, -0.375], -7.2),
    (Bicubic, (5, 7), [-1.70004, -0.38629, 1.2054, 0.22825, -0.7489, 0.84279, 2.15654, -0.99295], -143.889),
    (Bicubic, (2, 3), [-0.85786, -0.05762, 0.74262, 0.64328, 0.34668, 0.05008, -1.10786, -0.30762], 2.677),
    (BicubicAntialiased, (5, 7), [-1.61423, -0.5412, 1.15033, 0.21285, -0.72462, 0.96691, 2.03994, -1.00219], -101.908),
    (BicubicAntialiased, (2, 3), [-0.6832, -0.15635, 0.3705, 0.20207, 0.18875, 0.17544, -0.9332, -0.40635], -7.826),
];

#[test]
fn values_are_torchs() {
    let x: Vec<f32> = (0..24).map(|i| ((i * 37 + 11) % 64) as f32 / 16.0 - 2.0).collect();
    for (mode, size, first, weighted) in TORCH {
        let out = resize_latents(&x, 2, (3, 4), *size, *mode).unwrap();
        assert_eq!(out.len(), 2 * size.0 * size.1);
        for (i, (found, expected)) in out.iter().zip(first).enumerate() {
            assert!((found - expected).abs() < 2e-5, "{mode:?} {size:?} value {i}: {found}, not {expected}");
        }
        let sum: f64 = out.iter().zip(1..).map(|(&value, i)| f64::from(value) * f64::from(i)).sum();
        assert!((sum - weighted).abs() < 5e-3, "{mode:?} {size:?}: {sum}, not {weighted}");
    }
}

#[test]
fn wrong_lengths() {
    for (length, from, to) in [(23, (3, 4), (5, 5)), (24, (3, 4), (0, 5)), (0, (0, 4), (5, 5))] {
        let error = resize_latents(&vec![0.0; length], 2, from, to, Bilinear).unwrap_err();
        assert_eq!(error.code(), "image_buffer_length");
    }
}
