//! The HTTP server: our own accept loop, with a bound on everything a client can send, hold open or leave unread.
//!
//! `warp::serve` sets no header timeout, reads bodies without a limit, waits for ever for open streams when it stops, and never drops a client that
//! stops reading. So the filters are turned into a service with [`warp::service`] and run here:
//!
//! ```no_run
//! # use sd_worker::server::{self, Limits, Shutdown};
//! # use warp::Filter;
//! # async fn run() -> Result<(), server::ServeError> {
//! let limits = Limits::default();
//! let listener = server::bind("127.0.0.1:8600".parse().expect("an address"), &limits)?;
//! let routes = warp::any().map(|| "hello").boxed();
//! let shutdown = Shutdown::new();
//! server::serve(listener, warp::service(routes), limits, shutdown, Default::default()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! HTTP/1.1 only, on purpose: clear-text HTTP/2 is spoken by few clients, and leaving it out leaves out its stream-reset and header-compression attacks.
//! A reverse proxy adds TLS and HTTP/2 where they are wanted.

pub mod body;
mod connection;
mod guarded_io;
mod limits;
mod listen;
mod refuse;
mod run;
mod shutdown;
mod stats;
#[cfg(test)]
mod tests;

pub use connection::{PeerAddr, RequestBody, RequestBodyError};
pub use limits::Limits;
pub use listen::{bind, raise_open_file_limit};
pub use run::{Drained, ServeError, serve};
pub use shutdown::{Phase, Shutdown};
pub use stats::{Closed, Stats, StatsView};
