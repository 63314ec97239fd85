//! Whether a device's thread comes back from its calls: shared by the thread and by those who wait for it.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// The thread's sign of life.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// When the command at hand was begun; none while the thread waits for one.
    since: Mutex<Option<Instant>>,
    stuck: AtomicBool,
}

impl Pulse {
    /// Runs one command. Whoever gave the thread up while it ran takes it back at its end.
    pub(super) fn beat<T>(&self, command: impl FnOnce() -> T) -> T {
        self.set(Some(Instant::now()));
        let result = command();
        self.set(None);
        self.stuck.store(false, Ordering::Release);
        result
    }

    fn set(&self, since: Option<Instant>) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// Gives the thread up when the command at hand has taken longer than the limit, counted from `no_earlier` where it
    /// began before. The time in which a command waits for others is not its own.
    pub(super) fn outlived(&self, limit: Duration, no_earlier: Option<Instant>) -> bool {
        let since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let over = since.is_some_and(|since| no_earlier.map_or(since, |at| at.max(since)).elapsed() > limit);
        if over {
            // Under the lock, or a command that ends now would be answered by a device given up for good.
            self.stuck.store(true, Ordering::Release);
        }
        over
    }

    /// Whether a call outlived its limit and has not come back.
    pub(super) fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_command_at_hand_counts_and_coming_back_heals() {
        let (pulse, limit) = (Pulse::default(), Duration::from_millis(30));
        std::thread::sleep(limit * 2);
        assert!(!pulse.outlived(limit, None), "an idle thread is not stuck, however long somebody waits");
        pulse.beat(|| {
            assert!(!pulse.outlived(limit, None));
            std::thread::sleep(limit * 2);
            assert!(!pulse.outlived(limit, Some(Instant::now())), "told to stop just now");
            assert!(pulse.outlived(limit, None) && pulse.is_stuck());
        });
        assert!(!pulse.is_stuck() && !pulse.outlived(limit, None));
    }
}
