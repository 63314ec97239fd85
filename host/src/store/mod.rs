//! What survives the program: jobs, their states and their pictures, in one folder.
//!
//! An embedded SQLite database holds the jobs, plain files beside it hold the pictures. Everything runs on one thread of its own behind [`Store`], so that
//! neither the async runtime nor a device ever waits for the disk.
//!
//! What holds after a crash at any moment (`kill -9`, not power loss, for which the last moments may be missing):
//! - a job that was accepted is still there; one that was running comes back as [`JobState::Interrupted`];
//! - a picture is there whole or not at all: it is written under another name, synced, renamed, and only then entered into the database;
//! - files that no job knows are removed at the next start.

mod db;
mod error;
mod pictures;
mod record;
mod schema;
#[cfg(test)]
mod tests;
mod worker;

pub use error::StoreError;
pub use record::{Image, JobRecord, JobState, ListFilter, Lookup, NewImage, NewJob, Page};
pub use worker::{Store, StoreHandle};

use std::sync::Arc;
use std::time::Duration;

/// The bounds of a store.
#[derive(Clone)]
pub struct StoreOptions {
    /// How long a job and its pictures stay after its end.
    pub time_to_live: Duration,
    /// How long an expired job is remembered, to answer 410 and not 404.
    pub remember_expired: Duration,
    /// The most bytes of pictures. Beyond it the jobs that ended first expire early.
    pub max_picture_bytes: u64,
    /// The most jobs that have ended. Beyond it those that ended first expire early.
    pub max_finished: u32,
    /// The most expired jobs that are remembered.
    pub max_expired: u32,
    /// The most bytes of the database file.
    pub max_database_bytes: u64,
    /// Calls that may wait for the store's thread; more wait for a place.
    pub queue: usize,
    /// Milliseconds since 1970. Replaced in tests.
    pub clock: Arc<dyn Fn() -> i64 + Send + Sync>,
}

impl std::fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreOptions")
            .field("time_to_live", &self.time_to_live)
            .field("remember_expired", &self.remember_expired)
            .field("max_picture_bytes", &self.max_picture_bytes)
            .field("max_finished", &self.max_finished)
            .field("max_expired", &self.max_expired)
            .field("max_database_bytes", &self.max_database_bytes)
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

impl Default for StoreOptions {
    fn default() -> Self {
        let clock = || {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
        };
        Self {
            time_to_live: Duration::from_secs(24 * 3600),
            remember_expired: Duration::from_secs(7 * 24 * 3600),
            max_picture_bytes: 4 << 30,
            max_finished: 1000,
            max_expired: 100_000,
            max_database_bytes: 1 << 30,
            queue: 256,
            clock: Arc::new(clock),
        }
    }
}

/// What was found when the store was opened.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// Jobs to run, in their order.
    pub queued: Vec<JobRecord>,
    /// Jobs that were running when the last program ended. Run them again with [`Store::requeue`], or end them with [`Store::finish`].
    pub interrupted: Vec<JobRecord>,
    /// Jobs that have ended and whose webhook has not been told yet.
    pub untold: Vec<JobRecord>,
    /// Half-written and unknown files removed.
    pub files_removed: usize,
    /// The database was damaged and has been set aside; the store starts empty.
    pub damaged: bool,
}
