//! What can be wrong with a prompt or a tokenizer's files.

/// An error about a prompt (the caller's to mend) or about a tokenizer (the model's).
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PromptError {
    /// More bytes than the limit.
    #[error("the prompt has {bytes} bytes; at most {limit} are allowed")]
    TooLong {
        /// Length of the prompt in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Brackets in brackets in brackets.
    #[error("the prompt nests brackets deeper than {limit}; write literal brackets as \\( and \\[")]
    Nesting {
        /// The limit.
        limit: usize,
    },
    /// A weight that no encoder can use.
    #[error("the prompt reaches a weight of {weight}; weights must lie within ±{limit}")]
    Weight {
        /// The weight after all brackets around it.
        weight: f64,
        /// The largest magnitude.
        limit: f32,
    },
    /// Scheduling and alternation make more different texts than the limit.
    #[error("scheduling makes more than {limit} different texts over {steps} steps; use fewer [a|b] and [a:b:n]")]
    TooManyTexts {
        /// The limit.
        limit: usize,
        /// Number of steps.
        steps: u32,
    },
    /// The prompt does not fit one chunk and the request asked to refuse that.
    #[error(
        "the prompt has {tokens} tokens; one chunk holds {limit} (shorten it, or set prompt_overflow to \"chunk\" or \"truncate\")"
    )]
    Overflow {
        /// Tokens without start and end.
        tokens: usize,
        /// Tokens that fit.
        limit: usize,
    },
    /// More chunks than the limit.
    #[error("the prompt needs more than {limit} chunks of {length} tokens; shorten it")]
    TooManyChunks {
        /// The most chunks.
        limit: usize,
        /// Tokens in a chunk.
        length: usize,
    },
    /// `embedding:name` names nothing that is installed.
    #[error("the prompt asks for the embedding \"{name}\", which is not installed")]
    UnknownEmbedding {
        /// The name as written.
        name: String,
    },
    /// An embedding with more vectors than a chunk can hold.
    #[error("the embedding \"{name}\" has {vectors} vectors; a chunk holds {limit}")]
    EmbeddingTooLong {
        /// The name as written.
        name: String,
        /// Its vectors.
        vectors: u32,
        /// Tokens that fit.
        limit: usize,
    },
    /// An adapter tag that cannot be read.
    #[error("the tag {tag} is not <lora:name:weight>")]
    AdapterTag {
        /// The tag, shortened.
        tag: String,
    },
    /// More adapter tags than the limit.
    #[error("the prompt has more than {limit} adapter tags")]
    TooManyTags {
        /// The limit.
        limit: usize,
    },
    /// A chunk length without room for a token between start and end, or absurdly long.
    #[error("a text encoder's length of {length} is not usable (3 to 4096 are)")]
    ChunkLength {
        /// The length asked for.
        length: usize,
    },
    /// A tokenizer file that cannot be used.
    #[error("{file} is not usable: {reason}")]
    Tokenizer {
        /// The file's name (never a path).
        file: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The tokenizer failed on a text.
    #[error("the tokenizer could not handle the prompt: {reason}")]
    Tokenize {
        /// The tokenizer's words.
        reason: String,
    },
}

impl PromptError {
    /// The stable machine-readable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "prompt_too_long",
            Self::Nesting { .. } => "prompt_nesting",
            Self::Weight { .. } => "prompt_weight",
            Self::TooManyTexts { .. } => "prompt_too_many_texts",
            Self::Overflow { .. } => "prompt_overflow",
            Self::TooManyChunks { .. } => "prompt_too_many_chunks",
            Self::UnknownEmbedding { .. } => "unknown_embedding",
            Self::EmbeddingTooLong { .. } => "embedding_too_long",
            Self::AdapterTag { .. } => "adapter_tag",
            Self::TooManyTags { .. } => "too_many_adapters",
            Self::ChunkLength { .. } => "chunk_length",
            Self::Tokenizer { .. } => "tokenizer_invalid",
            Self::Tokenize { .. } => "tokenizer_failed",
        }
    }

    /// Whether the prompt is at fault (a client error) rather than the model's files.
    pub fn is_prompt(&self) -> bool {
        !matches!(self, Self::Tokenizer { .. } | Self::Tokenize { .. } | Self::ChunkLength { .. })
    }
}
