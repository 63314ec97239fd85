//! `log` and `sincos` as the single-precision polynomials of PyTorch's vectorised `randn`.
//!
//! PyTorch fills normal tensors on x86 with the routines of `avx_mathfun.h` (G. Garberoglio's AVX version of
//! J. Pommier's `sse_mathfun`, after the Cephes library). Evaluating the same polynomials in the same order and
//! with the same roundings, one lane at a time, gives the same bits on every processor.

#![allow(
    clippy::excessive_precision,
    clippy::unreadable_literal,
    reason = "constants of Cephes, as they are written there"
)]

/// Polynomial of Cephes' `logf`.
const LOG_POLYNOMIAL: [f32; 9] = [
    7.0376836292E-2,
    -1.1514610310E-1,
    1.1676998740E-1,
    -1.2420140846E-1,
    1.4249322787E-1,
    -1.6668057665E-1,
    2.0000714765E-1,
    -2.4999993993E-1,
    3.3333331174E-1,
];

/// Natural logarithm of a positive, normal `x`.
pub(crate) fn log(x: f32) -> f32 {
    let bits = x.to_bits();
    // Split into exponent and a mantissa in [0.5, 1).
    let mut e = ((bits >> 23) as i32 - 0x7f) as f32 + 1.0;
    let mut m = f32::from_bits((bits & !0x7f80_0000) | 0.5f32.to_bits());
    if m < std::f32::consts::FRAC_1_SQRT_2 {
        e -= 1.0;
        m = (m - 1.0) + m;
    } else {
        m -= 1.0;
    }
    let z = m * m;
    let mut y = LOG_POLYNOMIAL[0];
    for coefficient in &LOG_POLYNOMIAL[1..] {
        y = fma(y, m, *coefficient);
    }
    y = fma(y * m, z, e * -2.12194440e-4);
    y = fma(-z, 0.5, y);
    fma(e, 0.693359375, m + y)
}

/// Sine and cosine of `x` in `[0, 2π)`.
pub(crate) fn sincos(x: f32) -> (f32, f32) {
    // The octant, rounded up to even, and the argument reduced by it in three parts of π/4.
    let octant = ((x * 1.27323954473516) as i32 + 1) & !1;
    let y = octant as f32;
    let mut r = fma(y, -0.78515625, x);
    r = fma(y, -2.4187564849853515625e-4, r);
    r = fma(y, -3.77489497744594108e-8, r);

    let z = r * r;
    let mut cos = 2.443315711809948e-5;
    cos = fma(cos, z, -1.388731625493765e-3);
    cos = fma(cos, z, 4.166664568298827e-2);
    cos = fma(cos * z, z, -(z * 0.5)) + 1.0;
    let mut sin = -1.9515295891e-4;
    sin = fma(sin, z, 8.3321608736e-3);
    sin = fma(sin, z, -1.6666654611e-1);
    sin = fma(sin * z, r, r);

    let swapped = octant & 2 != 0;
    let (s, c) = if swapped { (cos, sin) } else { (sin, cos) };
    let s = if octant & 4 != 0 { -s } else { s };
    let c = if (octant - 2) & 4 == 0 { -c } else { c };
    (s, c)
}

/// One rounding, as the compiler of PyTorch contracts a product and a sum.
fn fma(a: f32, b: f32, c: f32) -> f32 {
    a.mul_add(b, c)
}
