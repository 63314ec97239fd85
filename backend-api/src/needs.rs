//! What a processor must have to run a library: stated as exported names, which a host reads from the file without
//! running a byte of it.
//!
//! A library that was compiled for AVX-512 dies by SIGILL on a processor without it, as early as in its constructors, so
//! asking it is too late. It therefore exports one symbol for each feature that it takes for granted: [`NEEDS`] and the
//! feature's name, such as `SD_BACKEND_NEEDS_avx512f`. What lies behind the symbol does not matter. A library without
//! such symbols runs on every processor of its architecture. Names are Rust's (`rustc --print target-features`);
//! punctuation does not count, so that `amx_tile` and `amx-tile` are one.
//!
//! [`export_backend!`](crate::export_backend) states what Rust's compiler was told to use, [`needs!`](crate::needs) the
//! rest.

/// How the exported names of needed features begin.
pub const NEEDS: &str = "SD_BACKEND_NEEDS_";

/// Passes the features of this architecture that a build may take for granted to another macro: all that the stable
/// compiler tells of and that are not in every such processor.
#[cfg(target_arch = "x86_64")]
#[doc(hidden)]
#[macro_export]
macro_rules! __each_feature {
    ($($callback:tt)+) => {
        $($callback)+! {
            "adx" "aes" "avx" "avx2" "avx512bf16" "avx512bitalg" "avx512bw" "avx512cd" "avx512dq" "avx512f" "avx512fp16"
            "avx512ifma" "avx512vbmi" "avx512vbmi2" "avx512vl" "avx512vnni" "avx512vp2intersect" "avx512vpopcntdq"
            "avxifma" "avxneconvert" "avxvnni" "avxvnniint16" "avxvnniint8" "bmi1" "bmi2" "cmpxchg16b" "f16c" "fma" "gfni"
            "kl" "lzcnt" "movbe" "pclmulqdq" "popcnt" "rdrand" "rdseed" "sha" "sha512" "sm3" "sm4" "sse3" "sse4.1" "sse4.2"
            "sse4a" "ssse3" "tbm" "vaes" "vpclmulqdq" "widekl" "xsave" "xsavec" "xsaveopt" "xsaves"
        }
    };
}

/// The same for 64-bit Arm, where NEON is in every processor.
#[cfg(target_arch = "aarch64")]
#[doc(hidden)]
#[macro_export]
macro_rules! __each_feature {
    ($($callback:tt)+) => {
        $($callback)+! {
            "aes" "bf16" "crc" "dotprod" "fcma" "fhm" "flagm" "fp16" "frintts" "i8mm" "jsconv" "lse" "lse2" "rcpc" "rcpc2"
            "rdm" "sb" "sha2" "sha3" "sve" "sve2"
        }
    };
}

/// The same where no builds for different processors are told apart.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[doc(hidden)]
#[macro_export]
macro_rules! __each_feature {
    ($($callback:tt)+) => { $($callback)+! {} };
}

/// States those of the listed features that the library in which this is written was compiled for.
#[doc(hidden)]
#[macro_export]
macro_rules! __state_needs {
    ($($feature:literal)*) => { $(
        #[cfg(target_feature = $feature)]
        $crate::needs!($feature);
    )* };
}

/// States that a library needs processor features: `backend_api::needs!("amx-tile", "amx-bf16");`, each once, in the
/// cdylib. For code that Rust's compiler did not make, and for features that it does not tell of (AMX, APX);
/// [`export_backend!`](crate::export_backend) states by itself what Rust's compiler was told to use. Code that looks at
/// the processor before it uses a feature needs nothing.
#[macro_export]
macro_rules! needs {
    ($($feature:literal),+ $(,)?) => { $(
        const _: () = {
            // SAFETY: a byte that nobody reads, under a name of its own.
            #[unsafe(export_name = concat!("SD_BACKEND_NEEDS_", $feature))]
            static NEEDED: u8 = 0;
        };
    )+ };
}

/// How many features, beyond those of every processor of the architecture, the crate in which this is written was compiled
/// for (`u32`): what a plugin adds to its score, so that of several builds the one that fits best is taken.
#[macro_export]
macro_rules! built_for {
    () => {
        $crate::__each_feature!($crate::__count_features)
    };
}

/// Counts those of the listed features that the crate was compiled for.
#[doc(hidden)]
#[macro_export]
macro_rules! __count_features {
    ($($feature:literal)*) => { 0u32 $(+ cfg!(target_feature = $feature) as u32)* };
}
