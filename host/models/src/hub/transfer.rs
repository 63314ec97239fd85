//! One file from the hub into the cache: resumed, counted, hashed, and visible only when it is right.

use super::{HubError, HubOptions, client::Client, lock::Lock, plan::Remote};
use crate::{
    error::{ModelError, Result},
    resolved::hex,
};
use sha2::{Digest, Sha256};
use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Write},
    ops::ControlFlow,
    path::Path,
    time::Duration,
};
use ureq::{Body, http::Response};

/// Bytes that are read, hashed and written at a time.
const CHUNK: usize = 256 << 10;

/// An attempt that brought less than this counts as a failed one: a hub that drips would otherwise never end.
const LEAST_PROGRESS: u64 = 64 << 10;

/// Where a file comes from.
pub(super) struct From<'a> {
    pub(super) client: &'a Client<'a>,
    pub(super) options: &'a HubOptions,
    pub(super) repo: &'a str,
    pub(super) commit: &'a str,
}

/// Told after every chunk (bytes on disk) and before every new attempt.
pub(super) trait Watch {
    fn at(&mut self, done: u64) -> ControlFlow<()>;
    fn retry(&mut self, attempt: u32, reason: &HubError, wait: Duration) -> ControlFlow<()>;
}

/// The part that is on disk, and its hash so far.
struct Partial {
    file: File,
    done: u64,
    hash: Sha256,
}

/// Fetches `remote` into `blobs/`; returns at once if it is there.
pub(super) fn fetch(from: &From<'_>, remote: &Remote, blobs: &Path, watch: &mut dyn Watch) -> Result<()> {
    let target = blobs.join(&remote.blob);
    // A blob gets its name only after it was verified.
    let is_there = || target.metadata().is_ok_and(|meta| meta.is_file() && meta.len() == remote.size);
    if is_there() {
        return stop(watch.at(remote.size));
    }
    let io = |error| storage(remote, 0, error);
    std::fs::create_dir_all(blobs).map_err(io)?;
    let lock = Lock::take(&blobs.join(format!("{}.lock", remote.blob)), &remote.name)?;
    // Whoever held it may have brought the file.
    if is_there() {
        lock.done();
        return stop(watch.at(remote.size));
    }
    let incomplete = blobs.join(format!("{}.incomplete", remote.blob));
    let mut partial = Partial::open(&incomplete, remote)?;
    let resumed = partial.done > 0;
    download(from, remote, &mut partial, watch)?;
    if !partial.is_right(remote) {
        // What an earlier run left may have been the wrong part: once more from the start.
        if resumed {
            partial.restart(remote)?;
            download(from, remote, &mut partial, watch)?;
        }
        if !partial.is_right(remote) {
            let _ = std::fs::remove_file(&incomplete);
            return Err(HubError::WrongHash { what: remote.name.clone() }.into());
        }
    }
    partial.file.sync_all().map_err(|error| storage(remote, remote.size, error))?;
    // On a file system without locks another process may have written to the same file.
    if incomplete.metadata().map_err(io)?.len() != remote.size {
        return Err(HubError::Busy { what: remote.name.clone() }.into());
    }
    std::fs::rename(&incomplete, &target).map_err(io)?;
    lock.done();
    Ok(())
}

impl Partial {
    fn open(path: &Path, remote: &Remote) -> Result<Self> {
        let io = |error| storage(remote, 0, error);
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(io)?;
        let mut partial =
            Self { done: file.metadata().map_err(io)?.len(), hash: Sha256::new(), file: file.try_clone().map_err(io)? };
        if partial.done > remote.size {
            partial.restart(remote)?;
            return Ok(partial);
        }
        let mut buffer = vec![0; CHUNK];
        let mut seen = 0;
        while seen < partial.done {
            let n = file.read(&mut buffer).map_err(io)?;
            if n == 0 {
                break;
            }
            partial.hash.update(&buffer[..n]);
            seen += n as u64;
        }
        partial.done = seen;
        Ok(partial)
    }

    fn restart(&mut self, remote: &Remote) -> Result<()> {
        self.file.set_len(0).map_err(|error| storage(remote, 0, error))?;
        self.done = 0;
        self.hash = Sha256::new();
        Ok(())
    }

    fn is_right(&self, remote: &Remote) -> bool {
        let sum = || hex(&self.hash.clone().finalize());
        self.done == remote.size && remote.sha256.as_ref().is_none_or(|expected| *expected == sum())
    }
}

/// Asks until the file is whole; gives up after some attempts without progress.
fn download(from: &From<'_>, remote: &Remote, partial: &mut Partial, watch: &mut dyn Watch) -> Result<()> {
    let mut failures = 0;
    while partial.done < remote.size {
        let before = partial.done;
        let failed = match attempt(from, remote, partial, watch) {
            Ok(()) => continue,
            Err(ModelError::Hub(error)) if is_passing(&error) => error,
            Err(error) => return Err(error),
        };
        let progress = partial.done.saturating_sub(before) >= LEAST_PROGRESS;
        failures = if progress { 1 } else { failures + 1 };
        if failures >= from.options.attempts.max(1) {
            return Err(give_up(failed, partial.done, failures).into());
        }
        let wait = from.options.backoff.saturating_mul(1 << (failures - 1).min(5)).min(Duration::from_secs(30));
        stop(watch.retry(failures, &failed, wait))?;
        std::thread::sleep(wait);
    }
    Ok(())
}

fn attempt(from: &From<'_>, remote: &Remote, partial: &mut Partial, watch: &mut dyn Watch) -> Result<()> {
    let mut response = from.client.file(from.repo, from.commit, &remote.name, partial.done)?;
    if response.status().as_u16() == 200 && partial.done > 0 {
        // The server knows no ranges and sends the file from its start.
        partial.restart(remote)?;
    }
    announced(&response, remote, partial.done)?;
    let mut body = response.body_mut().as_reader();
    let mut buffer = vec![0; CHUNK];
    loop {
        let n = match body.read(&mut buffer) {
            Ok(n) => n,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(from.client.broken(&remote.name, &error).into()),
        };
        if n == 0 {
            break;
        }
        let done = partial.done + n as u64;
        if done > remote.size {
            return Err(wrong_size(remote, done));
        }
        partial.file.write_all(&buffer[..n]).map_err(|error| storage(remote, partial.done, error))?;
        partial.hash.update(&buffer[..n]);
        partial.done = done;
        stop(watch.at(done))?;
    }
    if partial.done < remote.size {
        return Err(HubError::Cut { what: remote.name.clone(), at: partial.done, attempts: 1 }.into());
    }
    Ok(())
}

/// Compares what the server is about to send with what the hub listed, before a byte is written.
fn announced(response: &Response<Body>, remote: &Remote, from: u64) -> Result<()> {
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    if response.status().as_u16() == 206 {
        let range = header("content-range").and_then(|text| text.strip_prefix("bytes ")).unwrap_or_default();
        let (span, total) = range.split_once('/').unwrap_or_default();
        let start = span.split_once('-').and_then(|(start, _)| start.parse::<u64>().ok());
        if start != Some(from) {
            let reason = "it sends another range than was asked for".to_owned();
            return Err(HubError::BadAnswer { what: remote.name.clone(), reason }.into());
        }
        return match total.parse::<u64>() {
            Ok(total) if total != remote.size => Err(wrong_size(remote, total)),
            _ => Ok(()),
        };
    }
    match header("content-length").and_then(|text| text.parse::<u64>().ok()) {
        Some(length) if length != remote.size => Err(wrong_size(remote, length)),
        _ => Ok(()),
    }
}

/// Whether trying again can help.
fn is_passing(error: &HubError) -> bool {
    matches!(
        error,
        HubError::Server { .. }
            | HubError::RateLimited { .. }
            | HubError::Timeout { .. }
            | HubError::Unreachable { .. }
            | HubError::Cut { .. }
    )
}

/// The last failure, with how often it was tried.
fn give_up(error: HubError, at: u64, attempts: u32) -> HubError {
    match error {
        HubError::Server { what, status, .. } => HubError::Server { what, status, attempts },
        HubError::Cut { what, .. } => HubError::Cut { what, at, attempts },
        HubError::Unreachable { what, .. } if at > 0 => HubError::Cut { what, at, attempts },
        other => other,
    }
}

fn wrong_size(remote: &Remote, found: u64) -> ModelError {
    HubError::WrongSize { what: remote.name.clone(), expected: remote.size, found }.into()
}

fn storage(remote: &Remote, done: u64, error: std::io::Error) -> ModelError {
    if error.kind() == ErrorKind::StorageFull {
        return ModelError::DiskFull { file: remote.name.clone(), need: remote.size.saturating_sub(done) };
    }
    ModelError::io(&remote.name, error)
}

fn stop(flow: ControlFlow<()>) -> Result<()> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(HubError::Cancelled.into()),
    }
}
