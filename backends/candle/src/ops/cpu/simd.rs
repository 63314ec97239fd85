//! Vectors of `f32` by instruction set. Kernels are written once over [`Simd`] and compiled for each set.

/// An instruction set's vector of `f32`.
///
/// # Safety
/// Every function may be called only where the set is there, which [`available`](super::available) finds out at run
/// time; pointers must be valid for the lanes that the function names.
#[allow(clippy::missing_safety_doc, reason = "the trait says it for all of its functions")]
pub(crate) unsafe trait Simd: Copy + Send + Sync + 'static {
    /// The register.
    type V: Copy;
    /// The set's name.
    const NAME: &'static str;
    /// Values in a register.
    const LANES: usize;
    /// Rows of a tile of the matrix product: with three columns of registers the tile fills the register file.
    const ROWS: usize;
    /// Runs a kernel compiled for this set.
    unsafe fn enter<K: Kernel>(kernel: K) -> K::Out;
    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    /// The first `n` lanes, zeros behind.
    unsafe fn load_part(p: *const f32, n: usize) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    /// The first `n` lanes.
    unsafe fn store_part(p: *mut f32, v: Self::V, n: usize);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// The larger; `b` where one of them is no number.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` where one of them is no number.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// a · b + c
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// To the nearest whole number.
    unsafe fn round(a: Self::V) -> Self::V;
    /// a · 2ⁿ for whole n in −126 … 127.
    unsafe fn scale(a: Self::V, n: Self::V) -> Self::V;
    unsafe fn sum(a: Self::V) -> f32;
    unsafe fn largest(a: Self::V) -> f32;
}

/// A piece of work that is compiled for each instruction set. `run` must be `#[inline(always)]`, so that it is compiled
/// inside of [`Simd::enter`] with the set switched on.
pub(crate) trait Kernel {
    /// What it answers.
    type Out;
    /// # Safety
    /// The instruction set must be there, and the kernel's own pointers must be valid.
    unsafe fn run<S: Simd>(self) -> Self::Out;
}

/// Small arrays that every compiler turns into the baseline's vectors.
#[derive(Clone, Copy)]
pub(crate) struct Generic;

const GENERIC: usize = 4;

macro_rules! lanes {
    (|$i:ident| $value:expr) => {{
        let mut out = [0f32; GENERIC];
        for $i in 0..GENERIC {
            out[$i] = $value;
        }
        out
    }};
}

// SAFETY: plain Rust; the pointers are the caller's promise.
unsafe impl Simd for Generic {
    type V = [f32; GENERIC];
    const NAME: &'static str = "generic";
    const LANES: usize = GENERIC;
    const ROWS: usize = 4;
    #[inline(never)]
    unsafe fn enter<K: Kernel>(kernel: K) -> K::Out {
        // SAFETY: this set is always there.
        unsafe { kernel.run::<Self>() }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; GENERIC]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        // SAFETY: the caller's promise; arrays of f32 need no more alignment than f32.
        unsafe { p.cast::<Self::V>().read() }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> Self::V {
        // SAFETY: only the first `n` lanes are read.
        lanes!(|i| if i < n { unsafe { *p.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<Self::V>().write(v) }
    }
    #[inline(always)]
    unsafe fn store_part(p: *mut f32, v: Self::V, n: usize) {
        for (i, value) in v.into_iter().enumerate().take(n) {
            // SAFETY: only the first `n` lanes are written.
            unsafe { *p.add(i) = value }
        }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        lanes!(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        lanes!(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        lanes!(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        lanes!(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        lanes!(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        lanes!(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // A fused product is one instruction on every 64-bit ARM, and a slow call on the oldest x86.
        if cfg!(target_arch = "aarch64") {
            lanes!(|i| a[i].mul_add(b[i], c[i]))
        } else {
            lanes!(|i| a[i] * b[i] + c[i])
        }
    }
    #[inline(always)]
    unsafe fn round(a: Self::V) -> Self::V {
        // Adding 1.5 · 2²³ leaves no room for a fraction.
        lanes!(|i| (a[i] + 12_582_912.0) - 12_582_912.0)
    }
    #[inline(always)]
    unsafe fn scale(a: Self::V, n: Self::V) -> Self::V {
        lanes!(|i| a[i] * f32::from_bits(((n[i] as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn sum(a: Self::V) -> f32 {
        a.iter().sum()
    }
    #[inline(always)]
    unsafe fn largest(a: Self::V) -> f32 {
        a.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v))
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Kernel, Simd};
    use std::arch::x86_64::*;

    /// AVX-512F.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512;

    /// The low `n` bits.
    #[inline(always)]
    fn mask(n: usize) -> __mmask16 {
        if n >= 16 { 0xffff } else { (1u16 << n) - 1 }
    }

    macro_rules! plain {
        ($($name:ident($($arg:ident),*) = $intrinsic:ident;)*) => {$(
            #[inline(always)]
            unsafe fn $name($($arg: Self::V),*) -> Self::V {
                // SAFETY: the trait's promise: the instruction set is there.
                unsafe { $intrinsic($($arg),*) }
            }
        )*};
    }

    // SAFETY: each intrinsic belongs to the set whose presence is the trait's condition.
    unsafe impl Simd for Avx512 {
        type V = __m512;
        const NAME: &'static str = "avx512";
        const LANES: usize = 16;
        const ROWS: usize = 8;
        #[target_feature(enable = "avx512f,avx2,fma")]
        unsafe fn enter<K: Kernel>(kernel: K) -> K::Out {
            // SAFETY: the caller's promise.
            unsafe { kernel.run::<Self>() }
        }
        plain! {
            add(a, b) = _mm512_add_ps;
            sub(a, b) = _mm512_sub_ps;
            mul(a, b) = _mm512_mul_ps;
            div(a, b) = _mm512_div_ps;
            max(a, b) = _mm512_max_ps;
            min(a, b) = _mm512_min_ps;
            fma(a, b, c) = _mm512_fmadd_ps;
            scale(a, n) = _mm512_scalef_ps;
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self::V {
            // SAFETY: as above.
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self::V {
            // SAFETY: 16 values are valid by the caller's promise.
            unsafe { _mm512_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn load_part(p: *const f32, n: usize) -> Self::V {
            // SAFETY: lanes outside of the mask are not read.
            unsafe { _mm512_maskz_loadu_ps(mask(n), p) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: Self::V) {
            // SAFETY: 16 values are valid by the caller's promise.
            unsafe { _mm512_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn store_part(p: *mut f32, v: Self::V, n: usize) {
            // SAFETY: lanes outside of the mask are not written.
            unsafe { _mm512_mask_storeu_ps(p, mask(n), v) }
        }
        #[inline(always)]
        unsafe fn round(a: Self::V) -> Self::V {
            // SAFETY: as above.
            unsafe { _mm512_roundscale_ps::<0>(a) }
        }
        #[inline(always)]
        unsafe fn sum(a: Self::V) -> f32 {
            // SAFETY: as above.
            unsafe { _mm512_reduce_add_ps(a) }
        }
        #[inline(always)]
        unsafe fn largest(a: Self::V) -> f32 {
            // SAFETY: as above.
            unsafe { _mm512_reduce_max_ps(a) }
        }
    }

    /// AVX2 with fused products.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2;

    /// A lane mask with the first `n` of 8 lanes set.
    #[inline(always)]
    unsafe fn lane_mask(n: usize) -> __m256i {
        const BITS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: eight integers from a start of at most 8 lie inside of the table.
        unsafe { _mm256_loadu_si256(BITS.as_ptr().add(8 - n.min(8)).cast()) }
    }

    #[inline(always)]
    fn values(v: __m256) -> [f32; 8] {
        // SAFETY: both are 32 bytes without invalid values.
        unsafe { std::mem::transmute(v) }
    }

    // SAFETY: each intrinsic belongs to the set whose presence is the trait's condition.
    unsafe impl Simd for Avx2 {
        type V = __m256;
        const NAME: &'static str = "avx2";
        const LANES: usize = 8;
        const ROWS: usize = 4;
        #[target_feature(enable = "avx2,fma")]
        unsafe fn enter<K: Kernel>(kernel: K) -> K::Out {
            // SAFETY: the caller's promise.
            unsafe { kernel.run::<Self>() }
        }
        plain! {
            add(a, b) = _mm256_add_ps;
            sub(a, b) = _mm256_sub_ps;
            mul(a, b) = _mm256_mul_ps;
            div(a, b) = _mm256_div_ps;
            max(a, b) = _mm256_max_ps;
            min(a, b) = _mm256_min_ps;
            fma(a, b, c) = _mm256_fmadd_ps;
        }
        #[inline(always)]
        unsafe fn scale(a: Self::V, n: Self::V) -> Self::V {
            // SAFETY: as above; the exponent is built from a whole number in range.
            unsafe {
                let bits = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)));
                _mm256_mul_ps(a, _mm256_castsi256_ps(bits))
            }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self::V {
            // SAFETY: as above.
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self::V {
            // SAFETY: 8 values are valid by the caller's promise.
            unsafe { _mm256_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn load_part(p: *const f32, n: usize) -> Self::V {
            // SAFETY: lanes outside of the mask are not read.
            unsafe { _mm256_maskload_ps(p, lane_mask(n)) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: Self::V) {
            // SAFETY: 8 values are valid by the caller's promise.
            unsafe { _mm256_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn store_part(p: *mut f32, v: Self::V, n: usize) {
            // SAFETY: lanes outside of the mask are not written.
            unsafe { _mm256_maskstore_ps(p, lane_mask(n), v) }
        }
        #[inline(always)]
        unsafe fn round(a: Self::V) -> Self::V {
            // SAFETY: as above.
            unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
        }
        #[inline(always)]
        unsafe fn sum(a: Self::V) -> f32 {
            values(a).iter().sum()
        }
        #[inline(always)]
        unsafe fn largest(a: Self::V) -> f32 {
            values(a).iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v))
        }
    }
}
