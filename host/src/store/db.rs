//! The store's work itself, blocking; runs on the store's thread only.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, named_params, params};

use super::pictures::{Pictures, private_folder};
use super::record::{Image, JobRecord, JobState, ListFilter, Lookup, NewImage, NewJob, Page, check_id};
use super::{Recovery, StoreError, StoreOptions, schema};

type Result<T> = std::result::Result<T, StoreError>;

/// The state of a tombstone. It has no [`JobState`]: to everybody outside an expired job is gone.
const EXPIRED: &str = "expired";

/// What is read of a job. Not its request, which may be megabytes of pictures: only a job that comes back needs that.
const COLUMNS: &str = "seq, id, state, owner, priority, '' AS request, result, attempts, restores, created_ms, started_ms, finished_ms, expires_ms, webhook, fingerprint";

pub(super) struct Db {
    db: Connection,
    pictures: Pictures,
    options: StoreOptions,
    picture_bytes: u64,
    finished: u32,
}

impl Db {
    pub(super) fn open(folder: &Path, options: StoreOptions) -> Result<(Self, Recovery)> {
        private_folder(folder)?;
        let pictures = Pictures::open(folder)?;
        let (db, damaged) = schema::open(folder, options.max_database_bytes)?;
        db.execute("UPDATE jobs SET state = 'interrupted' WHERE state = 'running'", [])?;
        db.execute("UPDATE jobs SET restores = restores + 1 WHERE state IN ('queued', 'interrupted')", [])?;
        let mut this = Self { db, pictures, options, picture_bytes: 0, finished: 0 };
        let known: HashSet<String> = this
            .db
            .prepare("SELECT file FROM images")?
            .query_map([], |r| r.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        let files_removed = this.pictures.sweep(&known)?;
        this.picture_bytes =
            this.db.query_row("SELECT coalesce(sum(bytes), 0) FROM images", [], |r| r.get::<_, i64>(0))? as u64;
        this.finished = this.db.query_row(
            "SELECT count(*) FROM jobs WHERE state IN ('complete', 'error', 'cancelled')",
            [],
            |r| r.get(0),
        )?;
        let mut queued = this.jobs("WHERE state = 'queued' ORDER BY priority DESC, seq", [])?;
        let mut interrupted = this.jobs("WHERE state = 'interrupted' ORDER BY seq", [])?;
        for job in queued.iter_mut().chain(&mut interrupted) {
            job.request = this.db.query_row("SELECT request FROM jobs WHERE seq = ?1", [job.seq], |r| r.get(0))?;
        }
        let untold = this.jobs("WHERE notify = 1 AND state <> 'expired' ORDER BY seq", [])?;
        Ok((this, Recovery { queued, interrupted, untold, files_removed, damaged }))
    }

    fn now(&self) -> i64 {
        (self.options.clock)()
    }

    /// `Err(job)` inside `Ok` is the job that had the idempotency key already.
    pub(super) fn insert(&mut self, job: &NewJob) -> Result<std::result::Result<JobRecord, JobRecord>> {
        check_id(&job.id)?;
        if let Some(key) = &job.idempotency_key {
            if let Some(known) = self.by_key(&job.owner, key)? {
                return Ok(Err(known));
            }
            // The job of a former life of the key, if nobody has swept yet.
            let sql = "SELECT seq FROM jobs WHERE owner = ?1 AND idempotency = ?2";
            let over = self.db.prepare_cached(sql)?.query_row([&job.owner, key], |r| r.get(0)).optional()?;
            self.expire_jobs(over.as_slice())?;
        }
        let sql =
            "INSERT INTO jobs (id, state, owner, priority, idempotency, fingerprint, request, webhook, created_ms)
                   VALUES (?1, 'queued', ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (id) DO NOTHING";
        let (key, webhook) = (&job.idempotency_key, &job.webhook);
        let fingerprint = job.fingerprint.as_ref().map(|f| f.as_slice());
        let values = params![job.id, job.owner, job.priority, key, fingerprint, job.request, webhook, self.now()];
        match self.db.prepare_cached(sql)?.execute(values)? {
            0 => Err(StoreError::BadId),
            _ => self.live(&job.id).map(Ok),
        }
    }

    pub(super) fn start(&mut self, id: &str) -> Result<()> {
        let sql = "UPDATE jobs SET state = 'running', attempts = attempts + 1, started_ms = ?2
                   WHERE id = ?1 AND state IN ('queued', 'interrupted')";
        let changed = self.db.prepare_cached(sql)?.execute(params![id, self.now()])?;
        self.changed(id, changed)
    }

    /// `forgive`: the start does not count, since the job was not to blame for its end.
    pub(super) fn requeue(&mut self, id: &str, forgive: bool) -> Result<()> {
        let sql = "UPDATE jobs SET state = 'queued', attempts = max(0, attempts - ?2)
                   WHERE id = ?1 AND state IN ('running', 'interrupted')";
        let changed = self.db.prepare_cached(sql)?.execute(params![id, forgive])?;
        self.changed(id, changed)
    }

    /// The job that this owner's idempotency key made.
    pub(super) fn by_key(&self, owner: &str, key: &str) -> Result<Option<JobRecord>> {
        let condition = "WHERE owner = ?1 AND idempotency = ?2 AND coalesce(expires_ms > ?3, 1)";
        Ok(self.jobs(condition, params![owner, key, self.now()])?.pop())
    }

    /// The webhook of a job has been told, or given up.
    pub(super) fn notified(&mut self, id: &str) -> Result<()> {
        self.db.prepare_cached("UPDATE jobs SET notify = 0 WHERE id = ?1")?.execute([id])?;
        Ok(())
    }

    /// Expires a job that has ended before its time.
    pub(super) fn forget(&mut self, id: &str) -> Result<()> {
        let job = self.live(id)?;
        if !job.state.is_terminal() {
            return Err(StoreError::Conflict { state: job.state.word() });
        }
        self.expire_jobs(&[job.seq])
    }

    /// Removes a job without a trace, because it was never taken.
    pub(super) fn withdraw(&mut self, id: &str) -> Result<()> {
        self.db.prepare_cached("DELETE FROM jobs WHERE id = ?1 AND state = 'queued'")?.execute([id])?;
        Ok(())
    }

    /// Ends a job. Its pictures are on the disk before the job is said to be complete.
    pub(super) fn finish(&mut self, id: &str, state: JobState, result: &str, images: &[NewImage]) -> Result<()> {
        self.unfinished(id)?;
        let files = self.pictures.write_all(id, images)?;
        self.finish_written(id, state, result, images, &files)
    }

    /// The job, if it has not ended.
    pub(super) fn unfinished(&self, id: &str) -> Result<JobRecord> {
        let job = self.live(id)?;
        if job.state.is_terminal() { Err(StoreError::Conflict { state: job.state.word() }) } else { Ok(job) }
    }

    /// Ends a job whose pictures have been written to `files`. They are removed when that fails.
    pub(super) fn finish_written(
        &mut self,
        id: &str,
        state: JobState,
        result: &str,
        images: &[NewImage],
        files: &[String],
    ) -> Result<()> {
        // One that has ended has pictures of its own under these names.
        let job = self.unfinished(id)?;
        let done = match state.is_terminal() {
            true => self.record_end(&job, state, result, images, files),
            false => Err(StoreError::Conflict { state: job.state.word() }),
        };
        if done.is_err() {
            files.iter().for_each(|file| self.pictures.remove(file));
            return done;
        }
        self.picture_bytes += images.iter().map(|i| i.bytes.len() as u64).sum::<u64>();
        self.finished += 1;
        if let Err(e) = self.shrink(job.seq) {
            // The job itself is safe; what is too much goes at the next end.
            tracing::warn!(error = %e, "jobs beyond the bounds cannot be removed now");
        }
        Ok(())
    }

    /// The folder of pictures, for writing them elsewhere than on the store's thread.
    pub(super) fn pictures(&self) -> Pictures {
        self.pictures.clone()
    }

    fn record_end(
        &mut self,
        job: &JobRecord,
        state: JobState,
        result: &str,
        images: &[NewImage],
        files: &[String],
    ) -> Result<()> {
        let now = self.now();
        let expires = now.saturating_add(ms(self.options.time_to_live));
        let change = self.db.transaction()?;
        change
            .prepare_cached(
                // The request may hold megabytes of pictures that nobody needs any more.
                "UPDATE jobs SET state = ?2, result = ?3, request = '', notify = webhook IS NOT NULL,
                 finished_ms = ?4, expires_ms = ?5 WHERE seq = ?1",
            )?
            .execute(params![job.seq, state.word(), result, now, expires])?;
        for (index, (image, file)) in images.iter().zip(files).enumerate() {
            change
                .prepare_cached(
                    "INSERT INTO images (job, number, file, media_type, bytes) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![job.seq, index as i64, file, image.media_type, image.bytes.len() as i64])?;
        }
        Ok(change.commit()?)
    }

    /// Expires the jobs that ended first until pictures and jobs fit their bounds. The newest stays, whatever its size.
    fn shrink(&mut self, newest: i64) -> Result<()> {
        loop {
            let many = self.finished > self.options.max_finished;
            if !many && self.picture_bytes <= self.options.max_picture_bytes {
                return Ok(());
            }
            let sql = "SELECT seq FROM jobs WHERE seq <> ?1 AND state IN ('complete', 'error', 'cancelled')
                       AND (?2 OR EXISTS (SELECT 1 FROM images WHERE job = seq)) ORDER BY finished_ms, seq LIMIT 1";
            let oldest =
                self.db.prepare_cached(sql)?.query_row(params![newest, many], |r| r.get::<_, i64>(0)).optional()?;
            let Some(seq) = oldest else {
                return Ok(());
            };
            self.expire_jobs(&[seq])?;
        }
    }

    /// Expires what is due, a bounded number at once, and returns how many.
    pub(super) fn expire(&mut self) -> Result<usize> {
        let now = self.now();
        let due: Vec<i64> = self
            .db
            .prepare_cached("SELECT seq FROM jobs WHERE expires_ms <= ?1 AND state <> 'expired' LIMIT 500")?
            .query_map([now], |r| r.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        self.expire_jobs(&due)?;
        // A tombstone's `expires_ms` is when it is forgotten.
        self.db.prepare_cached("DELETE FROM jobs WHERE state = 'expired' AND expires_ms <= ?1")?.execute([now])?;
        let sql = "DELETE FROM jobs WHERE state = 'expired' AND seq <=
                   (SELECT seq FROM jobs WHERE state = 'expired' ORDER BY seq DESC LIMIT 1 OFFSET ?1)";
        self.db.prepare_cached(sql)?.execute([self.options.max_expired])?;
        if !due.is_empty() {
            // The write-ahead log still holds the prompts that have just expired.
            self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        }
        Ok(due.len())
    }

    fn expire_jobs(&mut self, jobs: &[i64]) -> Result<()> {
        if jobs.is_empty() {
            return Ok(());
        }
        let forget = self.now().saturating_add(ms(self.options.remember_expired));
        let mut gone = Vec::new();
        let change = self.db.transaction()?;
        for seq in jobs {
            let mut images = change.prepare_cached("DELETE FROM images WHERE job = ?1 RETURNING file, bytes")?;
            for image in images.query_map([seq], |r| Ok((r.get::<_, String>(0)?, r.get::<_, i64>(1)?)))? {
                gone.push(image?);
            }
            let sql = "UPDATE jobs SET state = ?2, request = '', result = NULL, idempotency = NULL, fingerprint = NULL, webhook = NULL, notify = 0,
                       expires_ms = ?3 WHERE seq = ?1";
            change.prepare_cached(sql)?.execute(params![seq, EXPIRED, forget])?;
        }
        change.commit()?;
        self.finished = self.finished.saturating_sub(u32::try_from(jobs.len()).unwrap_or(u32::MAX));
        // After the commit: a crash in between leaves files that the next start sweeps, never a job without its picture.
        for (file, bytes) in gone {
            self.pictures.remove(&file);
            self.picture_bytes = self.picture_bytes.saturating_sub(bytes as u64);
        }
        Ok(())
    }

    pub(super) fn get(&self, id: &str) -> Result<Lookup> {
        let sql = "SELECT state = 'expired' OR coalesce(expires_ms <= ?2, 0) FROM jobs WHERE id = ?1";
        let over: Option<bool> =
            self.db.prepare_cached(sql)?.query_row(params![id, self.now()], |r| r.get(0)).optional()?;
        match over {
            None => Ok(Lookup::Unknown),
            // Its time is over even if nobody has swept yet.
            Some(true) => Ok(Lookup::Expired),
            Some(false) => Ok(Lookup::Found(Box::new(self.live(id)?))),
        }
    }

    pub(super) fn image(&self, id: &str, index: u32) -> Result<Option<(Image, Bytes)>> {
        let Some(job) = self.get(id)?.found() else { return Ok(None) };
        let Some(image) = job.images.into_iter().find(|i| i.index == index) else { return Ok(None) };
        match self.pictures.read(&image.file, image.bytes) {
            Ok(data) => Ok(Some((image, data.into()))),
            Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::InvalidData) => {
                tracing::error!(job_id = id, index, error = %e, "a picture file is missing or damaged");
                Ok(None)
            }
            Err(e) => Err(e.into()),
        }
    }

    pub(super) fn list(&self, filter: &ListFilter) -> Result<Page> {
        let limit = filter.limit.clamp(1, 1000) as usize;
        let sql = format!(
            "SELECT {COLUMNS} FROM jobs WHERE state <> 'expired' AND (:state IS NULL OR state = :state)
             AND (:owner IS NULL OR owner = :owner) AND coalesce(expires_ms > :now, 1) AND (:before IS NULL OR seq < :before) ORDER BY seq DESC LIMIT :limit"
        );
        let state = filter.state.map(JobState::word);
        let values = named_params! {
            ":state": state, ":owner": filter.owner, ":before": filter.before, ":limit": limit as i64 + 1, ":now": self.now(),
        };
        let mut query = self.db.prepare_cached(&sql)?;
        let mut jobs: Vec<JobRecord> = query.query_map(values, record)?.collect::<rusqlite::Result<_>>()?;
        let more = jobs.len() > limit;
        jobs.truncate(limit);
        for job in &mut jobs {
            job.images = self.images(job.seq)?;
        }
        let next = jobs.last().filter(|_| more).map(|job| job.seq);
        Ok(Page { jobs, next })
    }

    /// The job of this id, unless it is expired.
    fn live(&self, id: &str) -> Result<JobRecord> {
        self.jobs("WHERE id = ?1 AND state <> 'expired'", [id])?.pop().ok_or(StoreError::Unknown)
    }

    fn jobs(&self, condition: &str, values: impl rusqlite::Params) -> Result<Vec<JobRecord>> {
        let mut query = self.db.prepare_cached(&format!("SELECT {COLUMNS} FROM jobs {condition}"))?;
        let mut jobs: Vec<JobRecord> = query.query_map(values, record)?.collect::<rusqlite::Result<_>>()?;
        for job in &mut jobs {
            job.images = self.images(job.seq)?;
        }
        Ok(jobs)
    }

    fn images(&self, seq: i64) -> Result<Vec<Image>> {
        let sql = "SELECT number, media_type, bytes, file FROM images WHERE job = ?1 ORDER BY number";
        let image = |r: &Row<'_>| {
            let bytes: i64 = r.get(2)?;
            Ok(Image { index: r.get(0)?, media_type: r.get(1)?, bytes: bytes as u64, file: r.get(3)? })
        };
        Ok(self.db.prepare_cached(sql)?.query_map([seq], image)?.collect::<rusqlite::Result<_>>()?)
    }

    /// Turns "no row was changed" into the reason.
    fn changed(&self, id: &str, rows: usize) -> Result<()> {
        if rows == 1 { Ok(()) } else { Err(StoreError::Conflict { state: self.live(id)?.state.word() }) }
    }

    /// Whether the store can be written: a small picture and the database.
    pub(super) fn check(&mut self) -> Result<()> {
        self.pictures.probe()?;
        let probe: Transaction<'_> = self.db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let version: i64 = probe.pragma_query_value(None, "user_version", |r| r.get(0))?;
        probe.pragma_update(None, "user_version", version)?;
        Ok(probe.commit()?)
    }
}

fn ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// A row of [`COLUMNS`], still without pictures.
fn record(r: &Row<'_>) -> rusqlite::Result<JobRecord> {
    let state: String = r.get(2)?;
    let state = JobState::from_word(&state)
        .ok_or_else(|| rusqlite::Error::InvalidColumnType(2, "state".into(), rusqlite::types::Type::Text))?;
    Ok(JobRecord {
        seq: r.get(0)?,
        id: r.get(1)?,
        state,
        owner: r.get(3)?,
        priority: r.get(4)?,
        request: r.get(5)?,
        result: r.get(6)?,
        attempts: r.get(7)?,
        restores: r.get(8)?,
        created_ms: r.get(9)?,
        started_ms: r.get(10)?,
        finished_ms: r.get(11)?,
        expires_ms: r.get(12)?,
        webhook: r.get(13)?,
        fingerprint: r.get::<_, Option<Vec<u8>>>(14)?.and_then(|f| f.try_into().ok()),
        images: Vec::new(),
    })
}
