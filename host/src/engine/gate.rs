//! Who uses a device's model: many lanes at a time, or one that swaps it.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

#[derive(Debug, Default)]
struct State {
    users: usize,
    alone: bool,
    /// A swap is waiting: no further user comes in before it.
    wanted: usize,
}

/// The gate.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

/// A lane uses the model.
#[derive(Debug)]
pub(super) struct Use<'g>(&'g Gate);

/// Nobody uses the model.
#[derive(Debug)]
pub(super) struct Alone<'g>(&'g Gate);

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Comes in as a user. Waits for a swap in progress.
    pub(super) fn enter(&self) -> Use<'_> {
        let mut state = self.lock();
        while state.alone || state.wanted > 0 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.users += 1;
        Use(self)
    }

    /// Number of users.
    pub(super) fn users(&self) -> usize {
        self.lock().users
    }

    /// Comes in alone if nobody is there.
    pub(super) fn try_alone(&self) -> Option<Alone<'_>> {
        self.alone(Duration::ZERO)
    }

    /// Waits until nobody is there and comes in alone.
    pub(super) fn alone(&self, wait: Duration) -> Option<Alone<'_>> {
        let until = Instant::now() + wait;
        let mut state = self.lock();
        state.wanted += 1;
        while state.alone || state.users > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.wanted -= 1;
                drop(state);
                self.changed.notify_all();
                return None;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.wanted -= 1;
        state.alone = true;
        Some(Alone(self))
    }
}

impl Drop for Use<'_> {
    fn drop(&mut self) {
        self.0.lock().users -= 1;
        self.0.changed.notify_all();
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.lock().alone = false;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_share_and_a_swap_is_alone() {
        let gate = Gate::default();
        let (a, b) = (gate.enter(), gate.enter());
        assert!(gate.try_alone().is_none());
        drop((a, b));
        let alone = gate.try_alone().unwrap();
        assert!(gate.try_alone().is_none());
        drop(alone);
        assert_eq!(gate.users(), 0);
        let _user = gate.enter();
    }
}
