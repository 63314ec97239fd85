//! Group norm and layer norm with what follows them, in one pass over the result.

use super::{
    buffer::{Buffer, values_of},
    math,
    simd::{Kernel, Simd},
};
use crate::{
    Result,
    ops::{Act, Activation, Norm},
};
use rayon::prelude::*;
use std::marker::PhantomData;

/// Values that one task takes on.
const CHUNK: usize = 32_768;

/// Sums and sums of squares of each channel over some pixels, of the distance to a pivot (which keeps the difference
/// of large numbers out of the variance).
struct ChannelSums<'a> {
    x: &'a [f32],
    pivot: &'a [f32],
    sums: &'a mut [f32],
    squares: &'a mut [f32],
}

impl Kernel for ChannelSums<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let c = self.pivot.len();
        let mut i = 0;
        while i < c {
            let n = S::LANES.min(c - i);
            // SAFETY: `n` channels from `i` lie inside of every pixel and slice.
            unsafe {
                let pivot = S::load_part(self.pivot.as_ptr().add(i), n);
                let (mut sum, mut square) = (S::splat(0.0), S::splat(0.0));
                let mut at = i;
                while at < self.x.len() {
                    let v = S::sub(S::load_part(self.x.as_ptr().add(at), n), pivot);
                    sum = S::add(sum, v);
                    square = S::fma(v, v, square);
                    at += c;
                }
                S::store_part(self.sums.as_mut_ptr().add(i), sum, n);
                S::store_part(self.squares.as_mut_ptr().add(i), square, n);
            }
            i += S::LANES;
        }
    }
}

/// `act(x · scale + shift)` with a scale and a shift a channel.
struct Affine<'a> {
    x: &'a [f32],
    scale: &'a [f32],
    shift: &'a [f32],
    act: Act,
    out: *mut f32,
}

impl Kernel for Affine<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let c = self.scale.len();
        let mut row = 0;
        while row < self.x.len() {
            let mut i = 0;
            while i < c {
                let n = S::LANES.min(c - i);
                // SAFETY: `n` channels from `i` lie inside of the pixel, the slices and the result.
                unsafe {
                    let scale = S::load_part(self.scale.as_ptr().add(i), n);
                    let shift = S::load_part(self.shift.as_ptr().add(i), n);
                    let v = S::fma(S::load_part(self.x.as_ptr().add(row + i), n), scale, shift);
                    S::store_part(self.out.add(row + i), math::act::<S>(v, self.act), n);
                }
                i += S::LANES;
            }
            row += c;
        }
    }
}

pub(crate) struct CpuGroupNorm<S> {
    pub(crate) groups: usize,
    pub(crate) eps: f64,
    pub(crate) act: Act,
    pub(crate) gain: Vec<f32>,
    pub(crate) bias: Vec<f32>,
    pub(crate) set: PhantomData<S>,
}

impl<S: Simd> CpuGroupNorm<S> {
    /// Scale and shift of each channel of one item; `modulation` is `[2c]`, scales first.
    fn coefficients(&self, x: &[f32], modulation: Option<&[f32]>) -> (Vec<f32>, Vec<f32>) {
        let c = self.gain.len();
        let pixels = x.len() / c;
        let pivot = &x[..c];
        // Few pixels at a time: sums in f32 stay exact enough, the total is in f64.
        let piece = |x: &[f32]| {
            let mut total = (vec![0f64; c], vec![0f64; c]);
            let (mut sums, mut squares) = (vec![0f32; c], vec![0f32; c]);
            for x in x.chunks(256 * c) {
                // SAFETY: the set was found at run time.
                unsafe { S::enter(ChannelSums { x, pivot, sums: &mut sums, squares: &mut squares }) };
                total.0.iter_mut().zip(&sums).for_each(|(t, s)| *t += f64::from(*s));
                total.1.iter_mut().zip(&squares).for_each(|(t, s)| *t += f64::from(*s));
            }
            total
        };
        let (sums, squares) = if x.len() <= 2 * CHUNK {
            piece(x)
        } else {
            let rows = (CHUNK / c).max(256);
            x.par_chunks(rows * c).map(piece).reduce(
                || (vec![0f64; c], vec![0f64; c]),
                |mut a, b| {
                    a.0.iter_mut().zip(b.0).for_each(|(a, b)| *a += b);
                    a.1.iter_mut().zip(b.1).for_each(|(a, b)| *a += b);
                    a
                },
            )
        };
        let (mut scale, mut shift) = (vec![0f32; c], vec![0f32; c]);
        let width = c / self.groups;
        let n = pixels as f64;
        for group in 0..self.groups {
            let channels = group * width..(group + 1) * width;
            let mean_of = |i: usize| f64::from(pivot[i]) + sums[i] / n;
            let mean = channels.clone().map(mean_of).sum::<f64>() / width as f64;
            let within: f64 = channels.clone().map(|i| squares[i] - sums[i] * sums[i] / n).sum();
            let between: f64 = channels.clone().map(|i| n * (mean_of(i) - mean).powi(2)).sum();
            let inverse = 1.0 / ((within + between).max(0.0) / (n * width as f64) + self.eps).sqrt();
            for i in channels {
                let (mut a, mut b) = (inverse * f64::from(self.gain[i]), f64::from(self.bias[i]));
                b -= mean * a;
                if let Some(m) = modulation {
                    let factor = 1.0 + f64::from(m[i]);
                    (a, b) = (a * factor, b * factor + f64::from(m[c + i]));
                }
                (scale[i], shift[i]) = (a as f32, b as f32);
            }
        }
        (scale, shift)
    }

    fn run(&self, x: &Activation, modulation: Option<&Activation>) -> Result<Activation> {
        let [n, h, w, c] = x.shape();
        let values = values_of(x)?;
        let modulation = modulation.map(values_of).transpose()?;
        let size = h * w * c;
        let mut out = Buffer::new(n * size);
        let pointer = out.pointer();
        let item = |i: usize| {
            let x = &values[i * size..][..size];
            let (scale, shift) = self.coefficients(x, modulation.as_deref().map(|m| &m[i * 2 * c..][..2 * c]));
            let piece = |(j, x): (usize, &[f32]), rows: usize| {
                let out = pointer.at(i * size + j * rows * c);
                // SAFETY: the set was found at run time; pieces are disjoint and as long as their results.
                unsafe { S::enter(Affine { x, scale: &scale, shift: &shift, act: self.act, out }) }
            };
            let rows = (CHUNK / c).max(1);
            if size <= 2 * CHUNK {
                piece((0, x), 0);
            } else {
                x.par_chunks(rows * c).enumerate().for_each(|p| piece(p, rows));
            }
        };
        if n > 1 && n * size > CHUNK / 2 {
            (0..n).into_par_iter().with_max_len(1).for_each(item);
        } else {
            (0..n).for_each(item);
        }
        // SAFETY: every item was written whole.
        unsafe { out.finish([n, h, w, c]) }
    }
}

impl<S: Simd> Norm for CpuGroupNorm<S> {
    fn forward(&self, x: &Activation) -> Result<Activation> {
        self.run(x, None)
    }

    fn forward_modulated(&self, x: &Activation, scale_shift: &Activation) -> Result<Activation> {
        self.run(x, Some(scale_shift))
    }
}

/// Layer norm of some rows.
struct Rows<'a> {
    x: &'a [f32],
    gain: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    out: *mut f32,
}

impl Kernel for Rows<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let c = self.gain.len();
        let mut row = 0;
        while row < self.x.len() {
            // SAFETY: `n` channels from `i` lie inside of the row, the slices and the result.
            unsafe {
                let x = self.x.as_ptr().add(row);
                let mut sum = S::splat(0.0);
                let mut i = 0;
                while i < c {
                    sum = S::add(sum, S::load_part(x.add(i), S::LANES.min(c - i)));
                    i += S::LANES;
                }
                let mean = S::sum(sum) / c as f32;
                let mut square = S::splat(0.0);
                i = 0;
                while i < c {
                    let n = S::LANES.min(c - i);
                    let v = S::sub(S::load_part(x.add(i), n), S::splat(mean));
                    // Lanes behind the row hold −mean: they are cut off by storing into and loading from a row.
                    if n == S::LANES {
                        square = S::fma(v, v, square);
                    } else {
                        let mut rest = [0f32; 16];
                        S::store_part(rest.as_mut_ptr(), v, n);
                        let v = S::load_part(rest.as_ptr(), n);
                        square = S::fma(v, v, square);
                    }
                    i += S::LANES;
                }
                let inverse = 1.0 / (S::sum(square) / c as f32 + self.eps).sqrt();
                i = 0;
                while i < c {
                    let n = S::LANES.min(c - i);
                    let v = S::mul(S::sub(S::load_part(x.add(i), n), S::splat(mean)), S::splat(inverse));
                    let gain = S::load_part(self.gain.as_ptr().add(i), n);
                    let bias = S::load_part(self.bias.as_ptr().add(i), n);
                    S::store_part(self.out.add(row + i), S::fma(v, gain, bias), n);
                    i += S::LANES;
                }
            }
            row += c;
        }
    }
}

pub(crate) struct CpuLayerNorm<S> {
    pub(crate) eps: f64,
    pub(crate) gain: Vec<f32>,
    pub(crate) bias: Vec<f32>,
    pub(crate) set: PhantomData<S>,
}

impl<S: Simd> Norm for CpuLayerNorm<S> {
    fn forward(&self, x: &Activation) -> Result<Activation> {
        let values = values_of(x)?;
        let mut out = Buffer::new(values.len());
        let pointer = out.pointer();
        let rows = (CHUNK / self.gain.len()).max(1);
        let piece = |(j, x): (usize, &[f32])| {
            let out = pointer.at(j * rows * self.gain.len());
            let kernel = Rows { x, gain: &self.gain, bias: &self.bias, eps: self.eps as f32, out };
            // SAFETY: the set was found at run time; pieces are disjoint and as long as their results.
            unsafe { S::enter(kernel) }
        };
        if values.len() <= CHUNK {
            values.chunks(rows * self.gain.len()).enumerate().for_each(piece);
        } else {
            values.par_chunks(rows * self.gain.len()).enumerate().for_each(piece);
        }
        // SAFETY: the pieces cover every row.
        unsafe { out.finish(x.shape()) }
    }

    fn forward_modulated(&self, _x: &Activation, _scale_shift: &Activation) -> Result<Activation> {
        Err(crate::Error::Operation("a layer norm has no modulation".to_owned()))
    }
}
