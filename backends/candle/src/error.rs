//! What can go wrong inside the networks, and how it crosses the interface.

use backend_api::{AbiError, Code};

/// A failure of this crate. Messages may be shown to whoever sent the request: they name parts, tensors and fields,
/// never a path.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A JSON config is broken or asks for something contradictory.
    #[error("the config of `{part}` is not usable: {reason}")]
    Config {
        /// The model's part.
        part: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A config asks for something that these networks do not build.
    #[error("`{part}` needs `{field}` = {value}, which this backend does not build")]
    Architecture {
        /// The model's part.
        part: String,
        /// The field of its config.
        field: &'static str,
        /// The field's value.
        value: String,
    },
    /// A part's weights or config were not given.
    #[error("the model has no {what} for `{part}`")]
    MissingPart {
        /// The model's part.
        part: String,
        /// `weights` or `config`.
        what: &'static str,
    },
    /// A tensor is not in the file.
    #[error("the weights of `{part}` lack the tensor `{name}`")]
    MissingTensor {
        /// The model's part.
        part: String,
        /// The tensor's name.
        name: String,
    },
    /// A tensor has another shape than the config implies.
    #[error("the tensor `{name}` of `{part}` has the shape {found:?}, its config asks for {expected:?}")]
    Shape {
        /// The model's part.
        part: String,
        /// The tensor's name.
        name: String,
        /// The shape the config implies.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor's element type cannot be read as weights.
    #[error("the tensor `{name}` of `{part}` has the element type {dtype}; f32, f16 and bf16 are read")]
    ElementType {
        /// The model's part.
        part: String,
        /// The tensor's name.
        name: String,
        /// The type in the file.
        dtype: String,
    },
    /// A tensor holds NaN or infinity.
    #[error("the tensor `{name}` of `{part}` holds a value that is not finite; fetch the file again")]
    NotFinite {
        /// The model's part.
        part: String,
        /// The tensor's name.
        name: String,
    },
    /// A safetensors header is broken.
    #[error("the weights file of `{part}` is broken: {reason}")]
    Header {
        /// The model's part.
        part: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A weights file became shorter or was rewritten while it was read.
    #[error("the weights file of `{part}` changed while it was read")]
    Changed {
        /// The model's part.
        part: String,
    },
    /// The operating system could not read a file.
    #[error("the weights file of `{part}` cannot be read: {kind}")]
    Io {
        /// The model's part.
        part: String,
        /// The kind of failure.
        kind: std::io::ErrorKind,
    },
    /// The request does not fit the model.
    #[error("{0}")]
    Invalid(String),
    /// The model does not have what the request needs.
    #[error("this model has no {0}")]
    Absent(&'static str),
    /// The memory that is left does not suffice.
    #[error("{what} needs about {needed} MiB, {free} MiB are free")]
    Memory {
        /// What was to be done.
        what: &'static str,
        /// What it needs, in MiB.
        needed: u64,
        /// What is free, in MiB.
        free: u64,
    },
    /// A network gave NaN or infinity.
    #[error("the {0} gave values that are not finite")]
    Output(&'static str),
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// A fault in an operation; always a defect of this crate.
    #[error("an operation failed inside the backend")]
    Operation(String),
}

impl Error {
    /// A stable name for the kind of failure.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Config { .. } => "config",
            Error::Architecture { .. } => "architecture",
            Error::MissingPart { .. } => "missing_part",
            Error::MissingTensor { .. } => "missing_tensor",
            Error::Shape { .. } => "shape",
            Error::ElementType { .. } => "element_type",
            Error::NotFinite { .. } => "not_finite",
            Error::Header { .. } => "header",
            Error::Changed { .. } => "changed",
            Error::Io { .. } => "io",
            Error::Invalid(_) => "invalid",
            Error::Absent(_) => "absent",
            Error::Memory { .. } => "memory",
            Error::Output(_) => "output",
            Error::Cancelled => "cancelled",
            Error::Operation(_) => "operation",
        }
    }

    /// A config that is not usable.
    pub(crate) fn config(part: &str, reason: impl std::fmt::Display) -> Self {
        Error::Config { part: part.to_owned(), reason: reason.to_string() }
    }

    /// A request that does not fit.
    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        Error::Invalid(reason.into())
    }
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Error::Operation(error.to_string())
    }
}

impl From<AbiError> for Error {
    /// The interface's helpers fail only on shapes and types of what the caller sent.
    fn from(error: AbiError) -> Self {
        Error::Invalid(error.message.into())
    }
}

impl From<Error> for AbiError {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Config { .. } | Error::Invalid(_) => Code::INVALID,
            Error::Architecture { .. } | Error::Absent(_) => Code::UNSUPPORTED,
            Error::MissingPart { .. } | Error::MissingTensor { .. } => Code::NOT_FOUND,
            Error::Shape { .. }
            | Error::ElementType { .. }
            | Error::NotFinite { .. }
            | Error::Header { .. }
            | Error::Changed { .. } => Code::DATA_LOSS,
            Error::Io { kind: std::io::ErrorKind::NotFound, .. } => Code::NOT_FOUND,
            Error::Io { .. } => Code::DATA_LOSS,
            Error::Memory { .. } => Code::OOM,
            Error::Output(_) | Error::Operation(_) => Code::INTERNAL,
            Error::Cancelled => Code::CANCELLED,
        };
        let detail = match &error {
            Error::Operation(text) => text.clone(),
            other => other.code().to_owned(),
        };
        AbiError::new(code, error.to_string()).with_detail(detail)
    }
}

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
