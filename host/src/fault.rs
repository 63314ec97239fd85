//! What can go wrong with a request or a job: a stable code, a sentence for people, and the field it speaks of.
//!
//! Every part of the host turns its own errors into a [`Fault`] at its border. The HTTP status of a code stands in one
//! table, [`FaultCode::status`].

use backend_api::{AbiError, Code};

macro_rules! codes {
    ($($(#[$meta:meta])* $variant:ident = $text:literal, $status:literal, $retry:literal;)*) => {
        /// Stable machine codes. Clients may match on their text form.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum FaultCode {
            $($(#[$meta])* $variant,)*
        }
        impl FaultCode {
            /// All codes, for the documentation and its test.
            pub const ALL: &'static [FaultCode] = &[$(FaultCode::$variant,)*];

            /// The text form.
            pub fn as_str(self) -> &'static str {
                match self { $(FaultCode::$variant => $text,)* }
            }
            /// The code of a text form.
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|code| code.as_str() == text)
            }
            /// The HTTP status that answers a request which failed this way.
            pub fn status(self) -> u16 {
                match self { $(FaultCode::$variant => $status,)* }
            }
            /// Whether the same request may succeed later without a change.
            pub fn retriable(self) -> bool {
                match self { $(FaultCode::$variant => $retry,)* }
            }
        }
    };
}

codes! {
    /// The body is not JSON, or not of the right shape.
    InvalidJson = "invalid_json", 400, false;
    /// A field is missing, of the wrong type or out of range.
    InvalidRequest = "invalid_request", 422, false;
    /// A picture cannot be used.
    InvalidImage = "invalid_image", 422, false;
    /// The prompt is longer than allowed.
    PromptTooLong = "prompt_too_long", 422, false;
    /// The model's name is not well formed.
    InvalidModelName = "invalid_model_name", 400, false;
    /// No model of this name is here.
    ModelNotFound = "model_not_found", 404, false;
    /// The model is here but cannot be used: a file is missing, broken or of an unknown kind.
    ModelInvalid = "model_invalid", 422, false;
    /// The picture does not fit into the device's memory.
    TooLargeForDevice = "too_large_for_device", 422, false;
    /// A model could not be fetched from the hub; the message says why.
    HubError = "hub_error", 502, true;
    /// What the request asks for is not offered by this model or backend.
    Unsupported = "unsupported", 422, false;
    /// The tokens are missing or wrong.
    Unauthorized = "unauthorized", 401, false;
    /// The request's host or origin is not allowed.
    Forbidden = "forbidden", 403, false;
    /// There is no such route, job or picture.
    NotFound = "not_found", 404, false;
    /// The route does not take this method.
    MethodNotAllowed = "method_not_allowed", 405, false;
    /// The job's state forbids it.
    Conflict = "conflict", 409, false;
    /// The job or picture was here and its time is over.
    Gone = "gone", 410, false;
    /// The `Idempotency-Key` was sent before with another request.
    IdempotencyMismatch = "idempotency_mismatch", 422, false;
    /// The body is larger than the limit.
    BodyTooLarge = "body_too_large", 413, false;
    /// The content type is not the one that is needed.
    UnsupportedMediaType = "unsupported_media_type", 415, false;
    /// The body came too slowly.
    RequestTimeout = "request_timeout", 408, true;
    /// The queue has no place.
    QueueFull = "queue_full", 429, true;
    /// This key sends too many requests.
    RateLimited = "rate_limited", 429, true;
    /// The worker is shutting down.
    Draining = "draining", 503, true;
    /// The worker has no usable backend or model right now.
    NotReady = "not_ready", 503, true;
    /// The state directory cannot be written or read right now.
    StorageUnavailable = "storage_unavailable", 503, true;
    /// The job was stopped on request.
    Cancelled = "cancelled", 409, false;
    /// The job ran longer than its limit.
    Timeout = "timeout", 504, true;
    /// The worker stopped while the job ran.
    Interrupted = "interrupted", 503, true;
    /// The device ran out of memory.
    OutOfMemory = "out_of_memory", 503, true;
    /// The backend reported a fault.
    BackendError = "backend_error", 500, true;
    /// The backend panicked; the panic was caught.
    BackendPanic = "backend_panic", 500, true;
    /// The backend's process died or lost its device, twice in a row for a job.
    BackendDied = "backend_died", 500, true;
    /// The backend does not answer.
    BackendHung = "backend_hung", 500, true;
    /// The result holds values that are no numbers.
    InvalidOutput = "invalid_output", 500, false;
    /// A fault of the worker itself.
    Internal = "internal", 500, false;
}

/// A failed request or job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// The stable code.
    pub code: FaultCode,
    /// One sentence: what, which limit, what to do. It names no path and quotes no prompt.
    pub message: String,
    /// The request's field, if one is to blame.
    pub field: Option<String>,
}

impl Fault {
    /// A fault without a field.
    pub fn new(code: FaultCode, message: impl Into<String>) -> Self {
        Fault { code, message: message.into(), field: None }
    }

    /// [`FaultCode::InvalidRequest`] about a field.
    pub fn field(field: &str, message: impl Into<String>) -> Self {
        Fault { code: FaultCode::InvalidRequest, message: message.into(), field: Some(field.to_owned()) }
    }

    /// The same fault, about a field.
    #[must_use]
    pub fn about(mut self, field: &str) -> Self {
        self.field = Some(field.to_owned());
        self
    }

    /// [`FaultCode::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Fault::new(FaultCode::Internal, message)
    }

    /// [`FaultCode::Cancelled`].
    pub fn cancelled() -> Self {
        Fault::new(FaultCode::Cancelled, "the job was cancelled")
    }
}

impl From<AbiError> for Fault {
    fn from(error: AbiError) -> Self {
        if !error.detail.is_empty() {
            tracing::debug!(code = error.code.0, detail = %error.detail, "backend error detail");
        }
        let code = match error.code {
            Code::CANCELLED => FaultCode::Cancelled,
            Code::OOM => FaultCode::OutOfMemory,
            Code::UNSUPPORTED => FaultCode::Unsupported,
            Code::NOT_FOUND | Code::DATA_LOSS => FaultCode::ModelInvalid,
            Code::PANICKED => FaultCode::BackendPanic,
            Code::WORKER_DIED | Code::DEVICE_LOST => FaultCode::BackendDied,
            Code::TIMEOUT => FaultCode::BackendHung,
            sd_plugins::NOT_FINITE => FaultCode::InvalidOutput,
            _ => FaultCode::BackendError,
        };
        Fault::new(code, error.message.into_string())
    }
}
