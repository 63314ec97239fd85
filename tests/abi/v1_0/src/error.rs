//! The error that crosses the boundary.

use crate::Code;
use abi_stable::{
    StableAbi,
    std_types::{RResult, RString},
};

/// A failed call: a stable code, a sentence for people, and detail for logs.
#[repr(C)]
#[derive(StableAbi, Debug, Clone, PartialEq, Eq)]
pub struct AbiError {
    /// What kind of failure.
    pub code: Code,
    /// One sentence that may be shown to whoever sent the request. It names no path and no address.
    pub message: RString,
    /// Detail for the operator's log only.
    pub detail: RString,
}

impl AbiError {
    /// An error without detail.
    pub fn new(code: Code, message: impl Into<RString>) -> Self {
        AbiError { code, message: message.into(), detail: RString::new() }
    }

    /// The same error with detail for the log.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<RString>) -> Self {
        self.detail = detail.into();
        self
    }

    /// [`Code::CANCELLED`].
    pub fn cancelled() -> Self {
        AbiError::new(Code::CANCELLED, "cancelled")
    }

    /// [`Code::INVALID`] with a reason.
    pub fn invalid(message: impl Into<RString>) -> Self {
        AbiError::new(Code::INVALID, message)
    }

    /// [`Code::INTERNAL`] with a reason.
    pub fn internal(message: impl Into<RString>) -> Self {
        AbiError::new(Code::INTERNAL, message)
    }

    /// [`Code::UNSUPPORTED`]: the answer of every default body.
    pub fn unsupported(what: &str) -> Self {
        AbiError::new(Code::UNSUPPORTED, format!("this backend does not offer {what}"))
    }
}

impl std::fmt::Display for AbiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.code.name() {
            Some(name) => write!(f, "{}: {}", name, self.message),
            None => write!(f, "code {}: {}", self.code.0, self.message),
        }
    }
}

impl std::error::Error for AbiError {}

/// The result of every fallible call across the boundary.
pub type Res<T> = RResult<T, AbiError>;
