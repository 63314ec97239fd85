//! The job's events as server-sent events.
//!
//! One `data:` line of JSON per event, with consecutive ids; comments keep the connection alive; the last line of every
//! stream is `data: [DONE]`. A reader that comes back with `Last-Event-ID` goes on where it was. A job that ended before the
//! last restart has its last event only.

use super::http::{ApiError, Request, Response, set};
use super::{
    App,
    jobs::{self, Named},
};
use crate::{
    jobs::{Event, Follower},
    server::Shutdown,
    telemetry::Metrics,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::Method;
use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout_at};

/// Silence after which a comment is sent.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// That comment.
pub(crate) const COMMENT: &str = ": keep-alive\n\n";
/// Events handed over at once: bounds what one reader holds in memory.
const BATCH: usize = 16;
/// From this size on a text is shared between readers instead of copied.
const SHARED_BYTES: usize = 4096;

/// `GET /v1/jobs/{}/stream`
pub(crate) async fn follow(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let named = jobs::find(&app, request.capture(0), &request.caller).await?;
    let cursor = request
        .header("last-event-id")
        .map(str::to_owned)
        .or_else(|| request.query("last_event_id"))
        .and_then(|text| text.trim().parse::<u64>().ok())
        .unwrap_or(0);
    if request.method == Method::HEAD {
        // Not a reader: one that leaves may take the job along.
        return Ok(as_events(Response::default()));
    }
    let job = match named {
        Named::Live(job) => job,
        // Its last event is all there is.
        Named::Kept(kept) => jobs::revive(&app, *kept).await?,
    };
    Ok(reply(&app, Follower::new(job, cursor), |event, out| match event {
        Some(event) => {
            out.text(&format!("id: {}\ndata: ", event.id));
            out.shared(&event.json);
            out.text("\n\n");
        }
        None => out.text("data: [DONE]\n\n"),
    }))
}

/// What one reader is sent next. Small texts are put together; a large one (a picture) is one copy for all readers, so that
/// those who read slowly cost no memory.
#[derive(Default)]
pub(crate) struct Pieces {
    whole: VecDeque<Bytes>,
    open: String,
}

impl Pieces {
    /// Text of this reader's own.
    pub(crate) fn text(&mut self, text: &str) {
        self.open.push_str(text);
    }

    /// Text that all readers share.
    fn shared(&mut self, text: &Arc<str>) {
        struct Shared(Arc<str>);
        impl AsRef<[u8]> for Shared {
            fn as_ref(&self) -> &[u8] {
                self.0.as_bytes()
            }
        }
        if text.len() < SHARED_BYTES {
            return self.text(text);
        }
        self.close();
        self.whole.push_back(Bytes::from_owner(Shared(text.clone())));
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.whole.push_back(Bytes::from(std::mem::take(&mut self.open)));
        }
    }

    fn next(&mut self) -> Option<Bytes> {
        self.close();
        self.whole.pop_front()
    }
}

/// A stream in the words of `tell`, which gets each event and at the end `None`; it may have nothing to say.
pub(crate) fn reply(
    app: &App,
    follower: Follower,
    tell: impl FnMut(Option<&Event>, &mut Pieces) + Send + Sync + 'static,
) -> Response {
    event_stream(app, words(follower, tell))
}

/// An answer of server-sent events. It is counted while it is open, and when it is left before its end.
pub(crate) fn event_stream(
    app: &App,
    pieces: impl Stream<Item = Result<Bytes, Infallible>> + Send + Sync + 'static,
) -> Response {
    app.metrics.sse_streams.inc();
    let open = Open { metrics: app.metrics.clone(), shutdown: app.shutdown.clone(), at_end: false };
    let counted = stream::unfold((Box::pin(pieces), open), |(mut pieces, mut open)| async move {
        let piece = pieces.next().await;
        open.at_end = piece.is_none();
        Some((piece?, (pieces, open)))
    });
    as_events(warp::Reply::into_response(warp::reply::stream(counted)))
}

fn as_events(mut response: Response) -> Response {
    set(&mut response, "content-type", "text/event-stream; charset=utf-8");
    set(&mut response, "cache-control", "no-cache");
    // Proxies such as nginx would otherwise hold events back.
    set(&mut response, "x-accel-buffering", "no");
    response
}

/// An event stream that is being sent.
struct Open {
    metrics: Arc<Metrics>,
    shutdown: Shutdown,
    at_end: bool,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.metrics.sse_streams.dec();
        if !self.at_end {
            self.metrics.sse_dropped(if self.shutdown.is_draining() { "shutdown" } else { "reader_gone" });
        }
    }
}

fn words(
    follower: Follower,
    tell: impl FnMut(Option<&Event>, &mut Pieces) + Send + Sync + 'static,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + Sync + 'static {
    stream::unfold((Some((follower, tell)), Pieces::default()), |(mut reader, mut pieces)| async move {
        let quiet = Instant::now() + KEEP_ALIVE;
        loop {
            if let Some(piece) = pieces.next() {
                return Some((Ok(piece), (reader, pieces)));
            }
            let (follower, tell) = reader.as_mut()?;
            let Ok(events) = timeout_at(quiet, follower.next(BATCH)).await else {
                return Some((Ok(Bytes::from_static(COMMENT.as_bytes())), (reader, pieces)));
            };
            if events.is_empty() {
                tell(None, &mut pieces);
                reader = None;
            } else {
                events.iter().for_each(|event| tell(Some(event), &mut pieces));
            }
        }
    })
}
