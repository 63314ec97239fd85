//! Functions on vectors, accurate to a few units in the last place.

use super::simd::{Kernel, Simd};
use crate::ops::Act;

/// eˣ. Cody and Waite's reduction, Cephes' polynomial; below −87 the result is that of −87 (10⁻³⁸); what is no
/// number stays none.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's promise.
    unsafe {
        let x = S::max(S::splat(-87.0), S::min(S::splat(88.0), x));
        let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        let r = S::fma(n, S::splat(-0.693_359_4), x);
        let r = S::fma(n, S::splat(2.121_944_4e-4), r);
        let p = S::fma(S::splat(1.987_569_1e-4), r, S::splat(1.398_199_9e-3));
        let p = S::fma(p, r, S::splat(8.333_452e-3));
        let p = S::fma(p, r, S::splat(4.166_579_6e-2));
        let p = S::fma(p, r, S::splat(1.666_666_5e-1));
        let p = S::fma(p, r, S::splat(0.5));
        let p = S::fma(S::mul(r, r), p, S::add(r, S::splat(1.0)));
        S::scale(p, n)
    }
}

/// x / (1 + e^(−k x))
#[inline(always)]
unsafe fn gated<S: Simd>(x: S::V, k: f32) -> S::V {
    // SAFETY: the caller's promise.
    unsafe { S::div(x, S::add(S::splat(1.0), exp::<S>(S::mul(x, S::splat(-k))))) }
}

/// x · Φ(x). The error function by Abramowitz and Stegun 7.1.26 (absolute error 1.5e-7), written for the tail
/// `erfc(|x|/√2)/2`, so that nothing cancels.
#[inline(always)]
unsafe fn gelu<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's promise.
    unsafe {
        let zero = S::splat(0.0);
        let size = S::max(x, S::sub(zero, x));
        let z = S::mul(size, S::splat(std::f32::consts::FRAC_1_SQRT_2));
        let t = S::div(S::splat(1.0), S::fma(z, S::splat(0.327_591_1), S::splat(1.0)));
        let p = S::fma(S::splat(1.061_405_4), t, S::splat(-1.453_152));
        let p = S::fma(p, t, S::splat(1.421_413_7));
        let p = S::fma(p, t, S::splat(-0.284_496_74));
        let p = S::mul(S::fma(p, t, S::splat(0.254_829_6)), t);
        let tail = S::mul(S::mul(p, exp::<S>(S::sub(zero, S::mul(z, z)))), S::splat(0.5));
        // max(x, 0) − |x| · tail is x·(1 − tail) above zero and x·tail below.
        S::sub(S::max(x, zero), S::mul(size, tail))
    }
}

/// A function by name.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
pub(crate) unsafe fn act<S: Simd>(x: S::V, act: Act) -> S::V {
    // SAFETY: the caller's promise.
    unsafe {
        match act {
            Act::Identity => x,
            Act::Silu => gated::<S>(x, 1.0),
            Act::QuickGelu => gated::<S>(x, 1.702),
            Act::Gelu => gelu::<S>(x),
            Act::Relu => S::max(S::splat(0.0), x),
            Act::LeakyRelu => S::max(x, S::mul(x, S::splat(0.2))),
            // 1 − 2 / (e^2x + 1)
            Act::Tanh => {
                let e = exp::<S>(S::add(x, x));
                S::sub(S::splat(1.0), S::div(S::splat(2.0), S::add(e, S::splat(1.0))))
            }
        }
    }
}

/// `out[i] = act(a · x[i] + b)`, or with a second input `x[i] + y[i]`.
pub(crate) struct Map<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) y: Option<&'a [f32]>,
    pub(crate) out: *mut f32,
    pub(crate) a: f32,
    pub(crate) b: f32,
    pub(crate) act: Act,
}

impl Kernel for Map<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let mut i = 0;
        while i < self.x.len() {
            let n = S::LANES.min(self.x.len() - i);
            // SAFETY: `n` values from `i` lie inside of the slices and of `out`, which is as long.
            unsafe {
                let mut v = S::load_part(self.x.as_ptr().add(i), n);
                match self.y {
                    Some(y) => v = S::add(v, S::load_part(y.as_ptr().add(i), n)),
                    None => v = act::<S>(S::fma(v, S::splat(self.a), S::splat(self.b)), self.act),
                }
                S::store_part(self.out.add(i), v, n);
            }
            i += S::LANES;
        }
    }
}
