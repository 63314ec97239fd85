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
use crate::jobs::{Event, Follower};
use bytes::Bytes;
use futures_util::{Stream, stream};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout_at};

/// Silence after which a comment is sent.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Events handed over at once: bounds what one reader holds in memory.
const BATCH: usize = 16;

/// `GET /v1/jobs/{}/stream`
pub(crate) async fn follow(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let named = jobs::find(&app, request.capture(0), &request.caller).await?;
    let cursor = request
        .header("last-event-id")
        .map(str::to_owned)
        .or_else(|| request.query("last_event_id"))
        .and_then(|text| text.trim().parse::<u64>().ok())
        .unwrap_or(0);
    let job = match named {
        Named::Live(job) => job,
        // Its last event is all there is.
        Named::Kept(kept) => jobs::revive(&app, *kept).await?,
    };
    Ok(reply(Follower::new(job, cursor), |event| match event {
        Some(event) => format!("id: {}\ndata: {}\n\n", event.id, event.json),
        None => "data: [DONE]\n\n".to_owned(),
    }))
}

/// A stream in the words of `tell`, which gets each event and at the end `None`; it may have nothing to say.
pub(crate) fn reply(
    follower: Follower,
    tell: impl FnMut(Option<&Event>) -> String + Send + Sync + 'static,
) -> Response {
    let mut response = warp::Reply::into_response(warp::reply::stream(words(follower, tell)));
    set(&mut response, "content-type", "text/event-stream; charset=utf-8");
    set(&mut response, "cache-control", "no-cache");
    // Proxies such as nginx would otherwise hold events back.
    set(&mut response, "x-accel-buffering", "no");
    response
}

fn words(
    follower: Follower,
    tell: impl FnMut(Option<&Event>) -> String + Send + Sync + 'static,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + Sync + 'static {
    stream::unfold(Some((follower, tell)), |reader| async move {
        let (mut follower, mut tell) = reader?;
        let quiet = Instant::now() + KEEP_ALIVE;
        loop {
            let Ok(events) = timeout_at(quiet, follower.next(BATCH)).await else {
                return Some((Ok(Bytes::from_static(b": keep-alive\n\n")), Some((follower, tell))));
            };
            if events.is_empty() {
                return Some((Ok(Bytes::from(tell(None))), None));
            }
            let text: String = events.iter().map(|event| tell(Some(event))).collect();
            if !text.is_empty() {
                return Some((Ok(Bytes::from(text)), Some((follower, tell))));
            }
        }
    })
}
