//! Open enums: transparent `u32` codes, so that a later minor version can add values.

use abi_stable::StableAbi;

macro_rules! open_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $value:literal),* $(,)? }) => {
        $(#[$meta])*
        ///
        /// Unknown values are legal: they come from a newer version of the interface.
        #[repr(transparent)]
        #[derive(StableAbi, Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(
            /// The number that crosses the boundary.
            pub u32,
        );
        impl $name {
            $($(#[$vmeta])* pub const $variant: $name = $name($value);)*

            /// The constant's name, or `None` for a value this version does not know.
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $($name::$variant => Some(stringify!($variant)),)*
                    _ => None,
                }
            }
        }
    };
}

open_enum!(
    /// Why a call failed. The first block keeps the numbers of the well-known RPC status codes.
    Code {
        /// The caller asked to stop, and the call stopped.
        CANCELLED = 1,
        /// An argument is wrong: a shape, a size, an unknown id.
        INVALID = 3,
        /// A file, tensor or key that the model needs is missing.
        NOT_FOUND = 5,
        /// Not enough memory on the device or the host. The object stays usable.
        OOM = 8,
        /// The object is not in a state to do this, for example after a panic.
        PRECONDITION = 9,
        /// This backend does not offer the call or the model's architecture.
        UNSUPPORTED = 12,
        /// A fault inside the backend.
        INTERNAL = 13,
        /// A file's content is broken: truncated, lying header, non-finite weights.
        DATA_LOSS = 15,
        /// The device is gone or in a state that needs a new process.
        DEVICE_LOST = 64,
        /// The call panicked; the panic was caught at the boundary and the object is poisoned.
        PANICKED = 65,
        /// The process that ran the plugin died. Made by the host.
        WORKER_DIED = 66,
        /// The plugin gave no answer within the limit. Made by the host.
        TIMEOUT = 67,
        /// New in 1.1.
        THROTTLED = 68,
    }
);

open_enum!(
    /// The type of a tensor's elements.
    DType {
        /// IEEE 754 single.
        F32 = 0,
        /// IEEE 754 half.
        F16 = 1,
        /// bfloat16.
        BF16 = 2,
        /// Unsigned byte.
        U8 = 3,
        /// Signed 64-bit integer.
        I64 = 4,
        /// Unsigned 32-bit integer.
        U32 = 5,
    }
);

impl DType {
    /// Bytes of one element, or `None` for a type this version does not know.
    pub fn size(self) -> Option<usize> {
        match self {
            DType::F32 | DType::U32 => Some(4),
            DType::F16 | DType::BF16 => Some(2),
            DType::U8 => Some(1),
            DType::I64 => Some(8),
            _ => None,
        }
    }
}

open_enum!(
    /// What kind of processor a piece of hardware is.
    HwKind {
        /// The machine's own processors.
        CPU = 0,
        /// A graphics processor with memory of its own.
        GPU = 1,
        /// A graphics processor that shares the machine's memory.
        IGPU = 2,
        /// Any other accelerator.
        NPU = 3,
    }
);

open_enum!(
    /// What a model is for.
    Task {
        /// Text or picture to picture by denoising.
        DIFFUSION = 1,
        /// Text to text.
        LLM = 2,
        /// Picture to a larger picture.
        UPSCALE = 3,
    }
);

open_enum!(
    /// The part of a long call that a progress report speaks of.
    Stage {
        /// Reading and placing weights; units are bytes.
        LOAD = 1,
        /// Decoding latents; units are tiles.
        DECODE = 2,
        /// Encoding a picture; units are tiles.
        ENCODE = 3,
        /// Enlarging a picture; units are tiles.
        UPSCALE = 4,
    }
);

open_enum!(
    /// How important a log line is.
    LogLevel {
        /// A fault.
        ERROR = 1,
        /// Something an operator should look at.
        WARN = 2,
        /// What happened.
        INFO = 3,
        /// Detail for the author.
        DEBUG = 4,
        /// Every step.
        TRACE = 5,
    }
);
