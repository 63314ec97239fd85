//! The store's thread, and the handle through which the async parts use it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::db::Db;
use super::pictures::Pictures;
use super::{
    Image, JobRecord, JobState, ListFilter, Lookup, NewImage, NewJob, Page, Recovery, StoreError, StoreOptions,
};

/// How often the thread looks for expired jobs.
const EXPIRY_PERIOD: Duration = Duration::from_secs(30);

enum Message {
    Call {
        work: Work,
        /// A place in the bounded queue, given back once the work is done. Threads that wait for each call need none.
        _place: Option<OwnedSemaphorePermit>,
    },
    /// Nothing is done after this.
    Close,
}

type Work = Box<dyn FnOnce(&mut Db) + Send>;

/// The async face of the store. Cheap to clone; the thread ends when the last clone is gone.
///
/// A call that is dropped before its answer is still carried out.
#[derive(Clone, Debug)]
pub struct Store {
    calls: Sender<Message>,
    places: Arc<Semaphore>,
    pictures: Pictures,
}

/// Ends the store's thread, so that its last writes are done before the program ends.
#[derive(Debug)]
pub struct StoreHandle {
    thread: JoinHandle<()>,
    calls: Sender<Message>,
}

impl StoreHandle {
    /// Waits until every call made so far is done and the database is closed, at most `limit`. Later calls fail with
    /// [`StoreError::Closed`]. Blocks. `false` when the time was too short.
    pub fn close(self, limit: Duration) -> bool {
        // The thread has ended already if nobody takes it.
        let _ = self.calls.send(Message::Close);
        let until = Instant::now() + limit;
        while !self.thread.is_finished() {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
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
        let pictures = db.pictures();
        let (calls, receiver) = channel();
        let thread = std::thread::Builder::new().name("store".into()).spawn(move || run(&mut db, &receiver))?;
        let handle = StoreHandle { thread, calls: calls.clone() };
        Ok((Self { calls, places, pictures }, handle, recovery))
    }

    /// Keeps a new job in state queued. `Ok(Err(job))` is the job that the idempotency key had already made.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn insert(&self, job: NewJob) -> Result<Result<JobRecord, JobRecord>, StoreError> {
        self.call(move |db| db.insert(&job)).await
    }

    /// A queued or interrupted job starts to run. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] in any other state.
    pub fn start(&self, id: &str) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.call_blocking(move |db| db.start(&id))
    }

    /// A running or interrupted job is to wait again; with `forgive` its start does not count. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] in any other state.
    pub fn requeue(&self, id: &str, forgive: bool) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.call_blocking(move |db| db.requeue(&id, forgive))
    }

    /// Ends a job with a terminal `state`, its result as JSON, and its pictures. Blocks. The caller's thread writes the
    /// pictures and waits for the disk, so that those who send jobs meanwhile do not.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if it has ended before; on any error nothing of this has happened.
    pub fn finish(&self, id: &str, state: JobState, result: String, images: Vec<NewImage>) -> Result<(), StoreError> {
        let id = id.to_owned();
        let known = id.clone();
        self.call_blocking(move |db| db.unfinished(&known).map(|_| ()))?;
        let files = self.pictures.write_all(&id, &images)?;
        self.call_blocking(move |db| db.finish_written(&id, state, &result, &images, &files))
    }

    /// Ends a job without pictures, some time soon: nobody waits for the answer. Calls made later come later. `done` is
    /// set once it is written.
    pub fn finish_soon(&self, id: &str, state: JobState, result: String, done: Arc<AtomicBool>) {
        let id = id.to_owned();
        let work = Box::new(move |db: &mut Db| match db.finish(&id, state, &result, &[]) {
            Ok(()) => done.store(true, Ordering::Release),
            Err(e) => tracing::warn!(job_id = id, code = e.code(), "the end of a job could not be kept: {e}"),
        });
        // The store closes only when the program ends.
        let _ = self.calls.send(Message::Call { work, _place: None });
    }

    /// The webhook of a job has been told, or given up. Some time soon: nobody waits for the answer.
    pub fn notified(&self, id: &str) {
        let id = id.to_owned();
        let work = Box::new(move |db: &mut Db| {
            if let Err(e) = db.notified(&id) {
                tracing::warn!(job_id = id, code = e.code(), "a webhook may be told again after a restart: {e}");
            }
        });
        // The store closes only when the program ends.
        let _ = self.calls.send(Message::Call { work, _place: None });
    }

    /// The job that an owner's idempotency key made.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn by_key(&self, owner: &str, key: &str) -> Result<Option<JobRecord>, StoreError> {
        let (owner, key) = (owner.to_owned(), key.to_owned());
        self.call(move |db| db.by_key(&owner, &key)).await
    }

    /// Expires an ended job before its time.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if it has not ended.
    pub async fn forget(&self, id: &str) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.call(move |db| db.forget(&id)).await
    }

    /// Removes a waiting job without a trace, because it was never taken.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn withdraw(&self, id: &str) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.call(move |db| db.withdraw(&id)).await
    }

    /// Waits until all calls made so far are done.
    pub async fn settled(&self) {
        // A closed store has done all it will do.
        let _ = self.call(|_| Ok(())).await;
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
        self.calls.send(Message::Call { work, _place: Some(place) }).map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// For threads outside the async runtime.
    fn call_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Db) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (sender, answer) = channel();
        let work = Box::new(move |db: &mut Db| {
            // The caller waits below, so somebody takes it.
            let _ = sender.send(work(db));
        });
        self.calls.send(Message::Call { work, _place: None }).map_err(|_| StoreError::Closed)?;
        answer.recv().map_err(|_| StoreError::Closed)?
    }
}

fn run(db: &mut Db, calls: &Receiver<Message>) {
    let mut swept = Instant::now();
    loop {
        match calls.recv_timeout(EXPIRY_PERIOD) {
            Ok(Message::Close) | Err(RecvTimeoutError::Disconnected) => return,
            Ok(Message::Call { work, _place }) => {
                // One bad call must not end the store for all others. SQLite rolls back what was open.
                let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(db)));
                if done.is_err() {
                    tracing::error!("a call to the job store panicked");
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if swept.elapsed() >= EXPIRY_PERIOD {
            swept = Instant::now();
            if let Err(e) = db.expire() {
                tracing::warn!(error = %e, "expired jobs cannot be removed now");
            }
        }
    }
}
