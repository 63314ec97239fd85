//! The dialects over HTTP: statuses, shapes of errors and what a request leaves behind. Stock clients themselves are tried
//! by `cargo xtask clients`.

use sd_tests::{Answer, Client, Worker, WorkerOptions};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn worker(more: &[&str]) -> Worker {
    Worker::start(&WorkerOptions::args(&[&["--backend", "gauss", "--isolate", "never"], more].concat()))
}

fn small(more: &Value) -> Value {
    let mut body = json!({ "prompt": "x", "width": 64, "height": 64, "steps": 2, "seed": 1 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// A form as clients send it.
fn form(client: &Client, path: &str, parts: &[(&str, Option<&str>, &[u8])]) -> Answer {
    let mut body = Vec::new();
    for (name, file, bytes) in parts {
        let file = file.map_or_else(String::new, |f| format!("; filename=\"{f}\""));
        body.extend(format!("--edge\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").bytes());
        body.extend(*bytes);
        body.extend(b"\r\n");
    }
    body.extend(b"--edge--\r\n");
    client.post_bytes(path, "multipart/form-data; boundary=edge", &body)
}

fn png() -> Vec<u8> {
    let picture = sd_images::Picture::filled(64, 64, [200, 30, 30]);
    sd_images::encode(&picture, sd_images::OutputFormat::Png, &sd_images::Embedded::default()).unwrap()
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[test]
fn openai_tells_faults_in_its_own_way() {
    let worker = worker(&[]);
    let client = worker.client();
    for (path, body, status, param, kind) in [
        ("/v1/images/generations", json!({}), 400, "prompt", "invalid_request_error"),
        ("/v1/images/generations", json!({ "prompt": "x", "n": 11 }), 400, "n", "invalid_request_error"),
        ("/v1/images/generations", json!({ "prompt": "x", "size": "65x64" }), 400, "size", "invalid_request_error"),
        ("/v1/images/generations", json!({ "prompt": "x", "width": 65 }), 400, "width", "invalid_request_error"),
        ("/v1/images/generations", json!({ "prompt": "x", "nonsense": 1 }), 400, "nonsense", "invalid_request_error"),
        ("/v1/images/generations", json!({ "prompt": "x", "model": "nothing" }), 404, "model", "invalid_request_error"),
        ("/v1/images/edits", json!({ "prompt": "x" }), 400, "image", "invalid_request_error"),
        ("/v1/images/variations", json!({}), 400, "image", "invalid_request_error"),
    ] {
        let answer = client.post(path, &body);
        let error = &answer.json()["error"];
        assert_eq!((answer.status, &error["param"], &error["type"]), (status, &json!(param), &json!(kind)), "{body}");
        assert!(error["message"].is_string() && error["code"].is_string(), "{body}");
        assert_eq!(answer.header("x-should-retry"), Some("false"), "{body}");
    }
    assert_eq!(client.get("/v1/models/nothing").status, 404);
    assert_eq!(client.get("/v1/models/emoji-sd").json()["object"], "model");
}

#[test]
fn openai_forms_are_read_as_their_json() {
    let worker = worker(&[]);
    let client = worker.client();
    let file = png();
    let sent = form(
        &client,
        "/v1/images/edits",
        &[
            ("image[]", Some("a.png"), &file),
            ("prompt", None, b"12"),
            ("n", None, b"2"),
            ("steps", None, b"2"),
            ("seed", None, b"5"),
            ("strength", None, b"0.5"),
            ("metadata", None, b"false"),
        ],
    );
    assert_eq!(sent.status, 200, "{}", sent.json());
    let url = format!("data:image/png;base64,{}", base64(&file));
    let body = json!({ "images": [{ "image_url": url }], "prompt": "12", "n": 2, "steps": 2, "seed": 5, "strength": 0.5, "metadata": false });
    let same = client.post("/v1/images/edits", &body);
    assert_eq!((sent.json()["data"].as_array().unwrap().len(), &sent.json()["data"]), (2, &same.json()["data"]));
    let two = form(
        &client,
        "/v1/images/edits",
        &[("image", Some("a"), &file), ("image", Some("b"), &file), ("prompt", None, b"x")],
    );
    assert_eq!((two.status, &two.json()["error"]["param"]), (400, &json!("image")));
}

#[test]
fn openai_streams_end_with_the_marker() {
    let worker = worker(&[]);
    let body = small(&json!({ "stream": true, "partial_images": 1, "steps": 4 }));
    let answer = worker.client().post("/v1/images/generations", &body);
    assert!(answer.header("content-type").unwrap().starts_with("text/event-stream"));
    let text = String::from_utf8(answer.body).unwrap();
    let lines: Vec<&str> = text.lines().filter(|l| l.starts_with("event: ") || *l == "data: [DONE]").collect();
    assert_eq!(lines, ["event: image_generation.partial_image", "event: image_generation.completed", "data: [DONE]"]);
}

#[test]
fn a_key_finds_the_same_pictures_again() {
    let worker = worker(&[]);
    let client = worker.client().with_header("idempotency-key", "one");
    let body = json!({ "prompt": "x", "steps": 2, "size": "64x64" });
    let first = client.post("/v1/images/generations", &body).json();
    assert_eq!(client.post("/v1/images/generations", &body).json()["data"], first["data"]);
    assert_eq!(worker.client().get("/v1/jobs").json()["data"].as_array().unwrap().len(), 1);
}

#[test]
fn a1111_tells_faults_in_its_own_way() {
    let worker = worker(&[]);
    let client = worker.client();
    for (path, body, status, word) in [
        ("txt2img", json!({ "sampler_name": "Eulr" }), 400, "sampler_name"),
        ("img2img", json!({}), 404, "Init image not found"),
        ("txt2img", json!({ "steps": 151 }), 422, "steps"),
        ("txt2img", json!({ "cfg_scale": 99 }), 422, "cfg_scale"),
        ("txt2img", json!({ "width": "wide", "steps": [] }), 422, "width"),
        ("txt2img", json!({ "scheduler": "kerras" }), 422, "scheduler"),
        ("txt2img", json!({ "override_settings": { "sd_model_checkpoint": "nothing" } }), 404, "sd_model_checkpoint"),
        ("txt2img", json!({ "override_settings": { "sd_vae": "other" } }), 422, "sd_vae"),
        ("options", json!({ "sd_model_checkpoint": "nothing" }), 404, "sd_model_checkpoint"),
        ("extra-single-image", json!({ "upscaler_1": "LDSR", "image": "AAAA" }), 422, "upscaler_1"),
        ("png-info", json!({ "image": "AAAA" }), 422, "image"),
        ("interrogate", json!({}), 404, "no such path"),
    ] {
        let answer = client.post(&format!("/sdapi/v1/{path}"), &body);
        let told = answer.json();
        assert_eq!(answer.status, status, "{path} {body}: {told}");
        assert!(["error", "detail", "body", "errors"].iter().all(|k| told[k].is_string()), "{told}");
        assert!(told["detail"].as_str().unwrap().contains(word), "{path} {body}: {told}");
    }
}

#[test]
fn a1111_forgives_types_and_ignores_what_it_does_not_know() {
    let worker = worker(&[]);
    let client = worker.client();
    let plain = client.post("/sdapi/v1/txt2img", &small(&json!({})));
    let odd =
        small(&json!({ "width": "64", "height": 71, "steps": 2.0, "send_images": 1, "unknown": {}, "styles": ["none"],
        "restore_faces": false, "s_churn": 0.0, "alwayson_scripts": {} }));
    let answer = client.post("/sdapi/v1/txt2img", &odd);
    assert_eq!(answer.status, 200, "{}", answer.json());
    assert_eq!(answer.json()["images"], plain.json()["images"]);
    let echo = &plain.json()["parameters"];
    assert_eq!(
        (&echo["cfg_scale"], &echo["sampler_index"], &echo["n_iter"]),
        (&json!(7.0), &json!("Euler"), &json!(1))
    );
    assert!(echo.get("unknown").is_none());
    let info: Value = serde_json::from_str(plain.json()["info"].as_str().unwrap()).unwrap();
    assert_eq!((&info["all_seeds"], &info["sampler_name"]), (&json!([1]), &json!("Euler")));
}

#[test]
fn a1111_options_last_and_overrides_do_not() {
    let worker = worker(&[]);
    let client = worker.client();
    let media = |answer: Answer| {
        let text = answer.json()["images"][0].as_str().unwrap().to_owned();
        if text.starts_with("/9j/") { "jpeg" } else { "other" }
    };
    let jpeg = json!({ "override_settings": { "samples_format": "jpg" } });
    assert_eq!(media(client.post("/sdapi/v1/txt2img", &small(&jpeg))), "jpeg");
    assert_eq!(media(client.post("/sdapi/v1/txt2img", &small(&json!({})))), "other");
    assert_eq!(client.post("/sdapi/v1/options", &json!({ "samples_format": "jpg", "unknown": 1 })).json(), Value::Null);
    assert_eq!(client.get("/sdapi/v1/options").json()["samples_format"], "jpg");
    assert_eq!(media(client.post("/sdapi/v1/txt2img", &small(&json!({})))), "jpeg");
    let kept =
        json!({ "override_settings": { "samples_format": "png" }, "override_settings_restore_afterwards": false });
    assert_eq!(media(client.post("/sdapi/v1/txt2img", &small(&kept))), "other");
    assert_eq!(client.get("/sdapi/v1/options").json()["samples_format"], "png");
}

#[test]
fn a1111_interrupt_ends_with_the_picture_as_it_is() {
    let worker = worker(&["--backend-option", "step_ms=40"]);
    let client = worker.client();
    let drawing = {
        let client = client.clone();
        let body = small(&json!({ "steps": 150, "force_task_id": "task(1)" }));
        std::thread::spawn(move || client.post("/sdapi/v1/txt2img", &body))
    };
    let progress = || client.get("/sdapi/v1/progress").json();
    let until = Instant::now() + Duration::from_secs(20);
    while progress()["current_image"].is_null() {
        assert!(Instant::now() < until, "no preview came: {}", progress());
        std::thread::sleep(Duration::from_millis(20));
    }
    let task = || client.post("/internal/progress", &json!({ "id_task": "task(1)" })).json();
    assert_eq!((&task()["active"], &task()["completed"]), (&json!(true), &json!(false)));
    assert_eq!(client.get("/sdapi/v1/progress?skip_current_image=true").json()["current_image"], Value::Null);
    assert_eq!(client.post("/sdapi/v1/interrupt", &json!({})).json(), json!({}));
    let answer = drawing.join().unwrap();
    assert_eq!((answer.status, answer.json()["images"].as_array().unwrap().len()), (200, 1));
    assert_eq!((&progress()["state"]["job_count"], &task()["completed"]), (&json!(0), &json!(true)));
    let job = &client.get("/v1/jobs").json()["data"][0];
    assert_eq!(job["status"], "completed");
    assert!(job["progress"]["step"].as_u64() < Some(150), "{job}");
}
