//! A reader of one job's events: waits for what comes after its cursor, and counts as a reader while it lives.

use super::{Event, Job, JobState, Snapshot};
use crate::fault::{Fault, FaultCode};
use std::sync::Arc;
use tokio::sync::watch;

/// Follows a job from a cursor to its end. Dropping it is what "the reader left" means: with the job's own policy the
/// last one to go takes the job along.
#[derive(Debug)]
pub struct Follower {
    job: Arc<Job>,
    newest: watch::Receiver<u64>,
    cursor: u64,
}

impl Follower {
    /// A reader that has seen the events up to the number `cursor`; 0 = none.
    pub fn new(job: Arc<Job>, cursor: u64) -> Self {
        job.reader_joined();
        let newest = job.events.subscribe();
        Follower { job, newest, cursor }
    }

    /// The job that is followed.
    pub fn job(&self) -> &Arc<Job> {
        &self.job
    }

    /// Waits for the next events, oldest first, at most `limit` of them. None = the job has ended and everything was
    /// read. May be dropped while it waits without losing an event.
    pub async fn next(&mut self, limit: usize) -> Vec<Event> {
        loop {
            // Marked as seen before reading: whatever is published in between wakes the next wait at once.
            self.newest.borrow_and_update();
            let events = self.job.events.after(self.cursor, limit);
            if let Some(last) = events.last() {
                self.cursor = last.id;
                return events;
            }
            if self.job.events.terminal().is_some_and(|end| end.id <= self.cursor) {
                return Vec::new();
            }
            // The sender lives in the job that is held here; without one nothing can follow.
            if self.newest.changed().await.is_err() {
                return Vec::new();
            }
        }
    }

    /// Waits for the end, handing each event to `watch`. Errors: the job's own fault, or that it was cancelled.
    pub async fn outcome(&mut self, mut watch: impl FnMut(&Event)) -> Result<Snapshot, Fault> {
        loop {
            let events = self.next(usize::MAX).await;
            if events.is_empty() {
                break;
            }
            events.iter().for_each(&mut watch);
        }
        let snapshot = self.job.snapshot();
        match (snapshot.state, &snapshot.fault) {
            (JobState::Completed, _) => Ok(snapshot),
            (JobState::Cancelled, _) => Err(Fault::cancelled()),
            (JobState::Queued | JobState::Running, _) => {
                let text = "the worker is being restarted; the job is kept: send the same request again";
                Err(Fault::new(FaultCode::Draining, text))
            }
            (_, Some(fault)) => Err(fault.clone()),
            _ => Err(Fault::internal("the job ended without a reason")),
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.job.reader_left();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::{JobSpec, OnDisconnect, Origin, Outcome};
    use std::time::Duration;

    fn names(events: &[Event]) -> Vec<&str> {
        events.iter().map(|e| e.name).collect()
    }

    #[tokio::test]
    async fn everything_comes_once_and_then_nothing() {
        let job = Job::new(String::new(), JobSpec::default(), Origin::default());
        let mut follower = Follower::new(job.clone(), 0);
        for step in 1..=3 {
            job.progress(step, 3);
        }
        assert_eq!(names(&follower.next(2).await), ["progress", "progress"]);
        let late = tokio::time::timeout(Duration::from_millis(1), async {
            follower.next(9).await;
            follower.next(9).await
        });
        assert!(late.await.is_err(), "it waits while the job runs");
        let writer = job.clone();
        tokio::spawn(async move { writer.finish(Outcome::Complete) });
        assert_eq!(names(&follower.next(9).await), ["complete"]);
        assert!(follower.next(9).await.is_empty());
        // A reader that comes back behind the end, or with a number from nowhere, is not left waiting.
        for cursor in [4, 99] {
            assert!(Follower::new(job.clone(), cursor).next(9).await.is_empty());
        }
        assert_eq!(Follower::new(job, 2).next(9).await.len(), 2);
    }

    #[tokio::test]
    async fn the_outcome_is_the_jobs_own() {
        let ends: [(Outcome, Option<FaultCode>); 3] = [
            (Outcome::Complete, None),
            (Outcome::Cancelled, Some(FaultCode::Cancelled)),
            (Outcome::Failed(Fault::new(FaultCode::Timeout, "slow")), Some(FaultCode::Timeout)),
        ];
        for (end, code) in ends {
            let job = Job::new(String::new(), JobSpec::default(), Origin::default());
            job.progress(1, 1);
            job.finish(end);
            let mut seen = 0;
            let outcome = Follower::new(job, 0).outcome(|_| seen += 1).await;
            assert_eq!((outcome.err().map(|f| f.code), seen), (code, 2));
        }
    }

    #[test]
    fn the_last_reader_takes_the_job_along_if_asked() {
        for (policy, cancelled) in [(OnDisconnect::Cancel, true), (OnDisconnect::Keep, false)] {
            let job =
                Job::new(String::new(), JobSpec { on_disconnect: policy, ..JobSpec::default() }, Origin::default());
            let (first, second) = (Follower::new(job.clone(), 0), Follower::new(job.clone(), 0));
            drop(first);
            assert!(!job.cancel_requested());
            drop(second);
            assert_eq!(job.cancel_requested(), cancelled);
        }
    }
}
