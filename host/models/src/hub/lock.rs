//! One writer for each file of the cache, among all processes of our kind.
//!
//! The lock is a file that its holder touches while it works. A lock that was not touched for a while belongs to a
//! process that died, and is taken over. A wrong guess costs a download, never a wrong file: the checksum decides.

use super::HubError;
use std::{
    fs::{File, OpenOptions},
    io::ErrorKind,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

/// A lock that was not touched for this long is abandoned.
const ABANDONED: Duration = Duration::from_secs(60);
/// How often the holder touches it.
const TOUCH: Duration = Duration::from_secs(5);

/// Held while a file is fetched.
pub(super) struct Lock {
    path: PathBuf,
    file: File,
    touched: Instant,
}

impl Lock {
    pub(super) fn take(path: &Path, what: &str) -> crate::Result<Self> {
        for _ in 0..2 {
            match OpenOptions::new().write(true).create_new(true).open(path) {
                Ok(file) => return Ok(Self { path: path.to_path_buf(), file, touched: Instant::now() }),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    let age = path.metadata().and_then(|meta| meta.modified()).ok().and_then(|at| at.elapsed().ok());
                    if age.is_some_and(|age| age < ABANDONED) {
                        return Err(HubError::Busy { what: what.into() }.into());
                    }
                    // Gone already is as good as removed.
                    let _ = std::fs::remove_file(path);
                }
                Err(error) => return Err(crate::ModelError::io(what, error)),
            }
        }
        Err(HubError::Busy { what: what.into() }.into())
    }

    /// Says that the holder lives.
    pub(super) fn touch(&mut self) {
        if self.touched.elapsed() > TOUCH {
            self.touched = Instant::now();
            // A file system without times makes the lock look abandoned after a minute; see the module's own words.
            let _ = self.file.set_modified(SystemTime::now());
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
