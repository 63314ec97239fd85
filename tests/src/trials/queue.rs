//! A burst of ten times the queue's places, from many clients at once.

use crate::{Worker, meter::quantile};
use serde_json::json;
use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

const CLIENTS: usize = 8;

/// The worker must have a slow backend and `bound` places. Exactly `bound` jobs of the burst are taken, the others are
/// told when to come back: ⌈jobs waiting × a job's mean time⌉, 1 to 300 s. Then every taken job comes to an end.
pub fn burst(worker: &Worker, bound: usize, quiet: bool) -> String {
    let client = worker.client();
    // The device is busy, so that nothing leaves the queue meanwhile.
    let running = client.submit(&json!({ "prompt": "x", "steps": 150 }));
    client.events(&running, 0).until("progress");
    let (accepted, refused) = (Mutex::new(Vec::new()), AtomicUsize::new(0));
    let times = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let client = worker.client();
                for _ in 0..(10 * bound).div_ceil(CLIENTS) {
                    let since = Instant::now();
                    let answer = client.post("/v1/jobs", &json!({ "prompt": "x", "steps": 1 }));
                    times.lock().expect("times").push(since.elapsed().as_secs_f64() * 1e3);
                    if answer.status == 200 {
                        let id = answer.json()["job_id"].as_str().expect("an id").to_owned();
                        accepted.lock().expect("ids").push(id);
                        continue;
                    }
                    assert_eq!(answer.status, 429, "{}", answer.json());
                    assert_eq!(answer.json()["error"]["code"], "queue_full");
                    let wait: u64 = answer.header("retry-after").expect("Retry-After").parse().expect("seconds");
                    assert!((1..=300).contains(&wait), "{wait}");
                    refused.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let accepted = accepted.into_inner().expect("ids");
    assert_eq!(accepted.len(), bound, "exactly the places are taken");
    assert_eq!(client.get("/ready").status, 200, "a full queue is no reason not to be ready");
    client.delete(&format!("/v1/jobs/{running}"));
    for id in &accepted {
        let events = client.events(id, 0).rest();
        assert_eq!(events.last().expect("an end")["event"], "complete");
    }
    let p99 = quantile(&times.into_inner().expect("times"), 0.99);
    assert!(!quiet || p99 < 10.0, "POST answered within {p99:.1} ms at the 99th percentile");
    let refused = refused.into_inner();
    format!("{bound} places: {} taken, {refused} refused; POST p99 {p99:.1} ms", accepted.len())
}
