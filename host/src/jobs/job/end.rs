//! How a job ends: exactly one terminal event, and the keeper hears of it before anybody else does.

use super::{Inner, Job, line};
use crate::{
    fault::{Fault, FaultCode},
    jobs::{Ending, JobSpec, JobState, Origin, Outcome, Past, Picture, timings_json, view},
};
use serde_json::{Map, Value, json};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

impl Job {
    /// A job that ended in a former program, with the `fields` of its last event. Nothing happens to it any more.
    pub fn ended_before(
        past: Past,
        owner: String,
        spec: JobSpec,
        state: JobState,
        pictures: Vec<Picture>,
        fields: Map<String, Value>,
    ) -> Arc<Self> {
        let job = Self::with_past(past, owner, spec, Origin::default());
        let event = match state {
            JobState::Completed => "complete",
            JobState::Cancelled => "cancelled",
            _ => "error",
        };
        let fault = (state == JobState::Failed).then(|| {
            let code = fields.get("code").and_then(Value::as_str).and_then(FaultCode::parse);
            let message = fields.get("message").and_then(Value::as_str).unwrap_or_default();
            Fault::new(code.unwrap_or(FaultCode::Internal), message)
        });
        {
            let mut inner = job.lock();
            (inner.state, inner.ending, inner.ended) = (state, true, Some(Instant::now()));
            (inner.fault, inner.pictures) = (fault, pictures);
        }
        let fields = job.with_picture(fields);
        job.events.publish(event, line(Some(job.id.as_str()), event, fields), true);
        job
    }

    /// The fields of the last event, and the first picture, if there is one.
    fn with_picture(&self, mut fields: Map<String, Value>) -> Map<String, Value> {
        use base64::Engine as _;
        if let Some(first) = self.lock().pictures.first() {
            let text = base64::engine::general_purpose::STANDARD.encode(first.bytes.as_slice());
            fields.insert("image_base64".into(), text.into());
        }
        fields
    }

    /// Ends the job: exactly one terminal event, the first call wins. The keeper hears of it before anybody else does.
    pub fn finish(&self, outcome: Outcome) -> bool {
        self.end(outcome, false)
    }

    pub(super) fn end(&self, outcome: Outcome, only_queued: bool) -> bool {
        let Some(ending) = self.decide(outcome, only_queued) else { return false };
        if let Some(keeper) = self.keeper.get() {
            keeper.ended(self, &ending);
        }
        {
            let mut inner = self.lock();
            inner.state = ending.state;
            inner.ended = Some(Instant::now());
            inner.fault = ending.fault;
            inner.pictures = ending.pictures;
        }
        let fields = self.with_picture(ending.fields);
        self.cancel.store(true, Ordering::Release);
        let first = self.events.publish(ending.event, line(Some(self.id.as_str()), ending.event, fields), true);
        if let Some(keeper) = self.keeper.get() {
            keeper.told(self);
        }
        first
    }

    /// Decides how the job ends. Only the first caller gets an answer.
    fn decide(&self, outcome: Outcome, only_queued: bool) -> Option<Ending> {
        let mut inner = self.lock();
        if inner.ending || (only_queued && inner.state != JobState::Queued) {
            return None;
        }
        inner.ending = true;
        let (state, event, fields, fault) = match outcome {
            Outcome::Complete => (JobState::Completed, "complete", self.complete_fields(&inner), None),
            Outcome::Cancelled => {
                let fields = json!({ "code": FaultCode::Cancelled.as_str(), "message": "the job was cancelled" });
                (JobState::Cancelled, "cancelled", fields, None)
            }
            Outcome::Failed(fault) => (JobState::Failed, "error", view::failed(&fault), Some(fault)),
        };
        let pictures = if state == JobState::Completed { inner.pictures.clone() } else { Vec::new() };
        let fields = match fields {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        // Nothing but the end is published from here on.
        let event_id = self.events.last_id() + 1;
        Some(Ending { state, event, event_id, fields, pictures, fault, ran: inner.started.is_some() })
    }

    fn complete_fields(&self, inner: &Inner) -> Value {
        let images: Vec<Value> = inner
            .pictures
            .iter()
            .enumerate()
            .map(|(i, p)| {
                json!({ "index": i, "seed": p.seed, "width": p.width, "height": p.height,
                "media_type": p.media_type, "url": format!("/v1/jobs/{}/images/{i}", self.id) })
            })
            .collect();
        let first = inner.pictures.first();
        json!({
            "format": self.spec.format.extension(),
            "seed": first.map_or(self.spec.seed, |p| p.seed),
            "seeds": inner.pictures.iter().map(|p| p.seed).collect::<Vec<_>>(),
            "images": images,
            "timings": timings_json(&inner.timings),
        })
    }
}
