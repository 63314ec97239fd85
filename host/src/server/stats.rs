//! What the server counts. Plain atomics: the metrics endpoint reads them, the accept loop never waits for it.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// Why the server, not the client, ended a connection or refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Closed {
    /// The request head did not arrive in time, or the connection sat idle between requests.
    HeaderTimeout = 0,
    /// The request body stopped arriving.
    BodyTimeout,
    /// The client stopped reading.
    StalledReader,
    /// The kernel gave up on the peer (`TCP_USER_TIMEOUT`, keep-alive).
    PeerTimeout,
    /// Cut at the end of a drain.
    Drain,
    /// Too many connections.
    TooMany,
    /// The request head was not HTTP, or too large.
    BadRequest,
    /// A handler panicked.
    Panic,
}

impl Closed {
    /// Every reason, in the order of [`StatsView::closed`].
    pub const ALL: [Self; 8] = [
        Self::HeaderTimeout,
        Self::BodyTimeout,
        Self::StalledReader,
        Self::PeerTimeout,
        Self::Drain,
        Self::TooMany,
        Self::BadRequest,
        Self::Panic,
    ];

    /// The label of the metric.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::HeaderTimeout => "header_timeout",
            Self::BodyTimeout => "body_timeout",
            Self::StalledReader => "stalled_reader",
            Self::PeerTimeout => "peer_timeout",
            Self::Drain => "drain",
            Self::TooMany => "too_many",
            Self::BadRequest => "bad_request",
            Self::Panic => "panic",
        }
    }
}

/// Counters of one server.
#[derive(Debug, Default)]
pub struct Stats {
    open: AtomicI64,
    accepted: AtomicU64,
    accept_errors: AtomicU64,
    closed: [AtomicU64; Closed::ALL.len()],
}

/// A copy of [`Stats`] at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatsView {
    /// Connections open now.
    pub open: i64,
    /// Connections taken since the start, the refused ones included.
    pub accepted: u64,
    /// Failures of `accept` itself, such as too many open files.
    pub accept_errors: u64,
    /// One count for each of [`Closed::ALL`].
    pub closed: [u64; Closed::ALL.len()],
}

impl Stats {
    /// The counts now.
    #[must_use]
    pub fn view(&self) -> StatsView {
        StatsView {
            open: self.open.load(Relaxed),
            accepted: self.accepted.load(Relaxed),
            accept_errors: self.accept_errors.load(Relaxed),
            closed: std::array::from_fn(|i| self.closed[i].load(Relaxed)),
        }
    }

    /// How often `reason` has happened.
    #[must_use]
    pub fn closed(&self, reason: Closed) -> u64 {
        self.closed[reason as usize].load(Relaxed)
    }

    pub(super) fn count(&self, reason: Closed) {
        self.closed[reason as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn accept(&self) {
        self.accepted.fetch_add(1, Relaxed);
    }

    pub(super) fn accept_error(&self) {
        self.accept_errors.fetch_add(1, Relaxed);
    }

    pub(super) fn opened(self: &std::sync::Arc<Self>) -> OpenGuard {
        self.open.fetch_add(1, Relaxed);
        OpenGuard(self.clone())
    }
}

/// Keeps a connection in the count of open ones until it is dropped, also when its task is aborted or panics.
#[derive(Debug)]
pub(super) struct OpenGuard(std::sync::Arc<Stats>);

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}
