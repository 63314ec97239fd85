//! The heartbeat thread.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::client::{Answer, Client};
use super::{HiveConfig, HiveError, Status, Timing, WorkerStatus};
use crate::outbound::check_url;

/// How a heartbeat went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beat {
    /// The queen took it.
    Taken,
    /// The queen answers, and knows no heartbeats. Asked again at the usual pace: she may be upgraded.
    NoRoute,
    /// It did not get through.
    Failed(String),
}

/// The running heartbeat. Dropping it ends the thread without a word; [`Heart::stop`] says farewell.
#[derive(Debug)]
pub struct Heart {
    // None once stopped.
    sender: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Heart {
    /// Sends a heartbeat now, because something has changed. Never blocks.
    pub fn poke(&self) {
        if let Some(sender) = &self.sender {
            // Full: one is on its way already. Disconnected: the thread has ended.
            let _ = sender.try_send(());
        }
    }

    /// Sends a last heartbeat, `stopped`, if the queen was reachable, and ends. Blocks for at most two request timeouts: call it from a blocking context.
    pub fn stop(mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            // It ends by itself; if it panicked, the panic is in the log.
            let _ = thread.join();
        }
    }
}

/// Starts the heartbeat: the first one at once, then every [`Timing::interval`]. `status` is asked before each; `seen` hears how each went.
/// Returns `None` when there is nobody to tell.
///
/// # Errors
/// [`HiveError`]: an address is malformed, or no thread can be started.
pub fn start(
    mut config: HiveConfig,
    status: impl Fn() -> WorkerStatus + Send + 'static,
    seen: impl Fn(&Beat) + Send + 'static,
) -> Result<Option<Heart>, HiveError> {
    config.queen_url = config.queen_url.as_deref().map(check_url).transpose()?;
    config.callback_url = config.callback_url.as_deref().map(check_url).transpose()?;
    if config.queen_url.is_none() && config.callback_url.is_none() {
        return Ok(None);
    }
    let (sender, receiver) = sync_channel(1);
    let client = Client::new(config.timing.timeout);
    let mut body = Body {
        callback_due: config.callback_url.is_some(),
        config,
        client,
        status: Box::new(status),
        seen: Box::new(seen),
        last: None,
        failures: 0,
    };
    let thread = std::thread::Builder::new().name("heartbeat".into()).spawn(move || body.live(&receiver))?;
    Ok(Some(Heart { sender: Some(sender), thread: Some(thread) }))
}

struct Body {
    config: HiveConfig,
    client: Client,
    status: Box<dyn Fn() -> WorkerStatus + Send>,
    seen: Box<dyn Fn(&Beat) + Send>,
    last: Option<Beat>,
    failures: u32,
    callback_due: bool,
}

impl Body {
    fn live(&mut self, receiver: &Receiver<()>) {
        loop {
            let status = (self.status)();
            let callback_failed = self.callback_due && status.status.is_available() && !self.call_back(&status);
            self.beat(&status);
            if matches!(self.last, Some(Beat::Failed(_))) || callback_failed {
                self.failures = self.failures.saturating_add(1);
            } else {
                self.failures = 0;
            }
            match receiver.recv_timeout(pause(&self.config.timing, self.failures)) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if self.last == Some(Beat::Taken) {
            self.beat(&WorkerStatus { status: Status::Stopped, ..(self.status)() });
        }
    }

    fn beat(&mut self, status: &WorkerStatus) {
        let Some(queen) = &self.config.queen_url else { return };
        let config = &self.config;
        let timestamp = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        let body = json!({
            "worker": {
                "id": config.worker_id,
                "model_id": status.model_id,
                "device": status.device,
                "port": config.port,
                "status": status.status.word(),
                "implementation": config.implementation,
                "version": config.version,
            },
            "timestamp": timestamp,
        });
        let beat = match self.client.post(&format!("{queen}/v1/worker-heartbeat"), &body.to_string()) {
            Answer::Taken => Beat::Taken,
            Answer::NoRoute => Beat::NoRoute,
            Answer::Failed(reason) => Beat::Failed(reason),
        };
        self.log(&beat);
        (self.seen)(&beat);
        self.last = Some(beat);
    }

    /// One line for each change, not for each heartbeat.
    fn log(&self, beat: &Beat) {
        use std::mem::discriminant;
        if self.last.as_ref().map(discriminant) == Some(discriminant(beat)) {
            return;
        }
        match beat {
            Beat::Taken => tracing::info!("the queen takes our heartbeats"),
            Beat::NoRoute => tracing::warn!("the queen knows no heartbeats (404); jobs are not affected"),
            Beat::Failed(reason) => {
                tracing::warn!(reason, "the queen does not take our heartbeats; trying on, jobs are not affected");
            }
        }
    }

    /// Whether the matter is settled: the callback was taken, or nobody is there to take it ever.
    fn call_back(&mut self, status: &WorkerStatus) -> bool {
        let Some(callback) = &self.config.callback_url else { return true };
        let body = json!({
            "worker_id": self.config.worker_id,
            "url": self.config.own_url,
            "model_ref": status.model_id,
            "backend": self.config.backend,
            "device": status.device,
        });
        let answer = self.client.post(&format!("{callback}/v1/workers/ready"), &body.to_string());
        match &answer {
            Answer::Taken => tracing::info!("the hive knows that we are ready"),
            Answer::NoRoute => tracing::warn!("the hive has no ready callback (404); jobs are not affected"),
            Answer::Failed(reason) if self.failures == 0 => {
                tracing::warn!(reason, "the hive does not take our ready callback; trying on");
            }
            Answer::Failed(_) => {}
        }
        self.callback_due = matches!(answer, Answer::Failed(_));
        !self.callback_due
    }
}

/// The wait before the next heartbeat: the interval, or after failures 1, 2, 4, … times the first wait, never more than the interval; between half and all
/// of that at random, so that a fleet does not knock in step when its queen returns.
fn pause(timing: &Timing, failures: u32) -> Duration {
    let Some(doublings) = failures.checked_sub(1) else { return timing.interval };
    let wait = timing.retry.saturating_mul(1 << doublings.min(16)).min(timing.interval);
    let random = f64::from(uuid::Uuid::new_v4().as_fields().0) / f64::from(u32::MAX);
    wait.mul_f64(0.5 + 0.5 * random)
}

#[cfg(test)]
mod pause_tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_interval() {
        let timing = Timing::default();
        assert_eq!(pause(&timing, 0), Duration::from_secs(30));
        for (failures, most) in [(1, 1), (2, 2), (3, 4), (5, 16), (6, 30), (7, 30), (u32::MAX, 30)] {
            let waits: Vec<f64> = (0..100).map(|_| pause(&timing, failures).as_secs_f64() / f64::from(most)).collect();
            assert!(waits.iter().all(|w| (0.5..=1.0).contains(w)), "{failures}: {waits:?}");
            assert!(waits.iter().any(|w| *w < 0.7) && waits.iter().any(|w| *w > 0.8), "no jitter");
        }
    }
}
