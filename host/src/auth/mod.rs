//! Who may use the worker: tokens, the rule for open addresses, the guard against other web pages, and rate limits.
//!
//! [`Gate`] puts all of it in front of the routes at once, so that no route can be forgotten.

mod bind;
mod gate;
mod origin;
mod rate;
mod tokens;

pub use bind::check_bind;
pub use gate::{Gate, GatePolicy, Identity};
pub use origin::{OriginPolicy, Origins, host_name};
pub use rate::{RateLimit, RateLimiter};
pub use tokens::{TokenSources, Tokens, first_of};

use http::StatusCode;

/// Why a request is refused before it reaches its route.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No token was sent.
    #[error(
        "a token is needed: send the header Authorization: Bearer <token>, or HTTP Basic with the token as the password"
    )]
    MissingToken,
    /// A token was sent, and it is none of ours, or the header is malformed.
    #[error("the token is not valid")]
    InvalidToken,
    /// The name in the `Host` header is not ours: perhaps a web page that rebound its own name to this address.
    #[error("the host name of this request is not allowed; start the worker with --allowed-host to allow it")]
    HostNotAllowed,
    /// A web page of another origin tried to change something.
    #[error("web pages of this origin may not use this worker; start the worker with --allowed-origin to allow it")]
    CrossOrigin,
    /// Too many requests of one client.
    #[error("too many requests; try again in {retry_after_s} s")]
    RateLimited {
        /// When the next request may pass, in seconds.
        retry_after_s: u64,
    },
}

impl Refusal {
    /// The HTTP status to answer with.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::MissingToken | Self::InvalidToken => StatusCode::UNAUTHORIZED,
            Self::HostNotAllowed | Self::CrossOrigin => StatusCode::FORBIDDEN,
            Self::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// A stable name for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::MissingToken => "missing_token",
            Self::InvalidToken => "invalid_token",
            Self::HostNotAllowed => "host_not_allowed",
            Self::CrossOrigin => "cross_origin",
            Self::RateLimited { .. } => "rate_limited",
        }
    }
}

/// Why the program cannot start, or cannot reload its tokens.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Everybody in the network could use the worker.
    #[error(
        "refusing to listen on {address} without a token: everybody who reaches it could use this worker. Give a token (--token-file, or the environment \
         variable SD_WORKER_TOKENS), listen on 127.0.0.1, or say --allow-unauthenticated if the network is trusted"
    )]
    OpenAddress {
        /// The address asked for.
        address: std::net::IpAddr,
    },
    /// The token file cannot be read.
    #[error("the token file {name:?} cannot be read: {reason}")]
    Unreadable {
        /// The file's name without its folder.
        name: String,
        /// The operating system's reason.
        reason: String,
    },
    /// A line of the token file, or an item of the environment variable, is wrong.
    #[error("{place}: {reason}")]
    BadToken {
        /// Where, such as `line 3 of "tokens"`. Never the token.
        place: String,
        /// What is wrong and what to do.
        reason: String,
    },
}

impl AuthError {
    /// A stable name for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::OpenAddress { .. } => "open_address",
            Self::Unreadable { .. } => "token_file_unreadable",
            Self::BadToken { .. } => "invalid_token_file",
        }
    }
}
