//! Every bound of the server in one place, with its default.

use std::time::Duration;

/// The bounds of one server. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at once. One more is answered 503 and closed.
    pub max_connections: usize,
    /// Request line and headers together. More is answered 431.
    pub max_header_bytes: usize,
    /// Header fields of a request. More is answered 431.
    pub max_headers: usize,
    /// The request target (path and query). More is answered 414.
    pub max_uri_bytes: usize,
    /// How long a client may take to send a whole request head, and how long a connection may sit idle between two requests.
    pub header_timeout: Duration,
    /// The longest pause between two pieces of a request body.
    pub body_idle_timeout: Duration,
    /// How long a client may leave our bytes unread before the connection is cut. Seen by this program's own timer.
    pub write_stall_timeout: Duration,
    /// `TCP_USER_TIMEOUT` of the listening socket (Linux; accepted sockets inherit it): how long sent bytes may stay unacknowledged, or the peer's window
    /// shut, before the kernel drops the connection. It also frees connections whose peer has vanished without a word.
    pub tcp_user_timeout: Duration,
    /// After an early answer (say 413), how long and how much of the unread rest of the request is thrown away, so that the client can read the answer
    /// before it meets a reset.
    pub linger_timeout: Duration,
    /// See [`Limits::linger_timeout`].
    pub linger_bytes: usize,
    /// How long open connections may take to end by themselves once the work of a drain is done or its deadline has passed.
    pub close_grace: Duration,
    /// The kernel's queue of connections not yet accepted.
    pub backlog: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 12_000,
            max_header_bytes: 32 * 1024,
            max_headers: 100,
            max_uri_bytes: 8 * 1024,
            header_timeout: Duration::from_secs(10),
            body_idle_timeout: Duration::from_secs(10),
            write_stall_timeout: Duration::from_secs(20),
            tcp_user_timeout: Duration::from_secs(15),
            linger_timeout: Duration::from_secs(2),
            linger_bytes: 64 * 1024 * 1024,
            close_grace: Duration::from_secs(1),
            backlog: 1024,
        }
    }
}
