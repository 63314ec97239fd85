//! One weights file: read, never mapped, so that a file that shrinks is an error and not a signal.

use super::header::{self, Entry};
use crate::{Error, Result};
use std::{collections::HashMap, fs::File, path::Path, time::SystemTime};

/// An open file with a checked header.
pub(crate) struct WeightsFile {
    file: File,
    part: String,
    stamp: (u64, Option<SystemTime>),
    pub(crate) entries: HashMap<String, Entry>,
}

fn stamp(part: &str, file: &File) -> Result<(u64, Option<SystemTime>)> {
    let meta = file.metadata().map_err(|e| Error::Io { part: part.to_owned(), kind: e.kind() })?;
    if !meta.is_file() {
        return Err(Error::Header { part: part.to_owned(), reason: "it is no regular file".to_owned() });
    }
    Ok((meta.len(), meta.modified().ok()))
}

impl WeightsFile {
    pub(crate) fn open(part: &str, path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(|e| Error::Io { part: part.to_owned(), kind: e.kind() })?;
        let stamp = stamp(part, &file)?;
        let entries = header::read(part, &mut file, stamp.0)?;
        Ok(WeightsFile { file, part: part.to_owned(), stamp, entries })
    }

    /// Reads bytes of the file. A file that became shorter is [`Error::Changed`].
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        read_at(&self.file, offset, out).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => Error::Changed { part: self.part.clone() },
            kind => Error::Io { part: self.part.clone(), kind },
        })
    }

    /// Fails if the file was rewritten since it was opened. Asked after the last tensor.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        if stamp(&self.part, &self.file)? == self.stamp {
            return Ok(());
        }
        Err(Error::Changed { part: self.part.clone() })
    }
}

#[cfg(unix)]
fn read_at(file: &File, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

#[cfg(windows)]
fn read_at(file: &File, mut offset: u64, mut out: &mut [u8]) -> std::io::Result<()> {
    while !out.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_read(file, out, offset)?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        offset += n as u64;
        out = &mut out[n..];
    }
    Ok(())
}
