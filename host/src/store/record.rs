//! What goes into the store and comes out of it. Requests and results are JSON to others and only text here.

use bytes::Bytes;

use super::StoreError;

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobState {
    /// Waiting.
    Queued,
    /// On a device.
    Running,
    /// Was running when the program ended.
    Interrupted,
    /// Done.
    Complete,
    /// Failed.
    Error,
    /// Stopped by somebody.
    Cancelled,
}

impl JobState {
    /// Every state.
    pub const ALL: [Self; 6] =
        [Self::Queued, Self::Running, Self::Interrupted, Self::Complete, Self::Error, Self::Cancelled];

    /// The word in the database and on the wire.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Interrupted => "interrupted",
            Self::Complete => "complete",
            Self::Error => "error",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.word() == word)
    }

    /// Whether nothing will happen to the job any more.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Complete | Self::Error | Self::Cancelled)
    }
}

/// A job to be kept.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// 1 to 64 letters, digits and `-`.
    pub id: String,
    /// The request as JSON.
    pub request: String,
    /// Who sent it; see [`crate::auth::Identity::key`].
    pub owner: String,
    /// Higher runs first.
    pub priority: i32,
    /// The same key of the same owner gives the same job back.
    pub idempotency_key: Option<String>,
    /// What was asked for with the key: SHA-256 of the request.
    pub fingerprint: Option<[u8; 32]>,
    /// Where its end is to be told.
    pub webhook: Option<String>,
}

/// A picture to be kept.
#[derive(Clone, Debug)]
pub struct NewImage {
    /// Such as `image/png`.
    pub media_type: &'static str,
    /// Such as `png`.
    pub extension: &'static str,
    /// The whole file.
    pub bytes: Bytes,
}

/// A picture that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Counted from 0.
    pub index: u32,
    /// Such as `image/png`.
    pub media_type: String,
    /// The size of the file.
    pub bytes: u64,
    pub(super) file: String,
}

/// A job as it is kept. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRecord {
    /// Grows with each job; the cursor of lists.
    pub seq: i64,
    /// The job's id.
    pub id: String,
    /// Where it is in its life.
    pub state: JobState,
    /// Who sent it.
    pub owner: String,
    /// Higher runs first.
    pub priority: i32,
    /// The request as JSON, of a job that comes back when the store is opened; else empty.
    pub request: String,
    /// What came of it, as JSON; `None` before the end.
    pub result: Option<String>,
    /// How often it was started.
    pub attempts: u32,
    /// How many programs found it unfinished when they began.
    pub restores: u32,
    /// Where its end is to be told.
    pub webhook: Option<String>,
    /// What was asked for with its idempotency key. None without a key, and of jobs older than fingerprints.
    pub fingerprint: Option<[u8; 32]>,
    /// When it was accepted.
    pub created_ms: i64,
    /// When it was started last.
    pub started_ms: Option<i64>,
    /// When it ended.
    pub finished_ms: Option<i64>,
    /// When it will be forgotten.
    pub expires_ms: Option<i64>,
    /// Its pictures, by index.
    pub images: Vec<Image>,
}

/// The answer to "where is this job?".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Here.
    Found(Box<JobRecord>),
    /// It was here: 410.
    Expired,
    /// Never heard of: 404.
    Unknown,
}

impl Lookup {
    /// The job, if it is here.
    #[must_use]
    pub fn found(self) -> Option<JobRecord> {
        match self {
            Self::Found(job) => Some(*job),
            Self::Expired | Self::Unknown => None,
        }
    }
}

/// Which jobs to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct ListFilter {
    /// Only of this state.
    pub state: Option<JobState>,
    /// Only of this owner.
    pub owner: Option<String>,
    /// Only jobs older than this one: the `next` of the last page.
    pub before: Option<i64>,
    /// 1 to 1000.
    pub limit: u32,
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Newest first.
    pub jobs: Vec<JobRecord>,
    /// The cursor of the next page, if there is one.
    pub next: Option<i64>,
}

/// Ids become file names, so they hold nothing that means something in a path.
pub(super) fn check_id(id: &str) -> Result<(), StoreError> {
    let good = (1..=64).contains(&id.len()) && id.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
    if good { Ok(()) } else { Err(StoreError::BadId) }
}
