//! OpenAI's streamed answer: partial pictures while the job runs, then the finished ones.

use super::{
    Reading,
    openai::{Shape, now, usage},
};
use crate::api::http::{ApiError, Response, set};
use crate::jobs::JobState;
use base64::Engine as _;
use bytes::Bytes;
use futures_util::{Stream, stream};
use serde_json::{Value, json};
use std::{convert::Infallible, time::Duration};
use tokio::sync::watch;

const KEEP_ALIVE: Duration = Duration::from_secs(10);

struct Follower {
    reading: Reading,
    newest: watch::Receiver<u64>,
    shape: Shape,
    cursor: u64,
    partials: u32,
    done: bool,
}

/// The stream as an answer.
pub(crate) fn reply(reading: Reading, shape: Shape) -> Response {
    let newest = reading.0.events.subscribe();
    let follower = Follower { reading, newest, shape, cursor: 0, partials: 0, done: false };
    let mut response = warp::Reply::into_response(warp::reply::stream(events(follower)));
    set(&mut response, "content-type", "text/event-stream; charset=utf-8");
    set(&mut response, "cache-control", "no-cache");
    set(&mut response, "x-accel-buffering", "no");
    response
}

fn events(follower: Follower) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + Sync + 'static {
    stream::unfold(follower, |mut f| async move {
        if f.done {
            return None;
        }
        loop {
            f.newest.borrow_and_update();
            let mut text = String::new();
            for event in f.reading.0.events.after(f.cursor, 64) {
                f.cursor = event.id;
                f.done = event.terminal;
                if event.name == "preview" && f.partials < f.shape.partial_images {
                    let told: Value = serde_json::from_str(&event.json).unwrap_or_default();
                    text.push_str(&f.event("partial_image", &told["image_base64"], Some(f.partials)));
                    f.partials += 1;
                }
                if event.terminal {
                    text.push_str(&f.end());
                }
            }
            if !text.is_empty() || f.done {
                return Some((Ok(Bytes::from(text)), f));
            }
            if tokio::time::timeout(KEEP_ALIVE, f.newest.changed()).await.is_err() {
                return Some((Ok(Bytes::from_static(b": keep-alive\n\n")), f));
            }
        }
    })
}

impl Follower {
    fn event(&self, what: &str, picture: &Value, index: Option<u32>) -> String {
        let spec = &self.reading.0.spec;
        let kind = format!("{}.{what}", self.shape.kind);
        let mut body = json!({
            "type": kind, "b64_json": picture, "created_at": now(), "size": format!("{}x{}", spec.width, spec.height),
            "quality": self.shape.quality, "background": self.shape.background, "output_format": spec.format.extension(),
        });
        match index {
            Some(index) => {
                body["partial_image_index"] = index.into();
                body["output_format"] = "jpeg".into();
            }
            None => body["usage"] = usage(),
        }
        format!("event: {kind}\ndata: {body}\n\n")
    }

    fn end(&self) -> String {
        let done = self.reading.0.snapshot();
        match (done.state, done.fault) {
            (JobState::Completed, _) => done
                .pictures
                .iter()
                .map(|p| {
                    self.event(
                        "completed",
                        &base64::engine::general_purpose::STANDARD.encode(p.bytes.as_slice()).into(),
                        None,
                    )
                })
                .collect(),
            (_, fault) => {
                let error = ApiError::from(fault.unwrap_or_else(crate::fault::Fault::cancelled));
                let mut body = error.openai();
                body["type"] = "error".into();
                format!("event: error\ndata: {body}\n\n")
            }
        }
    }
}
