//! The bounded queue between requests and devices.
//!
//! Order: higher priority first; within a priority the owners take turns; within an owner the oldest. A device that
//! holds a model may take a job for this model ahead of older ones, for a bounded number of times and age, so that models
//! are not swapped back and forth and nobody starves.

use super::{Job, JobState};
use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How often in a row a job may be taken ahead of an older one because its model is loaded.
const MAX_SKIPS: u32 = 8;
/// A job that has waited this long is not passed over any more.
const MAX_SKIP_AGE: Duration = Duration::from_secs(30);

/// Why a job was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueError {
    /// All places are taken.
    Full,
    /// The worker is shutting down.
    Closed,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: Vec<Arc<Job>>,
    /// Jobs started per owner, for turns. Owners without waiting jobs are forgotten.
    served: HashMap<String, u64>,
    skips: u32,
    closed: bool,
}

/// The queue.
#[derive(Debug)]
pub struct Queue {
    capacity: usize,
    inner: Mutex<Inner>,
    arrived: Condvar,
}

impl Queue {
    /// A queue with room for `capacity` waiting jobs.
    pub fn new(capacity: usize) -> Self {
        Queue { capacity, inner: Mutex::default(), arrived: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of places.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The number of waiting jobs.
    pub fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Whether no job waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends a job and says how many stand before it. `announce` runs before any device can take the job, so that
    /// the job's first event is always `queued`.
    pub fn push(&self, job: &Arc<Job>, announce: impl FnOnce(usize)) -> Result<usize, QueueError> {
        let position = {
            let mut inner = self.lock();
            if inner.closed {
                return Err(QueueError::Closed);
            }
            inner.forget_ended();
            if inner.waiting.len() >= self.capacity {
                return Err(QueueError::Full);
            }
            let before = inner.waiting.iter().filter(|j| j.spec.priority >= job.spec.priority).count();
            announce(before);
            inner.waiting.push(job.clone());
            before
        };
        self.arrived.notify_one();
        Ok(position)
    }

    /// Waits for a job. `loaded` says whether this device holds a model. `None` after `wait`, or when the queue is closed.
    pub fn pop(&self, loaded: &dyn Fn(&str) -> bool, wait: Duration) -> Option<Arc<Job>> {
        let until = Instant::now() + wait;
        let mut inner = self.lock();
        loop {
            inner.forget_ended();
            if inner.closed {
                return None;
            }
            if let Some(job) = inner.choose(loaded) {
                return Some(job);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            inner = self.arrived.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// How many jobs stand before this one; `None` when it does not wait.
    pub fn position(&self, job: &Job) -> Option<usize> {
        let inner = self.lock();
        let at = inner.waiting.iter().position(|j| j.id == job.id)?;
        Some(
            inner
                .waiting
                .iter()
                .enumerate()
                .filter(|(i, j)| {
                    j.spec.priority > job.spec.priority || (j.spec.priority == job.spec.priority && *i < at)
                })
                .count(),
        )
    }

    /// Takes no more jobs and hands out those that wait.
    pub fn close(&self) -> Vec<Arc<Job>> {
        let left = {
            let mut inner = self.lock();
            inner.closed = true;
            std::mem::take(&mut inner.waiting)
        };
        self.arrived.notify_all();
        left
    }

    /// Hands out all waiting jobs.
    pub fn take_all(&self) -> Vec<Arc<Job>> {
        std::mem::take(&mut self.lock().waiting)
    }

    /// Frees the places of jobs that ended while they waited.
    pub fn sweep(&self) {
        self.lock().forget_ended();
    }

    /// The waiting jobs in the order they came.
    pub fn waiting(&self) -> Vec<Arc<Job>> {
        self.lock().waiting.clone()
    }
}

impl Inner {
    fn forget_ended(&mut self) {
        self.waiting.retain(|j| j.state() == JobState::Queued);
    }

    fn choose(&mut self, loaded: &dyn Fn(&str) -> bool) -> Option<Arc<Job>> {
        let top = self.waiting.iter().map(|j| j.spec.priority).max()?;
        let turn = |j: &Arc<Job>| self.served.get(&j.owner).copied().unwrap_or(0);
        let candidates = || self.waiting.iter().enumerate().filter(|(_, j)| j.spec.priority == top);
        let fair = candidates().min_by_key(|(i, j)| (turn(j), *i)).map(|(i, _)| i)?;
        let oldest_waits = self.waiting[fair].created_at.elapsed();
        let at_hand = || candidates().filter(|(_, j)| loaded(&j.spec.model)).min_by_key(|(i, j)| (turn(j), *i));
        let at_hand = if loaded(&self.waiting[fair].spec.model) { None } else { at_hand().map(|(i, _)| i) };
        let chosen = match at_hand {
            Some(other) if self.skips < MAX_SKIPS && oldest_waits < MAX_SKIP_AGE => {
                self.skips += 1;
                other
            }
            _ => {
                self.skips = 0;
                fair
            }
        };
        let job = self.waiting.remove(chosen);
        self.count_turn(&job.owner);
        Some(job)
    }

    /// Owners without waiting jobs lose their count; a newcomer starts level with the one served least.
    fn count_turn(&mut self, owner: &str) {
        let waiting: Vec<&str> = self.waiting.iter().map(|j| j.owner.as_str()).collect();
        self.served.retain(|o, _| waiting.contains(&o.as_str()) || o == owner);
        *self.served.entry(owner.to_owned()).or_default() += 1;
        let least = self.served.values().copied().min().unwrap_or(0);
        for owner in self.waiting.iter().map(|j| j.owner.clone()).collect::<Vec<_>>() {
            self.served.entry(owner).or_insert(least.saturating_sub(1));
        }
    }
}
