//! What can go wrong with the hub.

/// A failed talk with the hub, each kind with its remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// 401.
    #[error(
        "the hub does not know this caller (401) for `{what}`: set HF_TOKEN to a valid token, or the model does not exist"
    )]
    Unauthorized {
        /// Repository or file.
        what: String,
    },
    /// 403.
    #[error("the hub refuses `{what}` (403): accept the model's licence on its page, or use a token that may read it")]
    Forbidden {
        /// Repository or file.
        what: String,
    },
    /// 404.
    #[error("the hub has no `{what}` (404): check the name and the revision")]
    NotFound {
        /// Repository or file.
        what: String,
    },
    /// 429.
    #[error("the hub asks to slow down (429) for `{what}`: try again later, a token raises the limit")]
    RateLimited {
        /// Repository or file.
        what: String,
    },
    /// 5xx after all attempts.
    #[error("the hub failed ({status}) for `{what}` after {attempts} attempts: try again later, the download resumes")]
    Server {
        /// Repository or file.
        what: String,
        /// HTTP status.
        status: u16,
        /// How often it was tried.
        attempts: u32,
    },
    /// Another status.
    #[error("the hub answered {status} for `{what}`, which was not expected")]
    Status {
        /// Repository or file.
        what: String,
        /// HTTP status.
        status: u16,
    },
    /// `HF_HUB_OFFLINE` is set and the file is not in the cache.
    #[error(
        "`{what}` is not in the cache and HF_HUB_OFFLINE is set: unset it, or copy the model into the models directory"
    )]
    Offline {
        /// Repository or file.
        what: String,
    },
    /// No connection: name, address, TLS.
    #[error("no connection to the hub for `{what}`: {reason}; check the network, the proxy and HF_ENDPOINT")]
    Unreachable {
        /// Repository or file.
        what: String,
        /// What the transport said.
        reason: String,
    },
    /// The hub stopped sending.
    #[error("the hub sent nothing for {seconds} s for `{what}`: run the same command again, it resumes")]
    Timeout {
        /// Repository or file.
        what: String,
        /// The bound.
        seconds: u64,
    },
    /// The connection broke too often.
    #[error("the connection broke {attempts} times for `{what}` at byte {at}: run the same command again, it resumes")]
    Cut {
        /// The file.
        what: String,
        /// Bytes that are on disk.
        at: u64,
        /// How often it was tried.
        attempts: u32,
    },
    /// The file has another size than announced.
    #[error("`{what}` has {found} bytes, the hub announced {expected}: a mirror or proxy changed it")]
    WrongSize {
        /// The file.
        what: String,
        /// Announced bytes.
        expected: u64,
        /// Received bytes.
        found: u64,
    },
    /// The file has another content than announced.
    #[error("`{what}` does not have the checksum that the hub announced, so it was thrown away: fetch it again")]
    WrongHash {
        /// The file.
        what: String,
    },
    /// An answer that makes no sense.
    #[error("the hub's answer for `{what}` makes no sense: {reason}")]
    BadAnswer {
        /// Repository or file.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A redirect to a place that may not be followed.
    #[error("the hub redirects `{what}` {reason}")]
    BadRedirect {
        /// Repository or file.
        what: String,
        /// Where to and why not.
        reason: String,
    },
    /// The endpoint is not a URL.
    #[error("HF_ENDPOINT is not an http(s) URL")]
    BadEndpoint,
    /// Another process loads the same file.
    #[error("another process is fetching `{what}`: wait for it to end")]
    Busy {
        /// The file.
        what: String,
    },
    /// The caller asked to stop.
    #[error("stopped on request; what has been fetched stays, and the next run resumes")]
    Cancelled,
}

impl HubError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unauthorized { .. } => "hub_unauthorized",
            Self::Forbidden { .. } => "hub_forbidden",
            Self::NotFound { .. } => "hub_not_found",
            Self::RateLimited { .. } => "hub_rate_limited",
            Self::Server { .. } => "hub_server_error",
            Self::Status { .. } => "hub_unexpected_status",
            Self::Offline { .. } => "hub_offline",
            Self::Unreachable { .. } => "hub_unreachable",
            Self::Timeout { .. } => "hub_timeout",
            Self::Cut { .. } => "hub_connection_cut",
            Self::WrongSize { .. } => "hub_wrong_size",
            Self::WrongHash { .. } => "hub_wrong_hash",
            Self::BadAnswer { .. } => "hub_bad_answer",
            Self::BadRedirect { .. } => "hub_bad_redirect",
            Self::BadEndpoint => "hub_bad_endpoint",
            Self::Busy { .. } => "hub_busy",
            Self::Cancelled => "hub_cancelled",
        }
    }
}
