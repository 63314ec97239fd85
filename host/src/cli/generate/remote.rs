//! Drawing through a running worker: send the job, follow its stream, fetch the pictures.

use super::{Drawn, GenerateArgs, interrupt, watch::Watch};
use crate::{
    auth::first_of,
    fault::{Fault, FaultCode},
};
use serde_json::{Map, Value};
use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Longest line of a stream, and largest file: a base64 picture.
const MAX_LINE: u64 = 256 * 1024 * 1024;
/// Largest answer that is not a picture.
const MAX_ANSWER: u64 = 1024 * 1024;

pub(super) fn draw(
    url: &str,
    args: &GenerateArgs,
    mut fields: Map<String, Value>,
    watch: &mut Watch<'_>,
) -> Result<Vec<Drawn>, Fault> {
    let worker = Worker::new(url, args.token.as_deref(), args.token_file.as_deref())?;
    if let Some(model) = &args.models.model {
        fields.insert("model".to_owned(), model.as_str().into());
    }
    // When this program is gone nobody will fetch the pictures.
    fields.entry("on_disconnect").or_insert("cancel".into());
    let cancel = Cancel::listen(worker.clone())?;
    let accepted = worker.send("/v1/jobs", Value::Object(fields).to_string().as_bytes())?;
    let (Some(job), Some(stream)) = (accepted["url"].as_str(), accepted["sse_url"].as_str()) else {
        return Err(worker.lost(&"it answers like no sd-worker"));
    };
    if cancel.about(job) {
        worker.cancel(job);
    }
    let last = follow(&worker, stream, watch)?;
    let images = last["images"].as_array().map(Vec::as_slice).unwrap_or_default();
    images.iter().map(|image| picture(&worker, image)).collect()
}

/// Reads the stream to its end and answers the `complete` event.
fn follow(worker: &Worker, stream: &str, watch: &mut Watch<'_>) -> Result<Value, Fault> {
    let mut lines = BufReader::new(worker.get(stream)?.into_reader());
    loop {
        let mut line = String::new();
        let read = lines.by_ref().take(MAX_LINE).read_line(&mut line).map_err(|e| worker.lost(&e))?;
        if read == 0 {
            return Err(worker.lost(&"the stream ended early"));
        }
        let Some(json) = line.trim_end().strip_prefix("data: ").filter(|l| l.starts_with('{')) else { continue };
        let event: Value = serde_json::from_str(json).unwrap_or_default();
        watch.event(&event);
        match event["event"].as_str() {
            Some("complete") => return Ok(event),
            Some("cancelled") => return Err(Fault::cancelled()),
            Some("error") => return Err(fault(&event)),
            _ => {}
        }
    }
}

fn picture(worker: &Worker, image: &Value) -> Result<Drawn, Fault> {
    let body = worker.get(image["url"].as_str().unwrap_or_default())?;
    let mut bytes = Vec::new();
    body.into_reader().take(MAX_LINE).read_to_end(&mut bytes).map_err(|e| worker.lost(&e))?;
    let media_type = image["media_type"].as_str().unwrap_or_default().to_owned();
    Ok(Drawn { bytes, seed: image["seed"].as_u64().unwrap_or(0), media_type })
}

/// What the worker says went wrong, in its own code.
fn fault(error: &Value) -> Fault {
    let code = error["code"].as_str().unwrap_or_default();
    let code = FaultCode::ALL.iter().copied().find(|c| c.as_str() == code).unwrap_or(FaultCode::Internal);
    Fault::new(code, error["message"].as_str().unwrap_or("the job was refused"))
}

/// A worker somewhere.
#[derive(Clone)]
pub(in crate::cli) struct Worker {
    base: String,
    agent: ureq::Agent,
    authorization: Option<String>,
}

impl Worker {
    /// The worker at a base URL, with a token or the first one of a file.
    pub(in crate::cli) fn new(url: &str, token: Option<&str>, file: Option<&Path>) -> Result<Worker, Fault> {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(Duration::from_secs(10)))
            .build();
        let token = match (token, file) {
            (Some(token), _) => Some(token.to_owned()),
            (None, Some(file)) => Some(first_of(file).map_err(|e| Fault::field("--token-file", e.to_string()))?),
            (None, None) => None,
        };
        let authorization = token.map(|t| format!("Bearer {t}"));
        Ok(Worker { base: url.trim_end_matches('/').to_owned(), agent: config.into(), authorization })
    }

    fn lost(&self, reason: &dyn std::fmt::Display) -> Fault {
        Fault::new(FaultCode::NotReady, format!("the worker at {}: {reason}", self.base))
    }

    fn get(&self, path: &str) -> Result<ureq::Body, Fault> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        if let Some(value) = &self.authorization {
            request = request.header("authorization", value);
        }
        self.checked(request.call().map_err(|e| self.lost(&e))?)
    }

    /// Posts JSON and answers the JSON that comes back.
    pub(in crate::cli) fn send(&self, path: &str, body: &[u8]) -> Result<Value, Fault> {
        let mut request = self.agent.post(format!("{}{path}", self.base)).header("content-type", "application/json");
        if let Some(value) = &self.authorization {
            request = request.header("authorization", value);
        }
        let mut body = self.checked(request.send(body).map_err(|e| self.lost(&e))?)?;
        let bytes = body.with_config().limit(MAX_ANSWER).read_to_vec().map_err(|e| self.lost(&e))?;
        Ok(serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// Asks to stop a job. A worker that does not hear is left alone with it.
    fn cancel(&self, job: &str) {
        if self.send(&format!("{job}/cancel"), b"").is_err() {
            interrupt::leave();
        }
    }

    /// The body of a good answer; what a bad one says.
    fn checked(&self, answer: ureq::http::Response<ureq::Body>) -> Result<ureq::Body, Fault> {
        let status = answer.status();
        let mut body = answer.into_body();
        if status.is_success() {
            return Ok(body);
        }
        let bytes = body.with_config().limit(MAX_ANSWER).read_to_vec().unwrap_or_default();
        let told: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        match &told["error"] {
            error @ Value::Object(_) => Err(fault(error)),
            _ => Err(self.lost(&format!("it answers {status}"))),
        }
    }
}

/// Passes Ctrl-C on to the worker. The stream then tells the end as it tells every other.
struct Cancel(Arc<Mutex<Asked>>);

#[derive(Default)]
struct Asked {
    asked: bool,
    job: Option<String>,
}

impl Cancel {
    fn listen(worker: Worker) -> Result<Cancel, Fault> {
        let runtime = super::runtime()?;
        // Caught before the job is sent: a job that nobody reads must not be left behind.
        let mut signals = {
            let _inside = runtime.enter();
            interrupt::Signals::new()?
        };
        let shared: Arc<Mutex<Asked>> = Arc::default();
        let state = shared.clone();
        std::thread::Builder::new()
            .name("interrupt".to_owned())
            .spawn(move || {
                runtime.block_on(signals.next());
                let job = {
                    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                    state.asked = true;
                    state.job.clone()
                };
                if let Some(job) = job {
                    std::thread::spawn(move || worker.cancel(&job));
                }
                runtime.block_on(signals.next());
                interrupt::leave();
            })
            .map_err(|e| Fault::internal(format!("a thread could not be started: {e}")))?;
        Ok(Cancel(shared))
    }

    /// Names the job; whether Ctrl-C came before.
    fn about(&self, job: &str) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.job = Some(job.to_owned());
        state.asked
    }
}
