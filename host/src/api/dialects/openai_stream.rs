//! OpenAI's streamed answer: partial pictures while the job runs, then the finished ones.

use super::openai::{Shape, now, usage};
use crate::api::{
    App,
    http::{ApiError, Response},
    stream,
};
use crate::jobs::{Event, Follower, Job, JobState};
use base64::Engine as _;
use serde_json::{Value, json};
use std::sync::Arc;

/// What has been told so far.
struct Telling {
    job: Arc<Job>,
    shape: Shape,
    partials: u32,
}

/// The stream as an answer.
pub(crate) fn reply(app: &App, follower: Follower, shape: Shape) -> Response {
    let mut telling = Telling { job: follower.job().clone(), shape, partials: 0 };
    stream::reply(app, follower, move |event, out| match event {
        Some(event) => out.text(&telling.partial(event)),
        // The specification shows no such line; clients that know it from chat wait for it, the others skip it.
        None => out.text(&(telling.end() + "data: [DONE]\n\n")),
    })
}

impl Telling {
    fn partial(&mut self, event: &Event) -> String {
        if event.name != "preview" || self.partials >= self.shape.partial_images {
            return String::new();
        }
        let told: Value = serde_json::from_str(&event.json).unwrap_or_default();
        let index = self.partials;
        self.partials += 1;
        self.event("partial_image", &told["image_base64"], Some(index))
    }

    fn event(&self, what: &str, picture: &Value, index: Option<u32>) -> String {
        let spec = &self.job.spec;
        let kind = format!("{}.{what}", self.shape.route.events());
        let mut body = json!({
            "type": kind, "b64_json": picture, "created_at": now(), "size": format!("{}x{}", spec.width, spec.height),
            "quality": self.shape.quality, "background": "opaque", "output_format": spec.format.extension(),
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
        let done = self.job.snapshot();
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
