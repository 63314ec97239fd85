//! Ctrl-C while drawing: the first cancels the job, the second leaves at once.

use super::EX_INTERRUPTED;
use crate::fault::Fault;

/// SIGINT and SIGTERM; elsewhere Ctrl-C.
pub(super) struct Signals {
    #[cfg(unix)]
    int: tokio::signal::unix::Signal,
    #[cfg(unix)]
    term: tokio::signal::unix::Signal,
}

impl Signals {
    /// From here on signals no longer end the process by themselves. Needs a runtime.
    pub(super) fn new() -> Result<Self, Fault> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let caught = |kind| signal(kind).map_err(|e| Fault::internal(format!("signals cannot be handled: {e}")));
            Ok(Signals { int: caught(SignalKind::interrupt())?, term: caught(SignalKind::terminate())? })
        }
        #[cfg(not(unix))]
        Ok(Signals {})
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Ends the process as interrupted.
pub(super) fn leave() -> ! {
    std::process::exit(i32::from(EX_INTERRUPTED))
}
