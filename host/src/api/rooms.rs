//! Work that is too long for the HTTP threads, a bounded part of it at a time: pictures to decode, files to look at, large
//! answers to write; and, apart from these, what waits for a device.
//!
//! A decoded picture is a thousand times as large as its file can be. However many requests come at once, no more pictures
//! are worked on than the machine has cores; the others wait with what they have sent.

use super::App;
use crate::fault::Fault;
use std::sync::Arc;
use tokio::{sync::Semaphore, task::JoinHandle};

/// Loads and other questions to a device at a time. Each may take minutes, so that they have places of their own.
const WAIT_FOR_DEVICES: usize = 8;

/// The places for such work.
#[derive(Debug)]
pub(crate) struct Rooms {
    work: Arc<Semaphore>,
    devices: Arc<Semaphore>,
}

impl Default for Rooms {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Rooms { work: Arc::new(Semaphore::new(cores)), devices: Arc::new(Semaphore::new(WAIT_FOR_DEVICES)) }
    }
}

/// Does work off the runtime, once there is a place. It must not wait for other work of this kind.
pub(crate) async fn off_runtime<T: Send + 'static>(
    app: &Arc<App>,
    work: impl FnOnce(&Arc<App>) -> T + Send + 'static,
) -> Result<T, Fault> {
    let app = app.clone();
    let places = app.rooms.work.clone();
    ended(begin(places, move || work(&app)).await.await)
}

/// The same for work that waits for a device. It goes on when nobody waits for it any more.
pub(crate) async fn on_device<T: Send + 'static>(
    app: &Arc<App>,
    work: impl FnOnce(&Arc<App>) -> T + Send + 'static,
) -> Result<T, Fault> {
    ended(begin_on_device(app, work).await.await)
}

/// Begins work that waits for a device.
pub(crate) async fn begin_on_device<T: Send + 'static>(
    app: &Arc<App>,
    work: impl FnOnce(&Arc<App>) -> T + Send + 'static,
) -> JoinHandle<T> {
    let app = app.clone();
    let places = app.rooms.devices.clone();
    begin(places, move || work(&app)).await
}

/// What work that was begun came to.
pub(crate) fn ended<T>(joined: Result<T, tokio::task::JoinError>) -> Result<T, Fault> {
    joined.map_err(|_| Fault::internal("the work on this request ended early; the log says why"))
}

/// Waits for a place, which the work keeps to its end even if nobody waits for it any more.
async fn begin<T: Send + 'static>(places: Arc<Semaphore>, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    // The places are never closed.
    let place = places.acquire_owned().await.ok();
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || {
        let _place = place;
        span.in_scope(work)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    #[tokio::test]
    async fn no_more_is_done_at_once_than_there_are_places() {
        let places = Arc::new(Semaphore::new(3));
        let (now, most): (Arc<AtomicUsize>, Arc<AtomicUsize>) = Default::default();
        let one = || {
            let (now, most) = (now.clone(), most.clone());
            begin(places.clone(), move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(5));
                now.fetch_sub(1, Ordering::SeqCst);
            })
        };
        let all = futures_util::future::join_all((0..40).map(|_| one())).await;
        for work in all {
            work.await.unwrap();
        }
        assert_eq!((most.load(Ordering::SeqCst), places.available_permits()), (3, 3));
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_keeps_its_place() {
        let places = Arc::new(Semaphore::new(1));
        let (go, wait) = std::sync::mpsc::channel::<()>();
        drop(begin(places.clone(), move || wait.recv()).await);
        assert_eq!(places.available_permits(), 0);
        go.send(()).unwrap();
        begin(places, || ()).await.await.unwrap();
    }
}
