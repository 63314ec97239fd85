//! Readers that go away at every step: the job ends or goes on as it asked, and nothing of them is left behind.

use crate::{
    Client, Random, Worker,
    meter::{self, Usage},
};
use serde_json::json;
use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// How many leave at once.
const CLIENTS: usize = 8;
/// Steps of a job that is to go on by itself.
const KEPT_STEPS: u64 = 6;
/// Steps of a job that is to end with its reader: too many to be done by the time that the server sees him leave.
const CANCELLED_STEPS: u64 = 150;
/// How long a job may take to come to its end.
const PATIENCE: Duration = Duration::from_secs(30);
/// What resident memory may grow after the warm-up, in KiB.
const GROWTH_KIB: u64 = 8 * 1024;
/// The first of this many parts is the warm-up: pools, caches and the finished jobs that are kept fill up.
const PARTS: usize = 5;

/// `count` readers leave at a random step of a job of their own, in turn of one that asked to be kept and of one that asked to
/// be cancelled then. The worker should have steps of some milliseconds and keep few finished jobs. Then files, threads,
/// memory, streams and places in the queue are what they were after the first fifth.
pub fn leaving_readers(worker: &Worker, count: usize) -> String {
    let client = worker.client();
    let (warm, rest) = (count / PARTS, count - count / PARTS);
    let mut late = leave(worker, 0, warm);
    let before = calm(worker, &client);
    late.extend(leave(worker, warm, rest));
    let after = calm(worker, &client);
    assert!(after.fds <= before.fds + 4, "{} files became {}", before.fds, after.fds);
    assert!(after.threads <= before.threads + 4, "{} threads became {}", before.threads, after.threads);
    let grown = after.rss_kib.saturating_sub(before.rss_kib);
    assert!(grown < GROWTH_KIB, "{grown} KiB more after {rest} readers that left");
    assert!(!worker.log_text().contains("panicked"), "{}", worker.log_text());
    format!(
        "{count} readers left: as their jobs asked; a cancelled one ran on for {:.0} steps (median), {:.0} (p99); \
         files {} and {}, threads {} and {}, memory {:.1} and {:.1} MiB",
        meter::quantile(&late, 0.5),
        meter::quantile(&late, 0.99),
        before.fds,
        after.fds,
        before.threads,
        after.threads,
        before.rss_kib as f64 / 1024.0,
        after.rss_kib as f64 / 1024.0
    )
}

/// Readers `from` to `from + count`; how many steps each cancelled job went on.
fn leave(worker: &Worker, from: usize, count: usize) -> Vec<f64> {
    let (next, late) = (AtomicUsize::new(from), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let client = worker.client();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= from + count {
                        return;
                    }
                    let went_on = if n % 2 == 0 { kept(&client, n) } else { cancelled(&client, n) };
                    late.lock().expect("figures").extend(went_on);
                }
            });
        }
    });
    late.into_inner().expect("figures")
}

/// Opens the stream and goes away when it has told `step` steps; 0 is at once.
fn leave_at(client: &Client, job: &str, step: u64) {
    let mut events = client.events(job, 0);
    while step > 0 && events.until("progress")["step"].as_u64() < Some(step) {}
}

fn kept(client: &Client, n: usize) -> Option<f64> {
    let step = Random::new(n as u64 + 1).below(KEPT_STEPS as usize) as u64;
    let job = client.submit(&json!({ "prompt": "x", "steps": KEPT_STEPS, "on_disconnect": "keep" }));
    leave_at(client, &job, step);
    let (status, done) = end(client, &job);
    assert_eq!((status.as_str(), done), ("completed", KEPT_STEPS), "left at step {step}, asked to be kept");
    None
}

fn cancelled(client: &Client, n: usize) -> Option<f64> {
    let step = Random::new(n as u64 + 1).below(12) as u64;
    let job = client.submit(&json!({ "prompt": "x", "steps": CANCELLED_STEPS, "on_disconnect": "cancel" }));
    leave_at(client, &job, step);
    let (status, done) = end(client, &job);
    assert_eq!(status, "cancelled", "left at step {step}, ran to {done}");
    Some(done.saturating_sub(step) as f64)
}

/// How a job ended and at which step.
fn end(client: &Client, job: &str) -> (String, u64) {
    let until = Instant::now() + PATIENCE;
    loop {
        let state = client.get(&format!("/v1/jobs/{job}"));
        assert_eq!(state.status, 200, "{job} is lost: {}", state.json());
        let state = state.json();
        let status = state["status"].as_str().unwrap_or_default();
        if !["queued", "running"].contains(&status) {
            return (status.to_owned(), state["progress"]["step"].as_u64().unwrap_or(0));
        }
        assert!(Instant::now() < until, "{job} has not ended: {state}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until nobody is connected and nothing waits, and looks at the process then. What is left after a while is left.
fn calm(worker: &Worker, client: &Client) -> Usage {
    let metric = |text: &str, name: &str| -> Option<f64> {
        text.lines().find_map(|l| l.strip_prefix(name)?.trim().parse().ok())
    };
    let until = Instant::now() + PATIENCE;
    loop {
        let text = String::from_utf8_lossy(&client.get("/metrics").body).into_owned();
        let (jobs, streams) = (metric(&text, "sd_worker_queue_jobs "), metric(&text, "sd_worker_sse_streams "));
        if (jobs, streams) == (Some(0.0), Some(0.0)) {
            // Blocking threads and idle connections go after ten seconds.
            std::thread::sleep(Duration::from_secs(12));
            return meter::usage(worker.pid());
        }
        assert!(Instant::now() < until, "places or streams are left behind: {jobs:?} jobs, {streams:?} streams");
        std::thread::sleep(Duration::from_millis(100));
    }
}
