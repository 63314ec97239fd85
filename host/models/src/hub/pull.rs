//! Fetching a model: list, plan, transfer, link.

use super::{
    HubError, HubOptions, cache,
    client::Client,
    plan::{Listing, Remote},
    transfer::{self, From, Watch},
};
use crate::{
    error::{ModelError, Result},
    files::MAX_INDEX_BYTES,
    name::HubId,
};
use std::{
    io::Read,
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::Duration,
};

/// What happens during a download.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PullEvent {
    /// It is known what is needed.
    Planned {
        /// Files.
        files: usize,
        /// Bytes of them all.
        bytes: u64,
    },
    /// Bytes arrived (or were there already).
    Progress {
        /// The file.
        file: String,
        /// Bytes of it on disk.
        done: u64,
        /// Its size.
        size: u64,
        /// Bytes of all files on disk.
        total_done: u64,
        /// Bytes of all files.
        total: u64,
    },
    /// Something failed and is tried again.
    Retrying {
        /// The file.
        file: String,
        /// Attempts without progress so far.
        attempt: u32,
        /// The failure.
        reason: String,
        /// The wait before the next attempt.
        wait: Duration,
    },
}

/// A model in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// Its commit.
    pub commit: String,
    /// Its folder.
    pub snapshot: PathBuf,
    /// Files of it.
    pub files: usize,
    /// Bytes of it.
    pub bytes: u64,
}

/// Told of every event; `Break` stops the download.
pub type OnEvent<'a> = dyn FnMut(&PullEvent) -> ControlFlow<()> + 'a;

/// Fetches what a model needs into the shared cache, and nothing that is there already.
///
/// The model becomes visible under its revision only when every file is whole and verified.
///
/// # Errors
/// [`ModelError::Hub`] for everything about the hub; [`ModelError::Pickle`], [`ModelError::MissingFile`] and
/// [`ModelError::UnsupportedModel`] before anything large is fetched; [`ModelError::DiskFull`].
pub fn pull(id: &HubId, options: &HubOptions, on_event: &mut OnEvent<'_>) -> Result<Pulled> {
    let repo = id.repo();
    if options.offline {
        return cached(id, options);
    }
    let client = Client::new(options)?;
    let listing = retry(options, &mut || client.listing(&repo, id.revision()))?;
    let listing = Listing::parse(&repo, &listing)?;
    let from = From { client: &client, options, repo: &repo, commit: &listing.commit };
    let dir = cache::repo_dir(&options.cache_dir, id);
    let blobs = dir.join("blobs");

    let files = listing.plan(options.prefer, &mut |file| {
        transfer::fetch(&from, file, &blobs, &mut Silent)?;
        let mut text = String::new();
        let blob = std::fs::File::open(blobs.join(&file.blob)).map_err(|error| ModelError::io(&file.name, error))?;
        blob.take(MAX_INDEX_BYTES).read_to_string(&mut text).map_err(|error| ModelError::io(&file.name, error))?;
        Ok(text)
    })?;
    let total: u64 = files.iter().map(|file| file.size).sum();
    go_on(on_event(&PullEvent::Planned { files: files.len(), bytes: total }))?;

    let snapshot = cache::repo(&options.cache_dir, id).pointer_path(&listing.commit);
    let mut before = 0;
    for file in &files {
        transfer::fetch(&from, file, &blobs, &mut Reporter { file, before, total, on_event: &mut *on_event })?;
        before += file.size;
    }
    // Only now: a model that is named by its commit is there as soon as its folder is.
    for file in &files {
        link(&snapshot, file)?;
    }
    if id.revision() != listing.commit {
        let written = cache::repo(&options.cache_dir, id).create_ref(&listing.commit);
        written.map_err(|error| ModelError::io("refs", error))?;
    }
    Ok(Pulled { commit: listing.commit, snapshot, files: files.len(), bytes: total })
}

/// Without a connection: what the cache has.
fn cached(id: &HubId, options: &HubOptions) -> Result<Pulled> {
    let absent = || HubError::Offline { what: id.to_string() };
    let snapshot = cache::snapshot(&options.cache_dir, id).ok_or_else(absent)?;
    let commit = snapshot.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Pulled { commit, snapshot, files: 0, bytes: 0 })
}

fn retry<T>(options: &HubOptions, call: &mut dyn FnMut() -> Result<T, HubError>) -> Result<T> {
    let mut failures = 0;
    loop {
        let error = match call() {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        failures += 1;
        let passing =
            matches!(error, HubError::Server { .. } | HubError::RateLimited { .. } | HubError::Unreachable { .. });
        if !passing || failures >= options.attempts.clamp(1, 3) {
            return Err(match error {
                HubError::Server { what, status, .. } => HubError::Server { what, status, attempts: failures }.into(),
                other => other.into(),
            });
        }
        std::thread::sleep(options.backoff.saturating_mul(failures));
    }
}

/// `snapshots/<commit>/<name>` → `../../blobs/<blob>`, as every program of the shared cache expects.
fn link(snapshot: &Path, file: &Remote) -> Result<()> {
    let pointer = snapshot.join(&file.name);
    let io = |error| ModelError::io(&file.name, error);
    if let Some(parent) = pointer.parent() {
        std::fs::create_dir_all(parent).map_err(io)?;
    }
    let up = "../".repeat(file.name.split('/').count() + 1);
    let target = format!("{up}blobs/{}", file.blob);
    if std::fs::read_link(&pointer).is_ok_and(|found| found == Path::new(&target)) {
        return Ok(());
    }
    // A pointer to an older blob, or a copy.
    if pointer.symlink_metadata().is_ok() {
        std::fs::remove_file(&pointer).map_err(io)?;
    }
    place(&target, &pointer).map_err(io)
}

#[cfg(unix)]
fn place(target: &str, pointer: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, pointer)
}

/// Windows allows links to few users; a second name for the same bytes works for all.
#[cfg(not(unix))]
fn place(target: &str, pointer: &Path) -> std::io::Result<()> {
    let blob = pointer.parent().map(|dir| dir.join(target)).unwrap_or_default();
    std::fs::hard_link(&blob, pointer).or_else(|_| std::fs::copy(&blob, pointer).map(|_| ()))
}

/// Small files that the plan needs are not reported.
struct Silent;

impl Watch for Silent {
    fn at(&mut self, _done: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn retry(&mut self, _attempt: u32, _reason: &HubError, _wait: Duration) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

struct Reporter<'a, 'b> {
    file: &'a Remote,
    before: u64,
    total: u64,
    on_event: &'a mut OnEvent<'b>,
}

impl Watch for Reporter<'_, '_> {
    fn at(&mut self, done: u64) -> ControlFlow<()> {
        (self.on_event)(&PullEvent::Progress {
            file: self.file.name.clone(),
            done,
            size: self.file.size,
            total_done: self.before + done,
            total: self.total,
        })
    }

    fn retry(&mut self, attempt: u32, reason: &HubError, wait: Duration) -> ControlFlow<()> {
        let file = self.file.name.clone();
        (self.on_event)(&PullEvent::Retrying { file, attempt, reason: reason.to_string(), wait })
    }
}

fn go_on(flow: ControlFlow<()>) -> Result<()> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(HubError::Cancelled.into()),
    }
}
