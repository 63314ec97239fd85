//! A plain client of the worker's interface.

use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Read},
    time::Duration,
};

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON; `Null` when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(120);
/// How long a stream may last: as long as its job waits and runs, which behind a full queue is minutes.
const STREAM: Duration = Duration::from_secs(900);

/// A client for one worker.
#[derive(Debug, Clone)]
pub struct Client {
    url: String,
    agent: ureq::Agent,
    headers: Vec<(String, String)>,
}

impl Client {
    /// A client for a base URL.
    pub fn new(url: &str) -> Client {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(ANSWER))
            .max_redirects(0)
            // The worker closes connections that are idle for 10 s.
            .max_idle_age(Duration::from_secs(5))
            .build();
        Client { url: url.to_owned(), agent: config.into(), headers: Vec::new() }
    }

    /// The same client with a header on every request.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Client {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn finish(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Answer {
        let mut response = response.expect("the worker answers");
        let headers = response
            .headers()
            .iter()
            .map(|(n, v)| (n.as_str().to_owned(), v.to_str().unwrap_or_default().to_owned()))
            .collect();
        let mut body = Vec::new();
        response.body_mut().as_reader().read_to_end(&mut body).expect("the body arrives");
        Answer { status: response.status().as_u16(), headers, body }
    }

    /// `GET`.
    pub fn get(&self, path: &str) -> Answer {
        let mut request = self.agent.get(format!("{}{path}", self.url));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        Self::finish(request.call())
    }

    /// `DELETE`.
    pub fn delete(&self, path: &str) -> Answer {
        let mut request = self.agent.delete(format!("{}{path}", self.url));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        Self::finish(request.call())
    }

    /// `POST` of bytes.
    pub fn post_bytes(&self, path: &str, media_type: &str, body: &[u8]) -> Answer {
        let mut request = self.agent.post(format!("{}{path}", self.url)).header("content-type", media_type);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        Self::finish(request.send(body))
    }

    /// `POST` of JSON.
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_bytes(path, "application/json", body.to_string().as_bytes())
    }

    /// Sends a job and answers its id.
    pub fn submit(&self, body: &Value) -> String {
        let answer = self.post("/v1/jobs", body);
        assert_eq!(answer.status, 200, "{}", answer.json());
        answer.json()["job_id"].as_str().expect("job_id").to_owned()
    }

    /// Opens a job's event stream after an event.
    pub fn events(&self, job: &str, after: u64) -> EventReader {
        let path = format!("{}/v1/jobs/{job}/stream", self.url);
        let mut request = self.agent.get(path).config().timeout_global(Some(STREAM)).build();
        if after > 0 {
            request = request.header("last-event-id", after.to_string());
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let response = request.call().expect("the stream opens");
        assert_eq!(response.status().as_u16(), 200);
        EventReader { lines: BufReader::new(Box::new(response.into_body().into_reader())), done: false, last_id: 0 }
    }

    /// Sends a job, follows it to its end and answers all its events.
    pub fn run(&self, body: &Value) -> Vec<Value> {
        let job = self.submit(body);
        self.events(&job, 0).rest()
    }
}

/// Reads one stream event by event.
pub struct EventReader {
    lines: BufReader<Box<dyn Read + Send>>,
    done: bool,
    /// The id of the last event read.
    pub last_id: u64,
}

impl std::fmt::Debug for EventReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventReader").field("last_id", &self.last_id).finish_non_exhaustive()
    }
}

impl EventReader {
    /// The next event; `None` at the marker that ends the stream. A stream that ends without the marker is a fault.
    pub fn next_event(&mut self) -> Option<Value> {
        while !self.done {
            let mut line = String::new();
            let read = self.lines.read_line(&mut line).expect("the stream goes on");
            assert!(read > 0, "the stream ended without [DONE]");
            let line = line.trim_end();
            if let Some(id) = line.strip_prefix("id: ") {
                self.last_id = id.parse().expect("a number");
            } else if line == "data: [DONE]" {
                self.done = true;
            } else if let Some(json) = line.strip_prefix("data: ") {
                return Some(serde_json::from_str(json).expect("one line of JSON"));
            } else {
                assert!(line.is_empty() || line.starts_with(':'), "an unexpected line: {line}");
            }
        }
        None
    }

    /// Reads until an event of this name.
    pub fn until(&mut self, name: &str) -> Value {
        while let Some(event) = self.next_event() {
            if event["event"] == name {
                return event;
            }
        }
        unreachable!("no event `{name}` came");
    }

    /// All events up to the end.
    pub fn rest(mut self) -> Vec<Value> {
        std::iter::from_fn(|| self.next_event()).collect()
    }
}
