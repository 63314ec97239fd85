//! Why the store could not do something.

use std::io;

use rusqlite::ErrorCode;

/// Names the cause in the operator's terms and says the remedy. Never shows a path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No room on the disk, or the database has reached its bound.
    #[error("the state directory is full; free some disk space or raise the store's limits")]
    Full,
    /// The disk or the folder cannot be written.
    #[error(
        "the state directory cannot be written; check its owner, its rights and whether its disk is mounted read-only"
    )]
    ReadOnly,
    /// The disk reports an error.
    #[error("the state directory's disk reports an error; look at the system's log, then at the disk")]
    Disk,
    /// Another worker uses the same folder.
    #[error("the state directory is in use by another worker; give each worker its own --state-dir")]
    InUse,
    /// Written by a newer version of this program.
    #[error(
        "the state directory was written by a newer version ({found}, this one knows {known}); use that version, or another --state-dir"
    )]
    Newer {
        /// The version found.
        found: i64,
        /// The newest one we know.
        known: i64,
    },
    /// The database is damaged.
    #[error("the job database is damaged")]
    Damaged,
    /// No such job.
    #[error("there is no such job")]
    Unknown,
    /// The job's state does not allow this.
    #[error("the job is {state}; that cannot be done to it now")]
    Conflict {
        /// The state it is in.
        state: &'static str,
    },
    /// A job of this id exists, or an id has other than letters, digits and `-`.
    #[error("the job id cannot be used")]
    BadId,
    /// The store's thread has ended.
    #[error("the job store is closed")]
    Closed,
    /// Something else.
    #[error("the job store failed: {0}")]
    Other(String),
}

impl StoreError {
    /// A stable name for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Full => "store_full",
            Self::ReadOnly => "store_read_only",
            Self::Disk => "store_disk_error",
            Self::InUse => "store_in_use",
            Self::Newer { .. } => "store_newer",
            Self::Damaged => "store_damaged",
            Self::Unknown => "job_not_found",
            Self::Conflict { .. } => "job_state_conflict",
            Self::BadId => "invalid_job_id",
            Self::Closed => "store_closed",
            Self::Other(_) => "store_failed",
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(e: rusqlite::Error) -> Self {
        match e.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => Self::ReadOnly,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::InUse,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged,
            Some(ErrorCode::SystemIoFailure) => Self::Disk,
            // The code alone: the message of some errors holds the file's path.
            Some(code) => Self::Other(format!("{code:?}")),
            None if matches!(e, rusqlite::Error::QueryReturnedNoRows) => Self::Unknown,
            None => Self::Other(e.to_string()),
        }
    }
}

impl From<io::Error> for StoreError {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Self::Full,
            io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::AlreadyExists => Self::ReadOnly,
            kind => Self::Other(kind.to_string()),
        }
    }
}
