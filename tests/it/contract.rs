//! What the interface says of itself and of jobs, and what a request must not say twice.

use crate::support::{ends_as, eventually, gauss, status};
use sd_tests::{Client, Worker, wire};
use serde_json::json;
use std::time::Duration;

/// The value of a figure.
fn figure(client: &Client, name: &str) -> Option<u64> {
    let text = String::from_utf8(client.get("/metrics").body).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix(&format!("sd_worker_{name} ")).map(str::to_owned));
    line.map(|value| value.parse().unwrap())
}

#[test]
fn event_streams_are_counted() {
    let worker = Worker::start(&gauss(50, &[]));
    let client = worker.client();
    let job = client.submit(&json!({ "prompt": "x", "steps": 150 }));
    let mut left = client.events(&job, 0);
    let stays = client.events(&job, 0);
    left.until("progress");
    assert_eq!((figure(&client, "sse_streams"), figure(&client, "sse_dropped_total")), (Some(2), None));
    drop(left);
    let gone = r#"sse_dropped_total{reason="reader_gone"}"#;
    eventually("the reader is missed", Duration::from_secs(10), || figure(&client, gone) == Some(1));
    assert_eq!(figure(&client, "sse_streams"), Some(1));
    client.delete(&format!("/v1/jobs/{job}"));
    assert_eq!(ends_as(&stays.rest()), "cancelled");
    eventually("none is open", Duration::from_secs(10), || figure(&client, "sse_streams") == Some(0));
    let load = client.clone().with_header("accept", "text/event-stream").post("/v1/models/emoji-sd/load", &json!({}));
    assert!(String::from_utf8(load.body).unwrap().ends_with("data: [DONE]\n\n"));
    eventually("none is open", Duration::from_secs(10), || figure(&client, "sse_streams") == Some(0));
    assert_eq!(figure(&client, gone), Some(1), "streams that ended are not missed");
}

#[test]
fn a_head_request_is_no_reader() {
    let worker = Worker::start(&gauss(20, &[]));
    let client = worker.client();
    let job = client.submit(&json!({ "prompt": "x", "steps": 50, "on_disconnect": "cancel" }));
    let head = format!("HEAD /v1/jobs/{job}/stream HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let answer = wire::ask(wire::address(&worker.url), head.as_bytes(), Duration::from_secs(10)).answer.unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert!(answer.header("content-type").unwrap().starts_with("text/event-stream"));
    std::thread::sleep(Duration::from_millis(100));
    assert!(["queued", "running"].contains(&&*status(&client, &job)));
    assert_eq!(ends_as(&client.events(&job, 0).rest()), "complete");
}

#[test]
fn a_member_that_stands_twice_is_refused() {
    let worker = Worker::start(&gauss(0, &[]));
    let client = worker.client();
    for (path, body) in [
        ("/v1/jobs", r#"{"prompt":"x","steps":1,"steps":2}"#),
        ("/v1/jobs", r#"{"prompt":"x","hires":{"scale":2,"scale":2}}"#),
        ("/v1/jobs", r#"{"prompt":"x","\u0070rompt":"y"}"#),
        ("/v1/images/generations", r#"{"prompt":"x","n":1,"n":2}"#),
        ("/sdapi/v1/txt2img", r#"{"prompt":"x","override_settings":{"a":1,"a":2}}"#),
    ] {
        let answer = client.post_bytes(path, "application/json", body.as_bytes());
        let told = answer.json().to_string();
        assert!(answer.status == 400 && told.contains("invalid_json") && told.contains("twice"), "{path}: {told}");
    }
    let nul = client.post("/v1/jobs", &json!({ "prompt": "a\0b" })).json();
    assert!(nul["error"]["message"].as_str().unwrap().contains("NUL"), "{nul}");
}

#[test]
fn the_worker_and_its_jobs_tell_what_they_are() {
    let fixtures = sd_tests::root().join("tests/fixtures/models");
    let bundled = sd_tests::bundled_models();
    let models = ["--models-dir", bundled.to_str().unwrap(), "--models-dir", fixtures.to_str().unwrap()];
    let worker = Worker::start(&gauss(0, &models));
    let client = worker.client();
    let info = client.get("/info").json();
    let operations = json!(["image_generation", "image_transform", "image_inpaint", "image_upscale"]);
    assert_eq!((&info["operations"], &info["model_id"]), (&operations, &json!("emoji-sd")));
    assert_eq!(client.post("/v1/models/sd15/load", &json!({})).status, 200);
    assert_eq!(client.get("/info").json()["model_id"], "sd15", "the default model of now");
    assert_eq!(client.get("/v1/models/sd15").json()["devices"], json!(["cpu"]));
    assert_eq!(client.get("/v1/models/tiny-sd").json()["devices"], json!([]));
    let job = client.submit(&json!({ "prompt": "x", "steps": 1, "n": 3, "seed": 41, "width": 64, "height": 64 }));
    assert_eq!(ends_as(&client.events(&job, 0).rest()), "complete");
    assert_eq!(client.get(&format!("/v1/jobs/{job}")).json()["seeds"], json!([41, 42, 43]));
}
