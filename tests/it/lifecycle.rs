//! Jobs that end otherwise: cancelled, left alone, refused, caught by a shutdown.

use sd_tests::{Worker, WorkerOptions, program};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A worker on the weightless test plugin, whose steps take as long as asked.
fn slow_worker(step_ms: u32, more: &[&str]) -> Worker {
    let mut options = WorkerOptions::args(&["--backend", "gauss", "--isolate", "never"]);
    options.args.extend(["--backend-option".to_owned(), format!("step_ms={step_ms}")]);
    options.args.extend(more.iter().map(|a| (*a).to_owned()));
    Worker::start(&options)
}

fn ends_as(events: &[Value]) -> &str {
    let terminal =
        events.iter().filter(|e| ["complete", "error", "cancelled"].contains(&e["event"].as_str().unwrap())).count();
    assert_eq!(terminal, 1, "exactly one terminal event: {events:?}");
    events.last().unwrap()["event"].as_str().unwrap()
}

#[test]
fn a_running_job_stops_within_a_step() {
    let worker = slow_worker(50, &[]);
    let client = worker.client();
    let job = client.submit(&json!({ "prompt": "x", "steps": 100 }));
    let mut events = client.events(&job, 0);
    while events.until("progress")["step"].as_u64() < Some(3) {}
    let since = Instant::now();
    assert_eq!(client.delete(&format!("/v1/jobs/{job}")).status, 200);
    let rest = events.rest();
    assert_eq!(ends_as(&rest), "cancelled");
    assert!(since.elapsed() < Duration::from_millis(500), "{:?}", since.elapsed());
    assert!(rest.len() <= 3, "at most a step more: {rest:?}");
    assert_eq!(client.get(&format!("/v1/jobs/{job}")).json()["status"], "cancelled");
    assert_eq!(client.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).status, 409);
    // The next job is not touched by it.
    assert_eq!(ends_as(&client.run(&json!({ "prompt": "x", "steps": 2 }))), "complete");
    assert_eq!(client.delete(&format!("/v1/jobs/{job}")).status, 200, "an ended job is forgotten");
    assert_eq!(client.get(&format!("/v1/jobs/{job}")).status, 410);
}

#[test]
fn a_waiting_job_is_cancelled_at_once() {
    let worker = slow_worker(50, &[]);
    let client = worker.client();
    let first = client.submit(&json!({ "prompt": "x", "steps": 60 }));
    let second = client.submit(&json!({ "prompt": "x", "steps": 2 }));
    assert_eq!(client.post(&format!("/v1/jobs/{second}/cancel"), &json!({})).status, 200);
    assert_eq!(ends_as(&client.events(&second, 0).rest()), "cancelled");
    assert_eq!(client.get(&format!("/v1/jobs/{first}")).json()["status"], "running");
    // It never ran, and is counted among the ended ones all the same.
    let metrics = String::from_utf8(client.get("/metrics").body).unwrap();
    let counted = r#"sd_worker_jobs_finished_total{kind="generation",outcome="cancelled"} 1"#;
    assert!(metrics.lines().any(|l| l == counted), "{metrics}");
    client.delete(&format!("/v1/jobs/{first}"));
}

#[test]
fn a_lost_client_ends_the_job_only_if_asked() {
    let worker = slow_worker(30, &[]);
    let client = worker.client();
    for (policy, expected) in [("cancel", "cancelled"), ("keep", "completed")] {
        let job = client.submit(&json!({ "prompt": "x", "steps": 40, "on_disconnect": policy }));
        let mut events = client.events(&job, 0);
        events.until("progress");
        drop(events);
        let until = Instant::now() + Duration::from_secs(10);
        let state = loop {
            let state = client.get(&format!("/v1/jobs/{job}")).json()["status"].as_str().unwrap().to_owned();
            if !["queued", "running"].contains(&state.as_str()) {
                break state;
            }
            assert!(Instant::now() < until, "still {state}");
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(state, expected, "{policy}");
    }
}

#[test]
fn a_full_queue_refuses_politely() {
    let worker = slow_worker(100, &["--queue-jobs", "3"]);
    let client = worker.client();
    let running = client.submit(&json!({ "prompt": "x", "steps": 100 }));
    client.events(&running, 0).until("started");
    let mut taken = Vec::new();
    let mut refused = 0;
    for _ in 0..30 {
        let answer = client.post("/v1/jobs", &json!({ "prompt": "x", "steps": 1 }));
        if answer.status == 200 {
            taken.push(answer.json()["job_id"].as_str().unwrap().to_owned());
        } else {
            assert_eq!(answer.status, 429);
            assert_eq!(answer.json()["error"]["code"], "queue_full");
            let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
            assert!((1..=300).contains(&wait));
            refused += 1;
        }
    }
    assert_eq!((taken.len(), refused), (3, 27));
    assert_eq!(client.get("/ready").status, 200, "a full queue is no fault");
    client.delete(&format!("/v1/jobs/{running}"));
    for job in taken {
        assert_eq!(ends_as(&client.events(&job, 0).rest()), "complete");
    }
}

#[test]
fn a_job_that_takes_too_long_ends_with_a_timeout() {
    let worker = slow_worker(100, &[]);
    let events = worker.client().run(&json!({ "prompt": "x", "steps": 100, "timeout_secs": 1 }));
    assert_eq!(ends_as(&events), "error");
    assert_eq!(events.last().unwrap()["code"], "timeout");
}

#[test]
fn posts_are_answered_fast_while_a_job_runs() {
    let worker = slow_worker(200, &[]);
    let client = worker.client();
    let running = client.submit(&json!({ "prompt": "x", "steps": 100 }));
    client.events(&running, 0).until("progress");
    for _ in 0..20 {
        let since = Instant::now();
        client.submit(&json!({ "prompt": "x", "steps": 1 }));
        assert!(since.elapsed() < Duration::from_millis(100), "{:?}", since.elapsed());
    }
}

#[test]
fn sigterm_drains() {
    let mut worker = slow_worker(100, &["--drain-secs", "1"]);
    let client = worker.client();
    let running = client.submit(&json!({ "prompt": "x", "steps": 150 }));
    let mut stream = client.events(&running, 0);
    stream.until("progress");
    let waiting: Vec<String> = (0..5).map(|_| client.submit(&json!({ "prompt": "x", "steps": 1 }))).collect();
    let streams: Vec<_> = waiting.iter().map(|j| client.events(j, 0)).collect();
    let since = Instant::now();
    worker.signal(libc::SIGTERM);
    for stream in streams {
        let events = stream.rest();
        assert_eq!(ends_as(&events), "error");
        assert_eq!(events.last().unwrap()["code"], "draining");
    }
    assert!(["cancelled", "error"].contains(&ends_as(&stream.rest())));
    let status = worker.wait(Duration::from_secs(5));
    assert_eq!(status.code(), Some(0), "{}", worker.log_text());
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
}

#[test]
fn a_second_signal_ends_now() {
    let mut worker = slow_worker(100, &["--drain-secs", "60"]);
    let client = worker.client();
    let running = client.submit(&json!({ "prompt": "x", "steps": 150 }));
    client.events(&running, 0).until("progress");
    let since = Instant::now();
    worker.signal(libc::SIGTERM);
    std::thread::sleep(Duration::from_millis(200));
    worker.signal(libc::SIGTERM);
    worker.wait(Duration::from_secs(5));
    assert!(since.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_panicking_plugin_costs_one_job() {
    let mut options = WorkerOptions::args(&["--backend", "rogue", "--isolate", "never"]);
    options.env.push(("SD_ROGUE".to_owned(), "panic@predict".to_owned()));
    let worker = Worker::start(&options);
    let client = worker.client();
    for _ in 0..3 {
        let events = client.run(&json!({ "prompt": "x", "steps": 2 }));
        assert_eq!(ends_as(&events), "error");
        assert_eq!(events.last().unwrap()["code"], "backend_panic", "{events:?}");
    }
    assert_eq!(client.get("/health").status, 200);
}

#[test]
fn a_plugin_that_is_missing_is_said_so() {
    let empty = tempfile::tempdir().unwrap();
    let done = std::process::Command::new(program("sd-worker"))
        .args([
            "serve",
            "--port",
            "0",
            "--plugin-dir",
            empty.path().to_str().unwrap(),
            "--models-dir",
            sd_tests::bundled_models().to_str().unwrap(),
        ])
        .output()
        .unwrap();
    assert_ne!(done.status.code(), Some(0));
    let text = String::from_utf8_lossy(&done.stderr);
    assert!(text.contains("no backend"), "{text}");
}
