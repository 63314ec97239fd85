//! Several keys on one worker: turns, limits, priorities; and the ids that tie answers, streams and logs together.

use crate::support::{ends_as, gauss};
use sd_tests::{Client, Worker};
use serde_json::{Value, json};
use std::time::Duration;

const ONE: &str = "one-0123456789abcdef";
const TWO: &str = "two-0123456789abcdef";

/// A worker with two keys, and a client for each.
pub(crate) fn two_keys(step_ms: u32, more: &[&str]) -> (Worker, Client, Client) {
    let mut options = gauss(step_ms, more);
    options.env.push(("SD_WORKER_TOKENS".to_owned(), format!("one:{ONE},two:{TWO}")));
    let worker = Worker::start(&options);
    let with = |token: &str| worker.client().with_header("authorization", &format!("Bearer {token}"));
    let (one, two) = (with(ONE), with(TWO));
    (worker, one, two)
}

/// How long a finished job waited, in milliseconds.
fn waited(client: &Client, job: &str) -> f64 {
    assert_eq!(ends_as(&client.events(job, 0).rest()), "complete");
    client.get(&format!("/v1/jobs/{job}")).json()["timings"]["queue_ms"].as_f64().unwrap()
}

#[test]
fn a_key_that_floods_does_not_keep_others_waiting() {
    let (_worker, flood, small) = two_keys(20, &[]);
    let many: Vec<String> = (0..20).map(|_| flood.submit(&json!({ "prompt": "x", "steps": 5 }))).collect();
    let few: Vec<String> = (0..3).map(|_| small.submit(&json!({ "prompt": "x", "steps": 5 }))).collect();
    let few: Vec<f64> = few.iter().map(|job| waited(&small, job)).collect();
    let mut many: Vec<f64> = many.iter().map(|job| waited(&flood, job)).collect();
    many.sort_by(f64::total_cmp);
    let last = few.iter().copied().fold(0.0, f64::max);
    // In turns, three jobs of one key stand beside the first four of the other; a few may have run before they came.
    assert!(last < many[12], "the small key waited {few:?} ms beside {many:?}");
    assert_eq!(small.get("/v1/jobs").json()["data"].as_array().unwrap().len(), 3, "a key sees its own jobs");
}

#[test]
fn urgent_jobs_go_first() {
    let worker = Worker::start(&gauss(20, &[]));
    let client = worker.client();
    let first = client.submit(&json!({ "prompt": "x", "steps": 20 }));
    client.events(&first, 0).until("progress");
    let submit = |priority: i32| client.submit(&json!({ "prompt": "x", "steps": 2, "priority": priority }));
    let (low, plain, urgent) = (submit(-5), submit(0), submit(10));
    let position = |job: &str| client.get(&format!("/v1/jobs/{job}")).json()["position"].as_u64();
    assert_eq!((position(&urgent), position(&plain), position(&low)), (Some(0), Some(1), Some(2)));
    let end = |job: &str| {
        let job = client.get(&format!("/v1/jobs/{job}")).json();
        job["created"].as_f64().unwrap() + job["timings"]["queue_ms"].as_f64().unwrap() / 1000.0
    };
    for job in [&low, &plain, &urgent] {
        assert_eq!(ends_as(&client.events(job, 0).rest()), "complete");
    }
    assert!(end(&urgent) < end(&plain) && end(&plain) < end(&low));
}

#[test]
fn a_key_over_its_rate_is_told_when_to_come_back() {
    let (_worker, one, two) = two_keys(0, &["--rate-per-minute", "60", "--rate-burst", "3"]);
    let post = |client: &Client| client.post("/v1/jobs", &json!({ "prompt": "x", "steps": 1 }));
    let answers: Vec<_> = (0..8).map(|_| post(&one)).collect();
    let refused: Vec<_> = answers.iter().filter(|a| a.status == 429).collect();
    assert!(
        answers[..3].iter().all(|a| a.status == 200) && refused.len() >= 3,
        "{:?}",
        answers.iter().map(|a| a.status).collect::<Vec<_>>()
    );
    for answer in refused {
        assert_eq!(answer.json()["error"]["code"], "rate_limited");
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&wait), "{wait}");
    }
    assert_eq!(post(&two).status, 200, "another key is not concerned");
    assert_eq!(one.get("/v1/jobs").status, 200, "reading is free");
    let dialect: Vec<u16> = (0..4).map(|_| one.post("/sdapi/v1/interrupt", &json!({})).status).collect();
    assert!(dialect.contains(&429), "{dialect:?}");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(post(&one).status, 200, "and later it may again");
}

#[test]
fn ids_are_in_answers_streams_and_logs_and_prompts_are_not() {
    const PROMPT: &str = "a zebrafish nobody else would ask for";
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let worker = Worker::start(&gauss(1, &["--log-format", "json", "--state-dir", dir]));
    let client = worker
        .client()
        .with_header("x-request-id", "req-17")
        .with_header("x-correlation-id", "corr-18")
        .with_header("traceparent", &format!("00-{TRACE}-00f067aa0ba902b7-01"));
    let answer = client.post("/v1/jobs", &json!({ "prompt": PROMPT, "negative_prompt": PROMPT, "steps": 2 }));
    assert_eq!(
        (answer.status, answer.header("x-request-id"), answer.header("x-correlation-id")),
        (200, Some("req-17"), Some("corr-18"))
    );
    assert!(answer.header("traceparent").unwrap().starts_with(&format!("00-{TRACE}-")));
    let job = answer.json()["job_id"].as_str().unwrap().to_owned();
    // Read by somebody else, with ids of his own.
    let events = worker.client().events(&job, 0).rest();
    let ids = |v: &Value| (v["request_id"].clone(), v["correlation_id"].clone(), v["trace_id"].clone());
    let expected = (json!("req-17"), json!("corr-18"), json!(TRACE));
    assert_eq!(ids(&events[0]), expected, "{}", events[0]);
    assert_eq!(ids(&worker.client().get(&format!("/v1/jobs/{job}")).json()), expected);
    let refused = client.post("/v1/jobs", &json!({ "prompt": PROMPT, "steps": 0 }));
    assert_eq!(refused.json()["error"]["request_id"], "req-17");
    // A prompt that fails while it is read must not be quoted either.
    client.post_bytes("/v1/jobs", "application/json", format!("{{\"prompt\": \"{PROMPT}\" nonsense").as_bytes());
    client.post("/sdapi/v1/txt2img", &json!({ "prompt": PROMPT, "steps": 1, "width": 64, "height": 64 }));

    let log = worker.log_text();
    let lines: Vec<Value> = log.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    let line = |text: &str| {
        lines
            .iter()
            .find(|l| l["message"] == text && l.to_string().contains(&job))
            .unwrap_or_else(|| panic!("no line `{text}` of this job in {log}"))
    };
    for text in ["job accepted", "job ended"] {
        let line = line(text).to_string();
        for id in [&*job, "req-17", "corr-18", TRACE] {
            assert!(line.contains(id), "{id} is not in {line}");
        }
    }
    assert_eq!(line("job accepted")["prompt_hash"].as_str().map(str::len), Some(12));
    assert!(!log.contains("zebrafish"), "a prompt is in the log: {log}");
}

#[test]
fn jobs_start_in_the_order_that_was_told() {
    let fixtures = sd_tests::root().join("tests/fixtures/models");
    let bundled = sd_tests::bundled_models();
    let models = ["--models-dir", bundled.to_str().unwrap(), "--models-dir", fixtures.to_str().unwrap()];
    let (_worker, one, two) = two_keys(50, &[&models[..], &["--max-models", "1"]].concat());
    let running = one.submit(&json!({ "prompt": "x", "steps": 150 }));
    one.events(&running, 0).until("progress");
    let mut jobs: Vec<(&Client, String)> = Vec::new();
    for n in 0..21 {
        let client = if n % 3 == 0 { &two } else { &one };
        let (model, priority) = (["emoji-sd", "sd15"][(n / 2) % 2], [0, 0, 0, 0, 3][n % 5]);
        let body = json!({ "prompt": "x", "steps": 1, "model": model, "priority": priority });
        jobs.push((client, client.submit(&body)));
    }
    // Every key sees its own; together they are all, each position once, and the same as in the job itself.
    let mut told: Vec<(u64, String)> = Vec::new();
    for client in [&one, &two] {
        let queue = client.get("/v1/queue").json();
        assert_eq!(queue["waiting"], 21);
        for job in queue["data"].as_array().unwrap() {
            let (id, at) = (job["job_id"].as_str().unwrap().to_owned(), job["position"].as_u64().unwrap());
            assert_eq!(client.get(&format!("/v1/jobs/{id}")).json()["position"].as_u64(), Some(at));
            told.push((at, id));
        }
    }
    told.sort();
    assert_eq!(told.iter().map(|(at, _)| *at).collect::<Vec<_>>(), (0..21).collect::<Vec<_>>());
    one.delete(&format!("/v1/jobs/{running}"));
    let came: Vec<&String> = jobs.iter().map(|(_, id)| id).collect();
    assert_ne!(
        told.iter().map(|(_, id)| id).collect::<Vec<_>>(),
        came,
        "turns, priorities and models change the order"
    );
    let mut started: Vec<(f64, String)> = Vec::new();
    for (client, id) in &jobs {
        assert_eq!(ends_as(&client.events(id, 0).rest()), "complete");
        let job = client.get(&format!("/v1/jobs/{id}")).json();
        let began = job["created"].as_f64().unwrap() + job["timings"]["queue_ms"].as_f64().unwrap() / 1e3;
        started.push((began, id.clone()));
    }
    started.sort_by(|a, b| a.0.total_cmp(&b.0));
    let told: Vec<String> = told.into_iter().map(|(_, id)| id).collect();
    let started: Vec<String> = started.into_iter().map(|(_, id)| id).collect();
    assert_eq!(told, started);
}
