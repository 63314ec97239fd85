//! Models while the worker runs: loads that are followed, swaps, failures, memory that comes back.

use crate::support::{ends_as, eventually, gauss};
use sd_tests::{Client, Worker, WorkerOptions, bundled_models, copy_folder};
use serde_json::{Value, json};
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// A models folder with the bundled model under two names.
fn twins() -> tempfile::TempDir {
    let folder = tempfile::tempdir_in(bundled_models().parent().unwrap().join("target"))
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    for name in ["emoji-sd", "twin"] {
        copy_folder(&bundled_models().join("emoji-sd"), &folder.path().join(name));
    }
    folder
}

fn with_models(mut options: WorkerOptions, models: &Path) -> WorkerOptions {
    options.args.extend(["--models-dir".to_owned(), models.display().to_string()]);
    // One model at a time, as on a small device.
    options.args.extend(["--max-models", "1"].map(str::to_owned));
    options
}

fn loaded(client: &Client) -> Value {
    client.get("/info").json()["devices"][0]["model"].clone()
}

fn metric(client: &Client, line: &str) -> Option<f64> {
    let text = String::from_utf8(client.get("/metrics").body).unwrap();
    text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok())
}

/// The events of a load, whose last one is the only terminal one and is followed by the marker.
fn follow_load(client: &Client, path: &str) -> Vec<Value> {
    let answer = client.clone().with_header("accept", "text/event-stream").post(path, &json!({}));
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/event-stream; charset=utf-8")));
    let text = String::from_utf8(answer.body).unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    text.lines().filter_map(|l| serde_json::from_str(l.strip_prefix("data: ")?).ok()).collect()
}

#[test]
fn a_load_is_followed_and_makes_the_default() {
    let models = twins();
    let worker = Worker::start(&with_models(WorkerOptions::default(), models.path()));
    let client = worker.client();
    assert_eq!(loaded(&client), "emoji-sd");
    let events = follow_load(&client, "/v1/models/twin/load");
    assert_eq!(events[0]["event"], "started");
    assert_eq!((ends_as(&events), &events.last().unwrap()["model"]), ("complete", &json!("twin")));
    assert!(events.last().unwrap()["weights_bytes"].as_u64() > Some(1_000_000), "{events:?}");
    for event in events.iter().filter(|e| e["event"] == "progress") {
        assert!(event["done"].as_u64() <= event["total"].as_u64(), "{event}");
    }
    assert_eq!(loaded(&client), "twin");
    let job = client.submit(&json!({ "prompt": "panda", "steps": 2, "seed": 1 }));
    assert_eq!(client.get(&format!("/v1/jobs/{job}")).json()["model"], "twin");
    assert_eq!(ends_as(&client.events(&job, 0).rest()), "complete");
    // Beside the default: the device changes its model, jobs without a name do not.
    assert_eq!(client.post("/v1/models/emoji-sd/load?default=false", &json!({})).status, 200);
    let job = client.submit(&json!({ "prompt": "panda", "steps": 2 }));
    assert_eq!(client.get(&format!("/v1/jobs/{job}")).json()["model"], "twin");
    assert_eq!(client.post("/v1/models/emoji-sd/load?default=maybe", &json!({})).status, 422);
    let missing = follow_load(&client, "/v1/models/nothing/load");
    assert_eq!((ends_as(&missing), &missing[1]["code"]), ("error", &json!("model_not_found")));
    assert_eq!(client.post("/v1/models/nothing/load", &json!({})).status, 404);
}

#[test]
fn a_failed_load_keeps_the_old_model_serving() {
    let models = twins();
    let mut options = with_models(WorkerOptions::args(&["--backend", "rogue", "--isolate", "never"]), models.path());
    options.env.push(("SD_ROGUE".to_owned(), "fail@load:2".to_owned()));
    let worker = Worker::start(&options);
    let client = worker.client();
    let events = follow_load(&client, "/v1/models/twin/load");
    assert_eq!(ends_as(&events), "error");
    assert_eq!(loaded(&client), "emoji-sd", "the old one is back");
    let events = client.run(&json!({ "prompt": "x", "steps": 1 }));
    assert_eq!((ends_as(&events), &events[0]["model"]), ("complete", &json!("emoji-sd")));
    assert_eq!(metric(&client, r#"sd_worker_model_swaps_total{outcome="failed"}"#), Some(1.0));
    // A model that is broken on disk is refused before the old one goes.
    std::fs::write(models.path().join("twin/unet/config.json"), "{").unwrap();
    let answer = client.post("/v1/models/twin/load", &json!({}));
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (422, &json!("model_invalid")));
    assert_eq!(loaded(&client), "emoji-sd");
}

#[test]
fn an_idle_model_goes_and_comes_back() {
    let worker = Worker::start(&gauss(0, &["--idle-unload-secs", "1"]));
    let client = worker.client();
    assert_eq!(ends_as(&client.run(&json!({ "prompt": "x", "steps": 1 }))), "complete");
    eventually("the model is unloaded", Duration::from_secs(30), || loaded(&client).is_null());
    assert_eq!(client.get("/ready").status, 200, "an idle worker takes jobs");
    assert_eq!(metric(&client, r#"sd_worker_device_memory_bytes{device="cpu:0",state="model"}"#).unwrap_or(0.0), 0.0);
    assert_eq!(ends_as(&client.run(&json!({ "prompt": "x", "steps": 1 }))), "complete");
}

#[test]
fn memory_comes_back_with_each_swap() {
    let models = twins();
    let worker = Worker::start(&with_models(WorkerOptions::default(), models.path()));
    let client = worker.client();
    let mut rests = Vec::new();
    for round in 0..6 {
        for model in ["twin", "emoji-sd"] {
            let events = client.run(&json!({ "prompt": "panda", "steps": 1, "model": model }));
            assert_eq!(ends_as(&events), "complete", "{events:?}");
        }
        assert_eq!(client.post("/v1/models/emoji-sd/unload", &json!({})).json()["status"], "unloaded");
        let text = String::from_utf8(client.get("/metrics").body).unwrap();
        let held =
            text.lines().find(|l| l.starts_with("sd_worker_device_memory_bytes") && l.contains(r#"state="model""#));
        assert!(held.is_some_and(|l| l.ends_with(" 0")), "round {round}: {held:?}");
        assert!(!text.contains("sd_worker_model_loaded_info{"), "round {round}: a model counts as loaded");
        rests.push(worker.rss_kib());
    }
    assert!(!worker.log_text().contains("holds weights"), "{}", worker.log_text());
    let growth = rests[5].saturating_sub(rests[2]);
    // Two models of 60 MB come and go in each of three rounds. What stays is what the allocator holds back of each thread.
    assert!(growth < 8 * 1024, "resident memory without a model, in KiB: {rests:?}");
}

#[test]
fn jobs_of_two_models_are_grouped_and_all_get_their_turn() {
    let models = twins();
    let worker = Worker::start(&with_models(gauss(5, &[]), models.path()));
    let client = worker.client();
    let first = client.submit(&json!({ "prompt": "x", "steps": 60 }));
    client.events(&first, 0).until("progress");
    let name = |i: usize| if i.is_multiple_of(2) { "emoji-sd" } else { "twin" };
    let jobs: Vec<String> =
        (0..12).map(|i| client.submit(&json!({ "prompt": "x", "steps": 1, "model": name(i) }))).collect();
    let before = metric(&client, r#"sd_worker_model_swaps_total{outcome="ok"}"#).unwrap_or(0.0);
    let since = Instant::now();
    for job in &jobs {
        assert_eq!(ends_as(&client.events(job, 0).rest()), "complete");
    }
    assert!(since.elapsed() < Duration::from_secs(60));
    let swaps = metric(&client, r#"sd_worker_model_swaps_total{outcome="ok"}"#).unwrap_or(0.0) - before;
    assert!((1.0..=4.0).contains(&swaps), "{swaps} swaps for 12 jobs in turn");
}
