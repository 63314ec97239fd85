//! Says a thing now and then instead of every time.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Lets one event pass in each period and counts the rest, so that an error which repeats a thousand times a second fills no disk.
#[derive(Debug)]
pub struct Occasionally {
    period: Duration,
    state: Mutex<(Option<Instant>, u64)>,
}

impl Occasionally {
    /// At most one event in each `period`.
    #[must_use]
    pub const fn new(period: Duration) -> Self {
        Self { period, state: Mutex::new((None, 0)) }
    }

    /// `Some(number of events held back since the last one)` when this event should be shown.
    pub fn pass(&self) -> Option<u64> {
        self.pass_at(Instant::now())
    }

    fn pass_at(&self, now: Instant) -> Option<u64> {
        // The two fields are valid whatever a panic interrupted.
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (last, held) = &mut *state;
        if last.is_some_and(|last| now.saturating_duration_since(last) < self.period) {
            *held += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_a_period_passes() {
        let gate = Occasionally::new(Duration::from_secs(10));
        let start = Instant::now();
        let at = |s| gate.pass_at(start + Duration::from_secs(s));
        assert_eq!([at(0), at(1), at(9), at(10), at(11), at(30)], [Some(0), None, None, Some(2), None, Some(1)]);
    }
}
