//! Requests that nobody should send: each is answered with a 4xx and a JSON error, and the worker stays well.

use sd_tests::{Worker, WorkerOptions, wire::proper_refusal};
use serde_json::json;

fn worker() -> Worker {
    Worker::start(&WorkerOptions::args(&[
        "--backend",
        "gauss",
        "--isolate",
        "never",
        "--queue-jobs",
        "64",
        "--max-body-mib",
        "1",
    ]))
}

#[test]
fn wrong_fields_are_refused_by_name() {
    let worker = worker();
    let client = worker.client();
    let cases = [
        (json!({}), "prompt"),
        (json!({ "prompt": 3 }), "prompt"),
        (json!({ "prompt": "x", "steps": 0 }), "steps"),
        (json!({ "prompt": "x", "steps": 151 }), "steps"),
        (json!({ "prompt": "x", "steps": 2.5 }), "steps"),
        (json!({ "prompt": "x", "width": 65 }), "width"),
        (json!({ "prompt": "x", "height": 1_000_000 }), "height"),
        (json!({ "prompt": "x", "guidance_scale": 31 }), "guidance_scale"),
        (json!({ "prompt": "x", "guidance_scale": "7" }), "guidance_scale"),
        (json!({ "prompt": "x", "seed": -2 }), "seed"),
        (json!({ "prompt": "x", "seed": 1.5 }), "seed"),
        (json!({ "prompt": "x", "n": 17 }), "n"),
        (json!({ "prompt": "x", "sampler": "eulr" }), "sampler"),
        (json!({ "prompt": "x", "schedule": "kerras" }), "schedule"),
        (json!({ "prompt": "x", "strength": 2 }), "strength"),
        (json!({ "prompt": "x", "init_image": "!!" }), "init_image"),
        (json!({ "prompt": "x", "init_image": "http://example.com/a.png" }), "init_image"),
        (json!({ "prompt": "x", "mask_image": "AAAA" }), "init_image"),
        (json!({ "prompt": "x", "operation": "image_transform" }), "init_image"),
        (json!({ "prompt": "x", "operation": "infer" }), "operation"),
        (json!({ "prompt": "x", "model": "../../etc/passwd" }), "model"),
        (json!({ "prompt": "x", "model": "nothing-here" }), "model"),
        (json!({ "prompt": "x", "nonsense": 1 }), "nonsense"),
    ];
    for (body, field) in cases {
        let answer = client.post("/v1/jobs", &body);
        proper_refusal(&answer).unwrap_or_else(|e| panic!("{body}: {e}"));
        let error = &answer.json()["error"];
        let all = error["errors"].as_array().cloned().unwrap_or_else(|| vec![error.clone()]);
        assert!(all.iter().any(|e| e["field"] == field), "{body}: {error}");
    }
    let closest = client.post("/v1/jobs", &json!({ "prompt": "x", "sampler": "eulr" })).json();
    assert!(closest["error"]["message"].as_str().unwrap().contains("euler"), "{closest}");
}

#[test]
fn a_stranger_page_cannot_send_jobs() {
    let worker = worker();
    let body = json!({ "prompt": "x", "steps": 1 });
    let foreign = worker.client().with_header("origin", "https://evil.example");
    let answer = foreign.post("/v1/jobs", &body);
    assert_eq!(answer.status, 403);
    proper_refusal(&answer).unwrap();
    let form = worker.client().post_bytes("/v1/jobs", "text/plain", body.to_string().as_bytes());
    assert_eq!(form.status, 415);
    proper_refusal(&form).unwrap();
}
