//! The job's events as server-sent events.
//!
//! One `data:` line of JSON per event, with consecutive ids; comments keep the connection alive; the last line of every
//! stream is `data: [DONE]`. A reader that comes back with `Last-Event-ID` goes on where it was.

use super::http::{ApiError, Request, Response, set};
use super::{App, jobs};
use crate::jobs::{Event, Job};
use bytes::Bytes;
use futures_util::{Stream, stream};
use std::{convert::Infallible, fmt::Write as _, sync::Arc, time::Duration};
use tokio::sync::watch;

/// Silence after which a comment is sent.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Events handed over at once: bounds what one reader holds in memory.
const BATCH: usize = 16;

/// `GET /v1/jobs/{}/stream`
pub(crate) async fn follow(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let job = jobs::find(&app, &request, 0)?;
    let cursor = request
        .header("last-event-id")
        .map(str::to_owned)
        .or_else(|| request.query("last_event_id"))
        .and_then(|text| text.trim().parse::<u64>().ok())
        .unwrap_or(0);
    let mut response = warp::Reply::into_response(warp::reply::stream(events(job, cursor)));
    set(&mut response, "content-type", "text/event-stream; charset=utf-8");
    set(&mut response, "cache-control", "no-cache");
    // Proxies such as nginx would otherwise hold events back.
    set(&mut response, "x-accel-buffering", "no");
    Ok(response)
}

/// Counts a reader while its stream lives.
struct Reader(Arc<Job>);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.reader_left();
    }
}

struct Follower {
    reader: Reader,
    newest: watch::Receiver<u64>,
    cursor: u64,
    done: bool,
}

fn events(job: Arc<Job>, cursor: u64) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + Sync + 'static {
    job.reader_joined();
    let newest = job.events.subscribe();
    let follower = Follower { reader: Reader(job), newest, cursor, done: false };
    stream::unfold(follower, |mut f| async move {
        if f.done {
            return None;
        }
        loop {
            // Marked as seen before reading: whatever is published in between wakes the next wait at once.
            f.newest.borrow_and_update();
            let ring = &f.reader.0.events;
            let ready = ring.after(f.cursor, BATCH);
            if !ready.is_empty() {
                let text = ready.iter().fold(String::new(), wire);
                f.cursor = ready.last().map_or(f.cursor, |e| e.id);
                f.done = ready.iter().any(|e| e.terminal);
                return Some((Ok(Bytes::from(finish(text, f.done))), f));
            }
            // A reader that has seen the end already gets the marker again.
            if ring.terminal().is_some_and(|end| end.id <= f.cursor) {
                f.done = true;
                return Some((Ok(Bytes::from(finish(String::new(), true))), f));
            }
            if tokio::time::timeout(KEEP_ALIVE, f.newest.changed()).await.is_err() {
                return Some((Ok(Bytes::from_static(b": keep-alive\n\n")), f));
            }
        }
    })
}

fn wire(mut text: String, event: &Event) -> String {
    // Writing to a String does not fail.
    let _ = write!(text, "id: {}\ndata: {}\n\n", event.id, event.json);
    text
}

fn finish(mut text: String, done: bool) -> String {
    if done {
        text.push_str("data: [DONE]\n\n");
    }
    text
}
