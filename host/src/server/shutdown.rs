//! How the program ends: running → draining → closing → stopped, never backwards.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Where the program is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Normal work.
    Running,
    /// No new jobs; running ones may finish until the deadline. Connections are still accepted, so that `/ready` can say 503 and streams can be followed.
    Draining {
        /// When running work is cancelled.
        deadline: Instant,
    },
    /// The work is over: streams send their last line and end, nothing new is accepted.
    Closing,
    /// Everything is cut at once.
    Stopped,
}

impl Phase {
    fn rank(self) -> u8 {
        match self {
            Self::Running => 0,
            Self::Draining { .. } => 1,
            Self::Closing => 2,
            Self::Stopped => 3,
        }
    }
}

/// A handle to the program's end, cloned into every part that must notice it.
#[derive(Clone, Debug)]
pub struct Shutdown {
    phase: Arc<watch::Sender<Phase>>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// A handle in [`Phase::Running`].
    #[must_use]
    pub fn new() -> Self {
        Self { phase: Arc::new(watch::Sender::new(Phase::Running)) }
    }

    /// The phase now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Whether the program is on its way out, in any phase.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.phase().rank() >= 1
    }

    /// Starts the drain: running work may go on for `patience`. Does nothing if the drain has begun already.
    pub fn drain(&self, patience: Duration) {
        self.advance(Phase::Draining { deadline: Instant::now() + patience });
    }

    /// Says that all work is done, so that open streams end and the server closes.
    pub fn close(&self) {
        self.advance(Phase::Closing);
    }

    /// Ends everything at once.
    pub fn stop_now(&self) {
        self.advance(Phase::Stopped);
    }

    /// Waits until the drain has begun.
    pub async fn draining(&self) {
        self.reached(1).await;
    }

    /// Waits until streams should send their last line and end.
    pub async fn closing(&self) {
        self.reached(2).await;
    }

    /// Waits until everything is to be cut.
    pub async fn stopped(&self) {
        self.reached(3).await;
    }

    async fn reached(&self, rank: u8) {
        // An error means that every sender is gone, which cannot be while `self` holds one.
        let _ = self.phase.subscribe().wait_for(|phase| phase.rank() >= rank).await;
    }

    fn advance(&self, next: Phase) {
        self.phase.send_if_modified(|phase| {
            let forward = next.rank() > phase.rank();
            if forward {
                *phase = next;
            }
            forward
        });
    }

    /// Listens for the operator's signals until the program ends: the first SIGTERM or SIGINT starts a drain of `patience`, the second stops at once,
    /// SIGHUP calls `reload`. Elsewhere than on Unix, Ctrl-C stands for SIGINT.
    ///
    /// # Errors
    /// The operating system's, when a handler cannot be installed.
    pub fn on_signals(&self, patience: Duration, reload: impl Fn() + Send + 'static) -> std::io::Result<()> {
        let shutdown = self.clone();
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let (mut term, mut int, mut hup) =
                (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?);
            tokio::spawn(async move {
                loop {
                    let name = tokio::select! {
                        _ = term.recv() => "SIGTERM",
                        _ = int.recv() => "SIGINT",
                        _ = hup.recv() => {
                            tracing::info!("SIGHUP: reloading");
                            reload();
                            continue;
                        }
                    };
                    shutdown.on_stop_signal(name, patience);
                }
            });
        }
        #[cfg(not(unix))]
        {
            let _ = reload;
            tokio::spawn(async move {
                while tokio::signal::ctrl_c().await.is_ok() {
                    shutdown.on_stop_signal("Ctrl-C", patience);
                }
            });
        }
        Ok(())
    }

    /// What a stop signal does: the first drains, the second stops at once.
    fn on_stop_signal(&self, name: &str, patience: Duration) {
        if self.is_draining() {
            tracing::warn!(signal = name, "second signal: stopping now");
            self.stop_now();
        } else {
            tracing::info!(
                signal = name,
                patience_s = patience.as_secs(),
                "draining: no new jobs, running ones may finish"
            );
            self.drain(patience);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_signal_drains_and_the_second_stops() {
        let shutdown = Shutdown::new();
        assert_eq!(shutdown.phase(), Phase::Running);
        let start = Instant::now();
        shutdown.on_stop_signal("SIGTERM", Duration::from_secs(7));
        assert_eq!(shutdown.phase(), Phase::Draining { deadline: start + Duration::from_secs(7) });
        shutdown.drain(Duration::from_secs(99));
        assert_eq!(
            shutdown.phase(),
            Phase::Draining { deadline: start + Duration::from_secs(7) },
            "a deadline never moves"
        );
        shutdown.on_stop_signal("SIGTERM", Duration::from_secs(7));
        assert_eq!(shutdown.phase(), Phase::Stopped);
        shutdown.close();
        assert_eq!(shutdown.phase(), Phase::Stopped, "never backwards");
    }

    #[tokio::test]
    async fn waiters_see_later_phases_too() {
        let shutdown = Shutdown::new();
        let waiters = {
            let s = shutdown.clone();
            tokio::spawn(async move { tokio::join!(s.draining(), s.closing(), s.stopped()) })
        };
        shutdown.stop_now();
        waiters.await.unwrap();
        shutdown.draining().await;
    }
}
