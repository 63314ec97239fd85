//! Between the jobs in memory and the store on disk: what is written down when, and how a job looks that is only there.
//!
//! A job is written down before its acceptance is answered, when it starts, and before its end is told. So whatever a
//! client has heard is still true after `kill -9`. When the store cannot be written, running and waiting jobs go on in
//! memory and new ones are refused: an acceptance is a promise.

use crate::{
    fault::{Fault, FaultCode},
    jobs::{
        Ending, Idempotency, Job, JobId, JobSpec, JobState, Keeper, Operation, Origin, OutputFormat, Past, Picture,
        view,
    },
    store::{self, JobRecord, ListFilter, NewImage, NewJob, Recovery, Store, StoreError, StoreHandle, StoreOptions},
};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

/// What becomes of a job that was running when the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum OnRestart {
    /// It runs again, once.
    #[default]
    Rerun,
    /// It ends with the error `interrupted`.
    Report,
}

/// The keeper of all jobs.
#[derive(Debug)]
pub struct Ledger {
    store: Store,
    handle: Mutex<Option<StoreHandle>>,
    /// Why the store could not be written last time.
    trouble: Mutex<Option<StoreError>>,
    on_restart: OnRestart,
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Fault::new(FaultCode::StorageUnavailable, error.to_string())
    }
}

impl Ledger {
    /// Opens the store and says what it holds. Blocks.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn open(folder: &Path, options: StoreOptions, on_restart: OnRestart) -> Result<(Ledger, Recovery), StoreError> {
        let (store, handle, recovery) = Store::open(folder, options)?;
        if recovery.damaged {
            tracing::error!(
                "the job database was damaged; it is set aside as jobs.db.damaged, and the store begins empty"
            );
        }
        let ledger = Ledger { store, handle: Mutex::new(Some(handle)), trouble: Mutex::default(), on_restart };
        Ok((ledger, recovery))
    }

    /// What becomes of interrupted jobs.
    pub fn on_restart(&self) -> OnRestart {
        self.on_restart
    }

    /// Why new jobs cannot be written down, as far as is known.
    pub fn trouble(&self) -> Option<StoreError> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<StoreError>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers how a write went, and says it when that has changed.
    fn heed<T>(&self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        let mut trouble = self.lock();
        match &outcome {
            Ok(_) if trouble.take().is_some() => tracing::info!("the state directory can be written again"),
            Ok(_) | Err(StoreError::Unknown | StoreError::Conflict { .. } | StoreError::BadId | StoreError::Closed) => {
            }
            Err(e) => {
                if trouble.as_ref() != Some(e) {
                    tracing::error!(code = e.code(), "new jobs are refused until this is mended: {e}");
                }
                *trouble = Some(e.clone());
            }
        }
        outcome
    }

    /// Tries whether the store can be written, if it could not be.
    pub async fn probe(&self) {
        if self.trouble().is_some() {
            // The outcome is remembered.
            let _ = self.heed(self.store.check().await);
        }
    }

    /// Writes a new job down. `Some` is the job that its idempotency key had made before.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn accept(
        &self,
        job: &Job,
        request: String,
        idempotency: Option<Idempotency>,
    ) -> Result<Option<Kept>, StoreError> {
        let (idempotency_key, fingerprint) = idempotency.map(|i| (i.key, i.fingerprint)).unzip();
        let new = NewJob {
            id: job.id.to_string(),
            request,
            owner: job.owner.clone(),
            priority: i32::from(job.spec.priority),
            idempotency_key,
            fingerprint,
            webhook: job.spec.webhook.clone(),
        };
        Ok(self.heed(self.store.insert(new).await)?.err().map(Kept::of))
    }

    /// Takes an acceptance back that was not answered.
    pub async fn withdraw(&self, job: &Job) {
        if let Err(e) = self.store.withdraw(job.id.as_str()).await {
            tracing::warn!(job_id = %job.id, code = e.code(), "a refused job could not be removed: {e}");
        }
    }

    /// The job of an id, as it is written.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn find(&self, id: &str) -> Result<Found, StoreError> {
        Ok(match self.store.get(id).await? {
            store::Lookup::Found(record) => Found::Kept(Box::new(Kept::of(*record))),
            store::Lookup::Expired => Found::Gone,
            store::Lookup::Unknown => Found::Unknown,
        })
    }

    /// The job that an owner's idempotency key made.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn by_key(&self, owner: &str, key: &str) -> Result<Option<Kept>, StoreError> {
        Ok(self.store.by_key(owner, key).await?.map(Kept::of))
    }

    /// A finished picture and its media type.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn picture(&self, id: &str, index: u32) -> Result<Option<(String, Bytes)>, StoreError> {
        Ok(self.store.image(id, index).await?.map(|(image, bytes)| (image.media_type, bytes)))
    }

    /// A job that is only written down, with its pictures and its last event, for those who read it as a job.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn revive(&self, kept: Kept) -> Result<Arc<Job>, StoreError> {
        let details = kept.details();
        let text = |name: &str| details[name].as_str().unwrap_or_default();
        let number = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        let mut pictures = Vec::new();
        for (index, about) in details["images"].as_array().into_iter().flatten().enumerate() {
            let Some((media_type, bytes)) = self.picture(&kept.record.id, index as u32).await? else { continue };
            pictures.push(Picture {
                bytes: Arc::new(bytes.to_vec()),
                media_type: format_of(&media_type).media_type(),
                seed: about["seed"].as_u64().unwrap_or(0),
                width: number(&about["width"]),
                height: number(&about["height"]),
                infotext: "".into(),
            });
        }
        let spec = JobSpec {
            operation: Operation::parse(text("operation")).unwrap_or_default(),
            model: text("model").to_owned(),
            width: number(&details["width"]),
            height: number(&details["height"]),
            steps: number(&details["steps"]),
            seed: details["seed"].as_u64().unwrap_or(0),
            n: number(&details["n"]),
            format: pictures.first().map_or_else(OutputFormat::default, |p| format_of(p.media_type)),
            ..JobSpec::default()
        };
        let last = kept.last_event();
        let id = JobId::parse(&kept.record.id).ok_or(StoreError::BadId)?;
        let created = UNIX_EPOCH + Duration::from_millis(u64::try_from(kept.record.created_ms).unwrap_or(0));
        let last_event = last.as_ref().map_or(0, |(id, ..)| id.saturating_sub(1));
        let past = Past { id, created, last_event };
        let owner = kept.record.owner.clone();
        Ok(match last {
            Some((_, _, fields)) => Job::ended_before(past, owner, spec, kept.state(), pictures, fields),
            None => {
                let job = Job::with_past(past, owner, spec, Origin::default());
                job.suspend();
                job
            }
        })
    }

    /// Jobs of an owner, newest first, and the cursor of the next page.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn list(
        &self,
        owner: &str,
        state: Option<JobState>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<(Vec<Kept>, bool), StoreError> {
        let filter = ListFilter { state: state.map(word), owner: Some(owner.to_owned()), before, limit };
        let page = self.store.list(filter).await?;
        Ok((page.jobs.into_iter().map(Kept::of).collect(), page.next.is_some()))
    }

    /// Forgets a job that has ended.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn forget(&self, id: &str) -> Result<(), StoreError> {
        self.store.forget(id).await
    }

    /// The webhook of a job has been told, or given up. Never blocks.
    pub fn notified(&self, id: &str) {
        self.store.notified(id);
    }

    /// Waits until everything sent so far is written.
    pub async fn settled(&self) {
        self.store.settled().await;
    }

    /// An interrupted job is to run again. Blocks.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn requeue(&self, id: &str) -> Result<(), StoreError> {
        self.heed(self.store.requeue(id, false))
    }

    /// Ends a job of which only the record is left. Blocks.
    pub fn report(&self, record: &JobRecord, model: &str, fault: &Fault) {
        let job = view::lost(&record.id, model, seconds(record.created_ms), record.priority, fault);
        let event = json!({ "name": "error", "id": first_event(record) + 1, "fields": view::failed(fault) });
        let result = json!({ "job": job, "event": event });
        let outcome = self.store.finish(&record.id, store::JobState::Error, result.to_string(), Vec::new());
        if let Err(e) = self.heed(outcome) {
            tracing::warn!(job_id = record.id, code = e.code(), "the end of a job could not be kept: {e}");
        }
    }

    /// Waits until everything is written and closes the store, at most `limit`. Blocks.
    pub fn close(&self, limit: Duration) {
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(handle) = handle
            && !handle.close(limit)
        {
            tracing::error!("the job store did not finish its last writes in time");
        }
    }
}

/// The number before a restored job's first event. Each program that finds the job unfinished begins a new range, so that
/// no number is ever given twice; a job has far fewer events than a range has numbers.
pub fn first_event(record: &JobRecord) -> u64 {
    u64::from(record.restores) << 20
}

fn word(state: JobState) -> store::JobState {
    match state {
        JobState::Queued => store::JobState::Queued,
        JobState::Running => store::JobState::Running,
        JobState::Completed => store::JobState::Complete,
        JobState::Failed => store::JobState::Error,
        JobState::Cancelled => store::JobState::Cancelled,
    }
}

fn format_of(media_type: &str) -> OutputFormat {
    match media_type {
        "image/jpeg" => OutputFormat::Jpeg(0),
        "image/webp" => OutputFormat::Webp(0),
        _ => OutputFormat::Png,
    }
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

impl Keeper for Ledger {
    fn started(&self, job: &Job) {
        if let Err(e) = self.heed(self.store.start(job.id.as_str())) {
            tracing::warn!(code = e.code(), "the start of a job could not be kept: {e}");
        }
    }

    fn ended(&self, job: &Job, ending: &Ending) {
        let event = json!({ "name": ending.event, "id": ending.event_id, "fields": ending.fields });
        let result = json!({ "job": view::ended(job, ending), "event": event }).to_string();
        let (id, state) = (job.id.as_str(), word(ending.state));
        if !ending.ran {
            self.store.finish_soon(id, state, result, job.kept_flag());
            return;
        }
        let extension = job.spec.format.extension();
        let images = ending
            .pictures
            .iter()
            .map(|p| NewImage { media_type: p.media_type, extension, bytes: Bytes::copy_from_slice(&p.bytes) })
            .collect();
        match self.heed(self.store.finish(id, state, result, images)) {
            Ok(()) => job.set_kept(),
            Err(e) => tracing::error!(code = e.code(), "the end of a job is kept in memory only: {e}"),
        }
    }

    fn released(&self, job: &Job) {
        if let Err(e) = self.heed(self.store.requeue(job.id.as_str(), true)) {
            tracing::warn!(code = e.code(), "a job could not be put back: {e}");
        }
    }
}

/// What the store knows about an id.
#[derive(Debug)]
pub enum Found {
    /// The job.
    Kept(Box<Kept>),
    /// It ended and its time is over.
    Gone,
    /// There was no such job.
    Unknown,
}

/// A job as it is written down.
#[derive(Debug)]
pub struct Kept {
    /// The record.
    pub record: JobRecord,
    result: Value,
}

impl Kept {
    /// A record, read.
    pub fn of(record: JobRecord) -> Kept {
        let result = record.result.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        Kept { record, result }
    }

    /// Where it stands.
    pub fn state(&self) -> JobState {
        match self.record.state {
            store::JobState::Queued | store::JobState::Interrupted => JobState::Queued,
            store::JobState::Running => JobState::Running,
            store::JobState::Complete => JobState::Completed,
            store::JobState::Error => JobState::Failed,
            store::JobState::Cancelled => JobState::Cancelled,
        }
    }

    /// The long form, as when it ended.
    pub fn details(&self) -> Value {
        match self.result.get("job") {
            Some(job) => job.clone(),
            None => json!({
                "job_id": self.record.id, "status": self.state().as_str(), "created": seconds(self.record.created_ms),
                "priority": self.record.priority,
            }),
        }
    }

    /// The short form.
    pub fn summary(&self) -> Value {
        view::shorten(&self.details())
    }

    /// The last event's number, name and fields; the picture of a complete job is not among them.
    pub fn last_event(&self) -> Option<(u64, String, Map<String, Value>)> {
        let event = self.result.get("event")?;
        Some((event["id"].as_u64()?, event["name"].as_str()?.to_owned(), event["fields"].as_object()?.clone()))
    }
}
