//! The accept loop and the drain.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower_service::Service;

use super::connection::{self, RequestBody, Shared};
use super::limits::Limits;
use super::listen::accept;
use super::refuse;
use super::shutdown::{Phase, Shutdown};
use super::stats::{Closed, Stats};

/// Clients told at once that there is no room; more than that are closed without a word.
const MAX_REFUSALS: usize = 64;

/// Why the server could not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listening socket failed.
    #[error("cannot listen: {0}")]
    Listen(#[from] io::Error),
}

impl ServeError {
    /// A stable name for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Listen(_) => "cannot_listen",
        }
    }
}

/// How the server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that had to be cut; 0 after a clean drain.
    pub cut: usize,
    /// From the start of the drain to the end.
    pub took: Duration,
}

/// Accepts and serves connections until `shutdown` says that it is over.
///
/// While draining, connections are still accepted (each for one request), so that probes and streams get an answer. The drain ends when somebody calls
/// [`Shutdown::close`], or at its deadline; then open connections have [`Limits::close_grace`] to end by themselves and are cut. [`Phase::Stopped`] cuts
/// them at once.
///
/// `stats` may be read by others meanwhile.
///
/// # Errors
/// When the listener has no local address any more. Failures to accept are waited out and counted, never fatal.
pub async fn serve<S, B>(
    listener: TcpListener,
    service: S,
    limits: Limits,
    shutdown: Shutdown,
    stats: Arc<Stats>,
) -> Result<Drained, ServeError>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: http_body::Body + From<String> + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let address = listener.local_addr()?;
    tracing::info!(%address, "listening");
    let permits = Arc::new(Semaphore::new(limits.max_connections));
    let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
    let shared = Arc::new(Shared { limits, stats: stats.clone(), shutdown: shutdown.clone() });
    let mut connections = JoinSet::new();

    let end = drain_end(&shutdown);
    tokio::pin!(end);
    let began = loop {
        tokio::select! {
            began = &mut end => break began,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            (stream, peer) = accept(&listener, &stats) => {
                stats.accept();
                if let Ok(permit) = permits.clone().try_acquire_owned() {
                    let (service, shared, open) = (service.clone(), shared.clone(), stats.opened());
                    connections.spawn(async move {
                        connection::serve(stream, peer, service, shared).await;
                        drop((permit, open));
                    });
                } else {
                    stats.count(Closed::TooMany);
                    if let Ok(slot) = refusals.clone().try_acquire_owned() {
                        tokio::spawn(async move {
                            refuse::too_many_connections(stream).await;
                            drop(slot);
                        });
                    }
                }
            }
        }
    };
    drop(listener);

    let grace = tokio::time::sleep(shared.limits.close_grace);
    tokio::pin!(grace);
    while !connections.is_empty() {
        tokio::select! {
            _ = connections.join_next() => {}
            () = &mut grace => break,
            () = shutdown.stopped() => break,
        }
    }
    let cut = connections.len();
    for _ in 0..cut {
        stats.count(Closed::Drain);
    }
    connections.shutdown().await;
    let drained = Drained { cut, took: began.elapsed() };
    tracing::info!(cut, took_ms = u64::try_from(drained.took.as_millis()).unwrap_or(u64::MAX), "server closed");
    Ok(drained)
}

/// Waits for the end of the drain, makes sure that everybody hears of it, and returns when the drain began.
async fn drain_end(shutdown: &Shutdown) -> Instant {
    shutdown.draining().await;
    let began = Instant::now();
    if let Phase::Draining { deadline } = shutdown.phase() {
        // Ends early when the phase moves on.
        let _ = tokio::time::timeout_at(deadline, shutdown.closing()).await;
        shutdown.close();
    }
    began
}
