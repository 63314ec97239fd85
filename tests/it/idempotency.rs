//! Requests that are sent again with their `Idempotency-Key`: one job, whatever happens in between; another request is refused.

use crate::{
    keys::two_keys,
    support::{ends_as, gauss},
};
use sd_tests::{Client, Worker};
use serde_json::{Value, json};
use std::{
    collections::HashSet,
    sync::{Arc, Barrier},
};

fn keyed(client: &Client, key: &str) -> Client {
    client.clone().with_header("idempotency-key", key)
}

fn jobs(client: &Client) -> usize {
    client.get("/v1/jobs").json()["data"].as_array().unwrap().len()
}

/// Sends a body so many times at once, each over a connection of its own.
fn at_once(count: usize, url: &str, path: &'static str, body: &Value) -> Vec<(u16, Value)> {
    let gate = Arc::new(Barrier::new(count));
    let send = |_| {
        let (gate, body) = (gate.clone(), body.clone());
        let client = keyed(&Client::new(url), "once");
        std::thread::spawn(move || {
            gate.wait();
            let answer = client.post(path, &body);
            (answer.status, answer.json())
        })
    };
    let threads: Vec<_> = (0..count).map(send).collect();
    threads.into_iter().map(|t| t.join().unwrap()).collect()
}

#[test]
fn the_same_request_gives_the_same_job_and_another_is_refused() {
    let worker = Worker::start(&gauss(1, &[]));
    let client = keyed(&worker.client(), "abc");
    let first = client.submit(&json!({ "prompt": "x", "steps": 2 }));
    // The same request, in other bytes.
    let again = client.post_bytes("/v1/jobs", "application/json", b"{ \"steps\": 2.0, \"prompt\": \"\\u0078\" }");
    assert_eq!(again.json()["job_id"], first.as_str());
    assert_eq!(ends_as(&client.events(&first, 0).rest()), "complete");
    assert_eq!(client.submit(&json!({ "prompt": "x", "steps": 2 })), first, "also after its end");
    for other in [
        json!({ "prompt": "x", "steps": 3 }),
        json!({ "prompt": "x" }),
        json!({ "prompt": "x", "steps": 2, "n": 1 }),
        json!({ "prompt": "x", "steps": 0 }),
    ] {
        let answer = client.post("/v1/jobs", &other);
        let error = &answer.json()["error"];
        assert_eq!((answer.status, &error["code"]), (422, &json!("idempotency_mismatch")), "{other}: {error}");
        assert_eq!((&error["field"], &error["retriable"]), (&json!("Idempotency-Key"), &json!(false)));
    }
    let elsewhere = client.post("/v1/images/generations", &json!({ "prompt": "x", "steps": 2 }));
    assert_eq!((elsewhere.status, &elsewhere.json()["error"]["code"]), (422, &json!("idempotency_mismatch")));
    assert_ne!(worker.client().submit(&json!({ "prompt": "x", "steps": 2 })), first, "without a key it is a new one");
    assert_eq!(jobs(&client), 2);
    // The key goes with its job.
    assert_eq!(client.delete(&format!("/v1/jobs/{first}")).json()["status"], "deleted");
    let fresh = client.submit(&json!({ "prompt": "y", "steps": 2 }));
    assert_ne!(fresh, first);
    // A request that was never taken leaves its key free.
    let free = keyed(&worker.client(), "free");
    assert_eq!(free.post("/v1/jobs", &json!({ "prompt": "x", "steps": 0 })).status, 422);
    free.submit(&json!({ "prompt": "x", "steps": 1 }));
    for (name, key) in [("empty", String::new()), ("long", "k".repeat(257))] {
        let answer = keyed(&worker.client(), &key).post("/v1/jobs", &json!({ "prompt": "x" }));
        assert_eq!((answer.status, &answer.json()["error"]["field"]), (422, &json!("Idempotency-Key")), "{name}");
    }
    let two = keyed(&keyed(&worker.client(), "one"), "two").post("/v1/jobs", &json!({ "prompt": "x" }));
    assert_eq!(two.status, 422, "{}", two.json());
}

#[test]
fn fifty_at_once_make_one_job() {
    let folder = tempfile::tempdir().unwrap();
    // One place in the queue: a second job would be refused.
    let args = ["--queue-jobs", "1", "--state-dir", folder.path().to_str().unwrap()];
    let worker = Worker::start(&gauss(20, &args));
    let client = worker.client();
    let running = client.submit(&json!({ "prompt": "x", "steps": 100 }));
    client.events(&running, 0).until("progress");
    let answers = at_once(50, &worker.url, "/v1/jobs", &json!({ "prompt": "x", "steps": 2 }));
    let ids: HashSet<&str> = answers.iter().filter_map(|(_, told)| told["job_id"].as_str()).collect();
    assert!(answers.iter().all(|(status, _)| *status == 200) && ids.len() == 1, "{answers:?}");
    assert_eq!(jobs(&client), 2);
    client.delete(&format!("/v1/jobs/{running}"));
}

#[test]
fn openai_clients_that_send_again_at_once_draw_once() {
    let worker = Worker::start(&gauss(20, &[]));
    let body = json!({ "prompt": "x", "steps": 5, "size": "64x64" });
    let answers = at_once(8, &worker.url, "/v1/images/generations", &body);
    assert!(answers.iter().all(|(status, told)| *status == 200 && told["data"] == answers[0].1["data"]), "{answers:?}");
    assert_eq!(jobs(&worker.client()), 1);
    // A form says the same with any boundary.
    let form = |boundary: &str, prompt: &str| {
        let png = std::fs::read(sd_tests::root().join("tests/fixtures/images/a1111.png")).unwrap();
        let mut body = Vec::new();
        for (head, value) in [
            ("name=\"prompt\"", prompt.as_bytes()),
            ("name=\"steps\"", b"2"),
            ("name=\"image\"; filename=\"a.png\"", &png),
        ] {
            body.extend(format!("--{boundary}\r\ncontent-disposition: form-data; {head}\r\n\r\n").into_bytes());
            body.extend(value);
            body.extend(b"\r\n");
        }
        body.extend(format!("--{boundary}--\r\n").into_bytes());
        let client = keyed(&worker.client(), "form");
        client.post_bytes("/v1/images/edits", &format!("multipart/form-data; boundary={boundary}"), &body)
    };
    let first = form("one", "x");
    assert_eq!(first.status, 200, "{}", first.json());
    assert_eq!(form("two", "x").json()["data"], first.json()["data"]);
    assert_eq!(form("one", "y").status, 422);
}

#[test]
fn a_key_belongs_to_its_owner() {
    let (_worker, one, two) = two_keys(1, &[]);
    let (one, two) = (keyed(&one, "same"), keyed(&two, "same"));
    let first = one.submit(&json!({ "prompt": "x", "steps": 2 }));
    let second = two.submit(&json!({ "prompt": "x", "steps": 2 }));
    assert_ne!(first, second);
    assert_eq!((one.submit(&json!({ "prompt": "x", "steps": 2 })), jobs(&one), jobs(&two)), (first, 1, 1));
}

#[test]
fn a_task_of_a1111_is_no_key() {
    let worker = Worker::start(&gauss(1, &[]));
    let client = worker.client();
    let draw = |prompt: &str| {
        let body = json!({ "prompt": prompt, "steps": 1, "width": 64, "height": 64, "force_task_id": "task(1)" });
        let told = client.post("/sdapi/v1/txt2img", &body).json();
        serde_json::from_str::<Value>(told["info"].as_str().unwrap()).unwrap()["prompt"].clone()
    };
    assert_eq!((draw("x"), draw("y")), (json!("x"), json!("y")));
    let told = client.post("/internal/progress", &json!({ "id_task": "task(1)" })).json();
    assert_eq!(told["completed"], true, "{told}");
}
