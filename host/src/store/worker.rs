//! The store's thread, and the handle through which the async parts use it.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::db::Db;
use super::{
    Image, JobRecord, JobState, ListFilter, Lookup, NewImage, NewJob, Page, Recovery, StoreError, StoreOptions,
};

/// How often the thread looks for expired jobs.
const EXPIRY_PERIOD: Duration = Duration::from_secs(30);

struct Call {
    work: Box<dyn FnOnce(&mut Db) + Send>,
    // A place in the bounded queue, given back once the work is done.
    _place: OwnedSemaphorePermit,
}

/// The async face of the store. Cheap to clone; the thread ends when the last clone is gone.
///
/// A call that is dropped before its answer is still carried out.
#[derive(Clone, Debug)]
pub struct Store {
    calls: Sender<Call>,
    places: Arc<Semaphore>,
}

/// Waits for the store's thread, so that its last writes are done before the program ends.
#[derive(Debug)]
pub struct StoreHandle {
    thread: Option<JoinHandle<()>>,
}

impl StoreHandle {
    /// Waits until every [`Store`] is dropped and the database is closed. Blocks.
    pub fn join(mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic of the thread is in the log.
            let _ = thread.join();
        }
    }
}

impl Store {
    /// Opens the store in `folder`, which is created if need be. Blocks: call it before the runtime serves.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn open(folder: &Path, options: StoreOptions) -> Result<(Self, StoreHandle, Recovery), StoreError> {
        let places = Arc::new(Semaphore::new(options.queue.max(1)));
        let (mut db, recovery) = Db::open(folder, options)?;
        let (calls, receiver) = channel();
        let thread = std::thread::Builder::new().name("store".into()).spawn(move || run(&mut db, &receiver))?;
        Ok((Self { calls, places }, StoreHandle { thread: Some(thread) }, recovery))
    }

    /// Keeps a new job in state queued. `Ok(Err(job))` is the job that the idempotency key had already made.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn insert(&self, job: NewJob) -> Result<Result<JobRecord, JobRecord>, StoreError> {
        self.call(move |db| db.insert(&job)).await
    }

    /// A queued or interrupted job starts to run.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] in any other state.
    pub async fn start(&self, id: &str) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.call(move |db| db.start(&id)).await
    }

    /// A running or interrupted job is to wait again.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] in any other state.
    pub async fn requeue(&self, id: &str) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.call(move |db| db.requeue(&id)).await
    }

    /// Ends a job with a terminal `state`, its result as JSON, and its pictures.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if it has ended before; on any error nothing of this has happened.
    pub async fn finish(
        &self,
        id: &str,
        state: JobState,
        result: String,
        images: Vec<NewImage>,
    ) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.call(move |db| db.finish(&id, state, &result, &images)).await
    }

    /// Where a job is.
    ///
    /// # Errors
    /// See [`StoreError`]; an unknown job is none.
    pub async fn get(&self, id: &str) -> Result<Lookup, StoreError> {
        let id = id.to_owned();
        self.call(move |db| db.get(&id)).await
    }

    /// A picture and its bytes; `None` if there is none.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn image(&self, id: &str, index: u32) -> Result<Option<(Image, Bytes)>, StoreError> {
        let id = id.to_owned();
        self.call(move |db| db.image(&id, index)).await
    }

    /// Jobs, newest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn list(&self, filter: ListFilter) -> Result<Page, StoreError> {
        self.call(move |db| db.list(&filter)).await
    }

    /// Expires what is due now, and returns how many jobs. The thread does so by itself every half minute.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn expire(&self) -> Result<usize, StoreError> {
        self.call(Db::expire).await
    }

    /// Whether the store can be written.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn check(&self) -> Result<(), StoreError> {
        self.call(Db::check).await
    }

    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Db) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let place = self.places.clone().acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let (sender, answer) = oneshot::channel();
        let work = Box::new(move |db: &mut Db| {
            // Nobody waits any more if the caller was dropped; the work is done all the same.
            let _ = sender.send(work(db));
        });
        self.calls.send(Call { work, _place: place }).map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

fn run(db: &mut Db, calls: &Receiver<Call>) {
    let mut swept = Instant::now();
    loop {
        match calls.recv_timeout(EXPIRY_PERIOD) {
            Ok(call) => {
                // One bad call must not end the store for all others. SQLite rolls back what was open.
                let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (call.work)(db)));
                if done.is_err() {
                    tracing::error!("a call to the job store panicked");
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if swept.elapsed() >= EXPIRY_PERIOD {
            swept = Instant::now();
            if let Err(e) = db.expire() {
                tracing::warn!(error = %e, "expired jobs cannot be removed now");
            }
        }
    }
}
