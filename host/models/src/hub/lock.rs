//! One writer for each file of the cache, among all processes of our kind.
//!
//! The lock belongs to the open file, so that it goes with the process that held it, however that ended. A file system
//! that knows no locks is used without: what lies there at the end is measured and hashed in any case.

use super::HubError;
use std::{
    fs::{File, OpenOptions, TryLockError},
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// Held while a file is fetched.
pub(super) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    pub(super) fn take(path: &Path, what: &str) -> crate::Result<Self> {
        let io = |error| crate::ModelError::io(what, error);
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(HubError::Busy { what: what.into() }.into()),
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        Ok(Self { path: path.to_path_buf(), _file: file })
    }

    /// The file is whole. Nobody needs the lock any more: whoever takes it from now on finds the file.
    pub(super) fn done(self) {
        // What stays is an empty file.
        let _ = std::fs::remove_file(&self.path);
    }
}
