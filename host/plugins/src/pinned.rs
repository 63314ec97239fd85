//! A library's file, held open: what was checked is what runs, also when another file was put in its place since.
//!
//! A child that is started anew opens the library by its path while the same file lies there, so that libraries beside
//! it are found by `$ORIGIN`; afterwards through the descriptor that is held here, with its folder among those that the
//! loader searches.

use crate::PluginError;
use std::{
    fs::{File, Metadata},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

/// What tells one file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// File system and number there; zeros where the system has none.
    pub(crate) inode: (u64, u64),
    /// Bytes, and when they were changed last in nanoseconds.
    pub(crate) content: (u64, i128),
}

impl Stamp {
    #[cfg(unix)]
    fn of(meta: &Metadata) -> Stamp {
        use std::os::unix::fs::MetadataExt;
        let modified = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        Stamp { inode: (meta.dev(), meta.ino()), content: (meta.len(), modified) }
    }

    #[cfg(not(unix))]
    fn of(meta: &Metadata) -> Stamp {
        let since = meta.modified().ok().and_then(|m| m.duration_since(std::time::UNIX_EPOCH).ok());
        Stamp { inode: (0, 0), content: (meta.len(), since.map_or(0, |s| s.as_nanos() as i128)) }
    }

    /// That of the file at a path now.
    pub(crate) fn at(path: &Path) -> io::Result<Stamp> {
        std::fs::metadata(path).map(|meta| Stamp::of(&meta))
    }
}

/// A library as it was found.
#[derive(Debug)]
pub(crate) struct Pinned {
    path: PathBuf,
    file: File,
    stamp: Stamp,
}

impl Pinned {
    /// Holds the file that was opened at a canonical path.
    pub(crate) fn hold(path: &Path, file: File) -> Result<Arc<Pinned>, PluginError> {
        let stamp = file.metadata().map(|meta| Stamp::of(&meta)).map_err(|e| PluginError::NotALibrary {
            file: crate::load::file_name(path),
            reason: format!("cannot be read: {}", e.kind()),
        })?;
        Ok(Arc::new(Pinned { path: path.to_owned(), file, stamp }))
    }

    /// Where it lay when it was found.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it still lies there.
    pub(crate) fn in_place(&self) -> bool {
        Stamp::at(&self.path).is_ok_and(|now| now == self.stamp)
    }

    /// The open file.
    #[cfg(target_os = "linux")]
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Whether another file holds the same bytes. One that cannot be read does not.
    pub(crate) fn same(&self, other: &Pinned) -> bool {
        if self.stamp == other.stamp {
            return true;
        }
        // One file that was written over in place is another one than it was: who held it open sees the new bytes too.
        self.stamp.inode != other.stamp.inode
            && self.stamp.content.0 == other.stamp.content.0
            && equal(&self.file, &other.file).unwrap_or(false)
    }
}

/// Compares two files from their beginnings.
fn equal(a: &File, b: &File) -> io::Result<bool> {
    use std::io::{Seek, SeekFrom};
    let (mut a, mut b) = (a.try_clone()?, b.try_clone()?);
    a.seek(SeekFrom::Start(0))?;
    b.seek(SeekFrom::Start(0))?;
    let (mut left, mut right) = (vec![0u8; 1 << 16], vec![0u8; 1 << 16]);
    loop {
        let n = a.read(&mut left)?;
        b.read_exact(&mut right[..n])?;
        if left[..n] != right[..n] {
            return Ok(false);
        }
        if n == 0 {
            return Ok(true);
        }
    }
}
