//! All jobs the worker knows: the unfinished ones, the finished ones until their time is over, and for a while the ids of
//! those that are gone, so that "gone" can be told from "never was".

use super::{Idempotency, Job, JobId};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How long a job whose end is kept elsewhere stays in memory too, for those who ask at once.
const KEPT_STAYS: Duration = Duration::from_secs(30);
/// Ids of forgotten jobs that are remembered.
const MAX_TOMBSTONES: usize = 10_000;

/// What is known about an id.
#[derive(Debug)]
pub enum Lookup {
    /// The job.
    Found(Arc<Job>),
    /// It ended and its time is over.
    Gone,
    /// There was no such job.
    Unknown,
}

impl Lookup {
    /// The job, if it is here.
    pub fn found(self) -> Option<Arc<Job>> {
        match self {
            Lookup::Found(job) => Some(job),
            Lookup::Gone | Lookup::Unknown => None,
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    jobs: HashMap<JobId, Arc<Job>>,
    /// Oldest first.
    order: VecDeque<JobId>,
    tombstones: VecDeque<JobId>,
    /// Owner and idempotency key → the job and the fingerprint of its request.
    keys: HashMap<(String, String), (JobId, [u8; 32])>,
    /// Owner and a name that the owner gave → the newest job of this name.
    names: HashMap<(String, String), JobId>,
}

/// The registry. Finished jobs are kept for `keep` and at most `max_finished` of them: those beyond go when a new job comes
/// or at the next sweep.
#[derive(Debug)]
pub struct Registry {
    keep: Duration,
    max_finished: usize,
    inner: Mutex<Inner>,
}

impl Registry {
    /// An empty registry.
    pub fn new(keep: Duration, max_finished: usize) -> Self {
        Registry { keep, max_finished, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a job; with an idempotency key, remembers it for the key. The answer is the job that the key had made
    /// already, and then this one is not added.
    pub fn insert(&self, job: &Arc<Job>, idempotency: Option<&Idempotency>) -> Result<(), Arc<Job>> {
        let mut inner = self.lock();
        if let Some((known, _)) = idempotency.and_then(|i| inner.by_key(&job.owner, &i.key)) {
            return Err(known);
        }
        inner.jobs.insert(job.id.clone(), job.clone());
        inner.order.push_back(job.id.clone());
        if let Some(Idempotency { key, fingerprint }) = idempotency {
            inner.keys.insert((job.owner.clone(), key.clone()), (job.id.clone(), *fingerprint));
        }
        // Between two sweeps fast jobs with their pictures would pile up beyond the bound.
        if inner.jobs.len() > self.max_finished {
            inner.sweep(self.keep, self.max_finished);
        }
        Ok(())
    }

    /// The job that an owner's idempotency key made, and the fingerprint of its request.
    pub fn by_key(&self, owner: &str, key: &str) -> Option<(Arc<Job>, [u8; 32])> {
        self.lock().by_key(owner, key)
    }

    /// Gives a job that is here a name by which its owner asks for it. An older job of this name loses it.
    pub fn name(&self, job: &Job, name: &str) {
        let mut inner = self.lock();
        if inner.jobs.contains_key(&job.id) {
            inner.names.insert((job.owner.clone(), name.to_owned()), job.id.clone());
        }
    }

    /// The newest job of a name.
    pub fn by_name(&self, owner: &str, name: &str) -> Option<Arc<Job>> {
        let inner = self.lock();
        inner.jobs.get(inner.names.get(&(owner.to_owned(), name.to_owned()))?).cloned()
    }

    /// What is known about an id.
    pub fn find(&self, id: &JobId) -> Lookup {
        let inner = self.lock();
        match inner.jobs.get(id) {
            Some(job) => Lookup::Found(job.clone()),
            None if inner.tombstones.contains(id) => Lookup::Gone,
            None => Lookup::Unknown,
        }
    }

    /// Removes a job without a trace, because it was never taken.
    pub fn withdraw(&self, id: &JobId) {
        self.lock().remove(id);
    }

    /// Forgets a finished job before its time.
    pub fn forget(&self, id: &JobId) {
        self.lock().bury(id);
    }

    /// All jobs, newest first.
    pub fn list(&self) -> Vec<Arc<Job>> {
        let inner = self.lock();
        inner.order.iter().rev().filter_map(|id| inner.jobs.get(id).cloned()).collect()
    }

    /// Forgets finished jobs whose time is over, and the oldest beyond the bound.
    pub fn sweep(&self) {
        self.lock().sweep(self.keep, self.max_finished);
    }
}

impl Inner {
    fn by_key(&self, owner: &str, key: &str) -> Option<(Arc<Job>, [u8; 32])> {
        let (id, fingerprint) = self.keys.get(&(owner.to_owned(), key.to_owned()))?;
        Some((self.jobs.get(id)?.clone(), *fingerprint))
    }

    fn sweep(&mut self, keep: Duration, max_finished: usize) {
        let jobs = self.order.iter().filter_map(|id| self.jobs.get(id));
        let finished: Vec<(Arc<Job>, Duration)> =
            jobs.filter_map(|job| Some((job.clone(), job.ended()?.elapsed()))).collect();
        let excess = finished.len().saturating_sub(max_finished);
        for (i, (job, age)) in finished.iter().enumerate() {
            match job.is_kept() {
                // Not gone, only elsewhere.
                true if i < excess || *age > KEPT_STAYS.min(keep) => self.remove(&job.id),
                false if i < excess || *age > keep => self.bury(&job.id),
                _ => {}
            }
        }
    }

    fn remove(&mut self, id: &JobId) {
        self.jobs.remove(id);
        self.order.retain(|other| other != id);
        self.keys.retain(|_, (other, _)| other != id);
        self.names.retain(|_, other| other != id);
    }

    fn bury(&mut self, id: &JobId) {
        if !self.jobs.contains_key(id) {
            return;
        }
        self.remove(id);
        self.tombstones.push_back(id.clone());
        while self.tombstones.len() > MAX_TOMBSTONES {
            self.tombstones.pop_front();
        }
    }
}
