//! What several groups of tests share: workers on the weightless plugin, and how a job's events must end.

use sd_tests::{Client, Worker, WorkerOptions};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Flags for the weightless plugin, whose steps take as long as asked.
pub(crate) fn gauss(step_ms: u32, more: &[&str]) -> WorkerOptions {
    let mut options = WorkerOptions::args(&["--backend", "gauss", "--isolate", "never"]);
    options.args.extend(["--backend-option".to_owned(), format!("step_ms={step_ms}")]);
    options.args.extend(more.iter().map(|a| (*a).to_owned()));
    options
}

/// The name of the last event, which is the only terminal one.
pub(crate) fn ends_as(events: &[Value]) -> &str {
    let terminal =
        events.iter().filter(|e| ["complete", "error", "cancelled"].contains(&e["event"].as_str().unwrap())).count();
    assert_eq!(terminal, 1, "exactly one terminal event: {events:?}");
    events.last().unwrap()["event"].as_str().unwrap()
}

/// Where a job stands.
pub(crate) fn status(client: &Client, job: &str) -> String {
    client.get(&format!("/v1/jobs/{job}")).json()["status"].as_str().unwrap_or_default().to_owned()
}

/// Asks until the answer is yes.
pub(crate) fn eventually(what: &str, limit: Duration, mut yes: impl FnMut() -> bool) {
    let until = Instant::now() + limit;
    while !yes() {
        assert!(Instant::now() < until, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// `kill -9`, and the wait for the end.
pub(crate) fn kill(mut worker: Worker) {
    worker.signal(libc::SIGKILL);
    worker.wait(Duration::from_secs(20));
}
