//! The bounded queue between requests and devices.
//!
//! Higher priority first; within a priority the owners take turns; within an owner the oldest. A device that holds a model
//! may take a job for this model ahead of older ones, for a bounded number of times and age, so that models are not swapped
//! back and forth and nobody starves.

use super::{
    AtHand, Job, JobState, Line,
    order::{Order, Waits},
};
use std::{
    cell::RefCell,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A device that looks for its next job.
pub trait Taker {
    /// Whether it has a model in memory.
    fn holds(&self, model: &str) -> bool;
    /// Whether it leaves a job to another device. Asked in the order in which jobs would be taken.
    fn leaves(&mut self, job: &Job) -> bool;
}

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
    order: Order,
    /// Places taken by jobs that are still being written down.
    reserved: usize,
    closed: bool,
}

/// A place in the queue, given back when it is dropped.
#[derive(Debug)]
pub struct Place(Option<Arc<Queue>>);

impl Place {
    /// Appends a job and says how many will start before it. `announce` runs before any device can take the job, so that
    /// the job's first event is always `queued`.
    pub fn fill(mut self, job: &Arc<Job>, at_hand: AtHand, announce: impl FnOnce(usize)) -> Result<usize, QueueError> {
        self.0.take().map_or(Err(QueueError::Closed), |queue| queue.add(job, at_hand, announce, 1))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(queue) = &self.0 {
            queue.lock().reserved -= 1;
        }
    }
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

    /// Takes a place for a job that is about to come.
    pub fn reserve(self: &Arc<Self>) -> Result<Place, QueueError> {
        let mut inner = self.lock();
        if inner.closed {
            return Err(QueueError::Closed);
        }
        inner.forget_ended();
        if inner.waiting.len() + inner.reserved >= self.capacity {
            return Err(QueueError::Full);
        }
        inner.reserved += 1;
        drop(inner);
        Ok(Place(Some(self.clone())))
    }

    /// Appends a job whatever the number of places: one that was accepted before a restart. See [`Place::fill`].
    pub fn push_again(
        &self,
        job: &Arc<Job>,
        at_hand: AtHand,
        announce: impl FnOnce(usize),
    ) -> Result<usize, QueueError> {
        self.add(job, at_hand, announce, 0)
    }

    fn add(
        &self,
        job: &Arc<Job>,
        at_hand: AtHand,
        announce: impl FnOnce(usize),
        reserved: usize,
    ) -> Result<usize, QueueError> {
        let position = {
            let mut inner = self.lock();
            inner.reserved -= reserved;
            if inner.closed {
                return Err(QueueError::Closed);
            }
            inner.forget_ended();
            inner.waiting.push(job.clone());
            let before = inner.line(at_hand).before(job).unwrap_or(0);
            announce(before);
            before
        };
        // All look: the one that is woken first may leave the job to another.
        self.arrived.notify_all();
        Ok(position)
    }

    /// Waits for a job. `taker` makes, at each look, what knows the device. `None` after `wait`, or when the queue is
    /// closed.
    pub fn pop<T: Taker>(&self, taker: impl Fn() -> T, wait: Duration) -> Option<Arc<Job>> {
        let until = Instant::now() + wait;
        let mut inner = self.lock();
        loop {
            inner.forget_ended();
            if inner.closed {
                return None;
            }
            let Inner { waiting, order, .. } = &mut *inner;
            let taker = RefCell::new(taker());
            let (holds, mut leaves) =
                (|model: &str| taker.borrow().holds(model), |job: &Arc<Job>| taker.borrow_mut().leaves(job));
            if let Some(next) = order.choose(waiting, &holds, &mut leaves) {
                return Some(waiting.remove(next));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            inner = self.arrived.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The waiting jobs in the order in which they will start if nothing comes in between.
    pub fn line(&self, at_hand: AtHand) -> Line {
        let mut inner = self.lock();
        inner.forget_ended();
        inner.line(at_hand)
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

impl Waits for Arc<Job> {
    fn owner(&self) -> &str {
        &self.owner
    }
    fn model(&self) -> &str {
        &self.spec.model
    }
    fn priority(&self) -> i8 {
        self.spec.priority
    }
    fn since(&self) -> Instant {
        self.created_at
    }
    fn leave(&self, at_hand: &mut AtHand) {
        at_hand.used(self.spec.models());
    }
}

impl Inner {
    fn line(&self, at_hand: AtHand) -> Line {
        let order = self.order.foresee(&self.waiting, at_hand);
        Line(order.into_iter().map(|i| self.waiting[i].clone()).collect())
    }

    fn forget_ended(&mut self) {
        self.waiting.retain(|j| j.state() == JobState::Queued);
    }
}
