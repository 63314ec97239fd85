//! Everything that can be wrong with a model, each with a stable machine code.
//!
//! Messages name the file *inside the model* (`unet/config.json`), never a path of the server, and say what to do.

use crate::hub::HubError;

/// What went wrong, for people and (through [`ModelError::code`]) for programs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A name from a request that the grammar refuses.
    #[error("model name refused: {reason}; write a name such as `sd-v1-5`, or a hub id such as `org/name@revision`")]
    InvalidName {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No folder, file, short name or cached hub model of that name.
    #[error("model `{name}` is not here{hint}")]
    NotFound {
        /// The name as asked for.
        name: String,
        /// A remedy, with its own punctuation.
        hint: String,
    },
    /// A symbolic link (or a shard name) leads out of the models directory.
    #[error(
        "`{file}` leads out of the models directory; copy or hard-link it, or add its directory to the models directories"
    )]
    OutsideRoot {
        /// The file inside the model.
        file: String,
    },
    /// A file that the model needs is absent.
    #[error("`{file}` is missing: {remedy}")]
    MissingFile {
        /// The file inside the model.
        file: String,
        /// What to do.
        remedy: String,
    },
    /// A directory, device, socket or pipe stands where a file should be.
    #[error("`{file}` is not a regular file")]
    NotAFile {
        /// The file inside the model.
        file: String,
    },
    /// The operating system refused to read or write.
    #[error("`{file}`: {source}")]
    Io {
        /// The file inside the model.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// The disk is full.
    #[error("the disk is full while writing `{file}`: free {need} bytes and run the same command again, it resumes")]
    DiskFull {
        /// The file being written.
        file: String,
        /// Bytes still missing.
        need: u64,
    },
    /// A JSON file above its bound.
    #[error("`{file}` is larger than {limit} bytes, the most a file of its kind may have")]
    JsonTooLarge {
        /// The file inside the model.
        file: String,
        /// The bound in bytes.
        limit: u64,
    },
    /// Brackets nested deeper than any real config.
    #[error("`{file}` nests deeper than {limit} levels")]
    JsonTooDeep {
        /// The file inside the model.
        file: String,
        /// The bound.
        limit: usize,
    },
    /// Not JSON, or not the kind of JSON that is needed.
    #[error("`{file}` is not the JSON that is needed: {reason}")]
    BadJson {
        /// The file inside the model.
        file: String,
        /// What the parser said.
        reason: String,
    },
    /// A field of a config has a value that cannot be.
    #[error("`{file}`: field `{field}` {reason}")]
    BadConfig {
        /// The file inside the model.
        file: String,
        /// The field.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A class name that we do not implement.
    #[error("`{file}`: {part} is a `{class}`, which is not supported; supported: {known}")]
    UnknownClass {
        /// The file inside the model.
        file: String,
        /// Which part.
        part: String,
        /// The class name found.
        class: String,
        /// What would have been right.
        known: String,
    },
    /// A model of a kind that we do not run (Flux, SD3, video …).
    #[error("this is {what}, which is not supported: only Stable Diffusion 1.x, 2.x, XL and their relatives are")]
    UnsupportedModel {
        /// What it looks like.
        what: String,
    },
    /// A part that every model of this family has is absent.
    #[error("the model has no {part}: {remedy}")]
    MissingPart {
        /// The part (`unet`, `vae`, `text_encoder` …).
        part: String,
        /// What to do.
        remedy: String,
    },
    /// A pickle. Unpickling runs code that the file carries, so it is never done.
    #[error(
        "`{file}` is a Python pickle, which can run any code when it is opened, so it is refused; \
         convert it to safetensors on a machine you trust, or take the repository's `.safetensors` file"
    )]
    Pickle {
        /// The file inside the model.
        file: String,
    },
    /// Another known format.
    #[error("`{file}` is {format}; only safetensors is supported")]
    UnsupportedFormat {
        /// The file inside the model.
        file: String,
        /// What it is.
        format: &'static str,
    },
    /// A part of an ONNX export that is no graph.
    #[error("`{file}` is no ONNX graph; export the model again")]
    NotOnnx {
        /// The file inside the model.
        file: String,
    },
    /// A safetensors header that is malformed or lies.
    #[error("`{file}` has a bad safetensors header: {reason}; fetch the file again")]
    BadHeader {
        /// The file inside the model.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// Fewer bytes than the header promises.
    #[error("`{file}` is cut short: it has {have} bytes and needs {need}; fetch it again")]
    Truncated {
        /// The file inside the model.
        file: String,
        /// Bytes on disk.
        have: u64,
        /// Bytes that its header promises.
        need: u64,
    },
    /// More bytes than the header describes.
    #[error("`{file}` has {have} bytes where its header describes {need}; fetch it again")]
    TrailingBytes {
        /// The file inside the model.
        file: String,
        /// Bytes on disk.
        have: u64,
        /// Bytes that its header describes.
        need: u64,
    },
    /// A number type that no backend reads.
    #[error("`{file}`: tensor `{tensor}` is {dtype}; weights must be F32, F16, BF16 or F64")]
    UnsupportedDtype {
        /// The file inside the model.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: String,
    },
    /// A tensor that the config asks for is absent.
    #[error("`{file}` has no tensor `{tensor}`, which its config asks for")]
    MissingTensor {
        /// The file inside the model.
        file: String,
        /// The tensor.
        tensor: String,
    },
    /// A tensor has another shape than the config says.
    #[error("`{file}`: tensor `{tensor}` has shape {found:?}, its config says {expected:?}")]
    WrongShape {
        /// The file inside the model.
        file: String,
        /// The tensor.
        tensor: String,
        /// By the config.
        expected: Vec<u64>,
        /// In the file.
        found: Vec<u64>,
    },
    /// Parts that do not belong together.
    #[error("the parts do not belong together: {reason}")]
    WrongFamily {
        /// Which do not fit and how.
        reason: String,
    },
    /// A shard index that is malformed or names foreign files.
    #[error("`{file}`: {reason}")]
    BadShardIndex {
        /// The index.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// No tokenizer for a text encoder.
    #[error("`{folder}` has neither tokenizer.json nor vocab.json with merges.txt")]
    MissingTokenizer {
        /// The tokenizer's folder inside the model.
        folder: String,
    },
    /// A tokenizer that does not fit its text encoder.
    #[error("`{file}`: {reason}")]
    BadTokenizer {
        /// The file inside the model.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// The name is taken.
    #[error("a model named `{name}` is here already; remove it first or choose another name")]
    AlreadyExists {
        /// The name.
        name: String,
    },
    /// A model that we may not remove or change.
    #[error("`{name}` cannot be removed: {reason}")]
    NotRemovable {
        /// The name.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// Something about the hub.
    #[error(transparent)]
    Hub(#[from] HubError),
}

impl ModelError {
    /// The stable code that API answers and logs carry.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidName { .. } => "invalid_model_name",
            Self::NotFound { .. } => "model_not_found",
            Self::OutsideRoot { .. } => "outside_models_dir",
            Self::MissingFile { .. } => "model_file_missing",
            Self::NotAFile { .. } => "not_a_file",
            Self::Io { .. } => "model_io",
            Self::DiskFull { .. } => "disk_full",
            Self::JsonTooLarge { .. } => "json_too_large",
            Self::JsonTooDeep { .. } => "json_too_deep",
            Self::BadJson { .. } => "bad_json",
            Self::BadConfig { .. } => "bad_config",
            Self::UnknownClass { .. } => "unknown_class",
            Self::UnsupportedModel { .. } => "unsupported_model",
            Self::MissingPart { .. } => "model_part_missing",
            Self::Pickle { .. } => "pickle_refused",
            Self::UnsupportedFormat { .. } => "unsupported_format",
            Self::BadHeader { .. } | Self::NotOnnx { .. } => "bad_header",
            Self::Truncated { .. } => "file_truncated",
            Self::TrailingBytes { .. } => "trailing_bytes",
            Self::UnsupportedDtype { .. } => "unsupported_dtype",
            Self::MissingTensor { .. } => "tensor_missing",
            Self::WrongShape { .. } => "wrong_shape",
            Self::WrongFamily { .. } => "wrong_family",
            Self::BadShardIndex { .. } => "bad_shard_index",
            Self::MissingTokenizer { .. } => "tokenizer_missing",
            Self::BadTokenizer { .. } => "bad_tokenizer",
            Self::AlreadyExists { .. } => "model_exists",
            Self::NotRemovable { .. } => "model_not_removable",
            Self::Hub(error) => error.code(),
        }
    }

    pub(crate) fn io(file: impl Into<String>, source: std::io::Error) -> Self {
        let file = file.into();
        if source.kind() == std::io::ErrorKind::StorageFull {
            return Self::DiskFull { file, need: 0 };
        }
        Self::Io { file, source }
    }

    pub(crate) fn config(file: &str, field: &str, reason: impl Into<String>) -> Self {
        Self::BadConfig { file: file.into(), field: field.into(), reason: reason.into() }
    }
}

/// The crate's result.
pub type Result<T, E = ModelError> = std::result::Result<T, E>;
