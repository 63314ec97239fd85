//! The bounds that hold against clients, each with its figure: the trials that `cargo xtask soak` runs large, run small.

use sd_tests::{Worker, WorkerOptions, meter, trials, wire};
use serde_json::json;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

fn gauss(args: &[&str]) -> Worker {
    let mut options = WorkerOptions::args(&["--backend", "gauss", "--isolate", "never"]);
    options.args.extend(args.iter().map(|a| (*a).to_owned()));
    Worker::start(&options)
}

#[allow(clippy::print_stderr, reason = "the figures are worth seeing")]
fn told(figures: &str) {
    eprintln!("{figures}");
}

#[test]
fn five_thousand_mutated_requests() {
    let worker = gauss(&["--queue-jobs", "64", "--max-body-mib", "1"]);
    told(&trials::mutated_requests(&worker, 5_000, 0x9e37_79b9_7f4a_7c15));
}

#[test]
fn bodies_are_bounded_while_they_are_read() {
    let worker = gauss(&["--max-body-mib", "4"]);
    told(&trials::counted_giant(&worker, 4 * MIB));
    told(&trials::chunked_giant(&worker, 4 * MIB));
    told(&trials::tiny_chunks(&worker, 5, 20_000));
    let client = worker.client();
    let deep = format!("{{\"prompt\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let refused = |answer: &sd_tests::Answer, status: u16| {
        assert_eq!(answer.status, status, "{}", answer.json());
        wire::proper_refusal(answer).unwrap();
    };
    refused(&client.post_bytes("/v1/jobs", "application/json", deep.as_bytes()), 400);
    let packed = client.clone().with_header("content-encoding", "gzip");
    refused(&packed.post_bytes("/v1/jobs", "application/json", b"{}"), 415);
    let form =
        format!("--b\r\ncontent-disposition: form-data; name=\"prompt\"\r\n\r\n{}\r\n--b--", "x".repeat(5 << 20));
    refused(&client.post_bytes("/v1/images/edits", "multipart/form-data; boundary=b", form.as_bytes()), 413);
}

/// Sleeps for most of its time, and so shares one worker's half a minute.
#[test]
fn slow_clients_and_stalled_readers_are_cut_and_others_are_not() {
    let worker = gauss(&["--max-connections", "2000"]);
    std::thread::scope(|scope| {
        let stalled = scope.spawn(|| trials::stalled_readers(&worker, 200));
        let slow = scope.spawn(|| trials::slow_clients(&worker, 200, false));
        told(&stalled.join().expect("stalled readers"));
        told(&slow.join().expect("slow clients"));
    });
}

#[test]
fn one_connection_too_many_is_told_so() {
    let worker = gauss(&["--max-connections", "64"]);
    told(&trials::too_many_connections(&worker, 64, 200));
}

#[test]
fn a_burst_fills_the_queue_and_no_more() {
    let worker = gauss(&["--queue-jobs", "8", "--backend-option", "step_ms=100"]);
    told(&trials::burst(&worker, 8, false));
}

#[test]
fn a_thousand_readers_follow_one_job() {
    let worker = gauss(&["--max-connections", "2000", "--backend-option", "step_ms=200"]);
    told(&trials::herd(&worker, 1_000, false));
}

#[test]
fn models_are_swapped_and_used_by_many_at_once() {
    let folder = tempfile::tempdir().unwrap();
    trials::two_models(folder.path());
    let dir = folder.path().to_str().unwrap();
    let worker = gauss(&["--models-dir", dir, "--model", "model-a", "--queue-jobs", "64", "--max-models", "1"]);
    told(&trials::swap_race(&worker, 32, 12));
}

#[test]
fn names_lead_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let (models, outside) = trials::lay_traps(folder.path());
    let worker = gauss(&["--models-dir", models.to_str().unwrap(), "--model", "model-a"]);
    told(&trials::hostile_names(&worker, 5_000, &outside));
}

/// Loading, ready, without a model, broken, draining: `/health` is 200 throughout, jobs are refused with 503 and a time.
#[test]
fn every_state_answers() {
    let worker = Worker::start_unready(&WorkerOptions::args(&[
        "--backend",
        "gauss",
        "--isolate",
        "never",
        "--backend-option",
        "load_ms=1500,step_ms=50",
        "--drain-secs",
        "5",
    ]));
    let client = worker.client();
    let refused = |code: &str| {
        for (path, body) in
            [("/v1/jobs", json!({ "prompt": "x" })), ("/v1/images/generations", json!({ "prompt": "x" }))]
        {
            let answer = client.post(path, &body);
            assert_eq!((answer.status, &answer.json()["error"]["code"]), (503, &json!(code)), "{path}");
            assert!(answer.header("retry-after").is_some_and(|s| s.parse::<u64>().is_ok_and(|n| n >= 1)), "{path}");
        }
        for path in ["/ready", "/v1/ready", "/v2/health/ready"] {
            let answer = client.get(path);
            assert_eq!(answer.status, 503, "{path}");
            assert!(answer.json()["reason"].is_string() && answer.header("retry-after").is_some(), "{path}");
        }
        for path in ["/health", "/v2/health/live", "/info"] {
            assert_eq!(client.get(path).status, 200, "{path}");
        }
    };
    assert_eq!(client.get("/ready").json()["state"], "starting");
    refused("not_ready");
    worker.wait_ready();
    // Without a model in memory it is ready still: the next job brings the model back.
    assert_eq!(client.post("/v1/models/emoji-sd/unload", &json!({})).status, 200);
    assert_eq!(client.get("/ready").status, 200);
    assert_eq!(client.run(&json!({ "prompt": "x", "steps": 2 })).last().unwrap()["event"], "complete");
    let running = client.submit(&json!({ "prompt": "x", "steps": 60 }));
    client.events(&running, 0).until("progress");
    let since = Instant::now();
    worker.signal(libc::SIGTERM);
    while client.get("/ready").status == 200 {
        assert!(since.elapsed() < Duration::from_secs(1), "a drain is seen at once");
    }
    assert_eq!(client.get("/ready").json()["state"], "stopping");
    refused("draining");
}

#[test]
fn a_backend_that_hangs_makes_the_worker_unready() {
    let mut options = WorkerOptions::args(&["--backend", "rogue", "--isolate", "never", "--call-limit-secs", "1"]);
    options.env.push(("SD_ROGUE".to_owned(), "hang@predict".to_owned()));
    let worker = Worker::start(&options);
    let client = worker.client();
    let events = client.run(&json!({ "prompt": "x", "steps": 2 }));
    assert_eq!(events.last().unwrap()["code"], "backend_hung");
    let ready = client.get("/ready");
    assert_eq!((ready.status, &ready.json()["state"]), (503, &json!("broken")));
    let answer = client.post("/v1/jobs", &json!({ "prompt": "x" }));
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (503, &json!("not_ready")));
    assert_eq!(client.get("/health").status, 200);
}

#[test]
fn a_device_that_comes_back_late_serves_again() {
    let worker = gauss(&["--backend-option", "step_ms=6000", "--call-limit-secs", "1"]);
    let client = worker.client();
    let events = client.run(&json!({ "prompt": "x", "steps": 1 }));
    assert_eq!(events.last().unwrap()["code"], "backend_hung");
    // The job's end asks the call to stop, and this backend listens.
    let until = Instant::now() + Duration::from_secs(20);
    while client.get("/ready").status != 200 {
        assert!(Instant::now() < until, "{}", client.get("/ready").json());
        std::thread::sleep(Duration::from_millis(100));
    }
    client.submit(&json!({ "prompt": "x", "steps": 1 }));
}

/// A hundred readers leave after the first event: their connections go, and so do their files.
#[test]
fn files_and_threads_come_back() {
    let worker = gauss(&[]);
    let client = worker.client();
    let picture = |n: usize| client.run(&json!({ "prompt": format!("{n}"), "steps": 1 }));
    (0..5).for_each(|n| drop(picture(n)));
    let before = meter::usage(worker.pid());
    for n in 0..100 {
        let job = client.submit(&json!({ "prompt": "x", "steps": 1, "seed": n }));
        let mut events = client.events(&job, 0);
        events.next_event();
        drop(events);
    }
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let now = meter::usage(worker.pid());
        if now.fds <= before.fds + 4 && now.threads <= before.threads + 2 {
            break;
        }
        assert!(Instant::now() < until, "{before:?} became {now:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A soak that cannot fail is worth nothing: against a backend that loses 1 MiB a picture it must say so, and nothing else.
#[test]
fn the_soak_finds_a_leak() {
    let verdict = trials::leak(Duration::from_secs(8));
    assert!(!verdict.line_holds("memory growth"), "{verdict}");
    assert!(!verdict.line_holds("memory growth per job"), "{verdict}");
    assert!(verdict.line_holds("restarts") && verdict.line_holds("surprises"), "{verdict}");
}
