//! Several models on one device: as many as fit stay, the one unused for longest goes, a failed load costs nothing.

use sd_tests::{Client, Worker, WorkerOptions, root};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A worker that knows the bundled model and the tiny ones of the fixtures.
fn worker(backend: &str, more: &[&str], env: &[(&str, &str)]) -> Worker {
    let fixtures = root().join("tests/fixtures/models");
    let bundled = sd_tests::bundled_models();
    let mut args = vec!["--models-dir", bundled.to_str().unwrap(), "--models-dir", fixtures.to_str().unwrap()];
    args.extend(["--backend", backend, "--isolate", "never"]);
    args.extend(more);
    let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Worker::start(&WorkerOptions { env, ..WorkerOptions::args(&args) })
}

/// The loaded models, the one used last first.
fn loaded(client: &Client) -> Vec<String> {
    let info = client.get("/info").json();
    let models = info["devices"][0]["models"].as_array().expect("models");
    models.iter().map(|m| m.as_str().unwrap().to_owned()).collect()
}

fn draw(client: &Client, model: &str) -> Vec<Value> {
    let events = client.run(&json!({ "prompt": "x", "steps": 2, "width": 64, "height": 64, "model": model }));
    assert_eq!(events.last().unwrap()["event"], "complete", "{events:?}");
    events
}

#[test]
fn models_stay_side_by_side() {
    let worker = worker("gauss", &[], &[]);
    let client = worker.client();
    for model in ["sd15", "tiny-sd", "emoji-sd", "sd15"] {
        draw(&client, model);
    }
    assert_eq!(loaded(&client), ["sd15", "emoji-sd", "tiny-sd"]);
    let ready = client.get("/ready").json();
    assert_eq!((&ready["model"], &ready["models"]), (&json!("sd15"), &json!(["sd15", "emoji-sd", "tiny-sd"])));
    let list = client.get("/v1/models").json();
    let entry = |id: &str| list["data"].as_array().unwrap().iter().find(|m| m["id"] == id).unwrap().clone();
    assert_eq!((&entry("tiny-sd")["loaded"], &entry("tiny-sd")["devices"]), (&json!(true), &json!(["cpu"])));
    assert_eq!((&entry("sdxl")["loaded"], &entry("sdxl")["devices"]), (&json!(false), &json!([])));
    let figures = String::from_utf8(client.get("/metrics").body).unwrap();
    assert_eq!(figures.matches("sd_worker_model_loaded_info{").count(), 3, "{figures}");
    // Loads happened once each: a model that stayed was not loaded again.
    assert!(figures.contains("sd_worker_model_swaps_total{outcome=\"ok\"} 3"), "{figures}");
    assert_eq!(client.post("/v1/models/tiny-sd/unload", &json!({})).json()["status"], "unloaded");
    assert_eq!(client.post("/v1/models/tiny-sd/unload", &json!({})).json()["status"], "not_loaded");
    assert_eq!(loaded(&client), ["sd15", "emoji-sd"]);
    let figures = String::from_utf8(client.get("/metrics").body).unwrap();
    assert_eq!(figures.matches("sd_worker_model_loaded_info{").count(), 2, "{figures}");
}

#[test]
fn the_operator_may_bound_their_number() {
    let worker = worker("gauss", &["--max-models", "2"], &[]);
    let client = worker.client();
    draw(&client, "sd15");
    draw(&client, "emoji-sd");
    draw(&client, "tiny-sd");
    assert_eq!(loaded(&client), ["tiny-sd", "emoji-sd"], "the one unused for longest went");
}

#[test]
fn memory_bounds_their_number() {
    // Three models of 300 do not fit into nine tenths of 900.
    let sizes = ["--backend-option", "weight_bytes=300000000,total_bytes=900000000"];
    let worker = worker("gauss", &sizes, &[]);
    let client = worker.client();
    draw(&client, "sd15");
    assert_eq!(loaded(&client), ["sd15", "emoji-sd"]);
    draw(&client, "tiny-sd");
    assert_eq!(loaded(&client), ["tiny-sd", "sd15"]);
    let figures = String::from_utf8(client.get("/metrics").body).unwrap();
    assert!(figures.contains("sd_worker_device_memory_bytes{device=\"cpu\",state=\"model\"} 600000000"), "{figures}");
}

#[test]
fn a_model_larger_than_the_device_is_left_to_the_backend() {
    let worker = worker("gauss", &["--backend-option", "weight_bytes=2000,total_bytes=1000"], &[]);
    let client = worker.client();
    draw(&client, "sd15");
    assert_eq!(loaded(&client), ["sd15"], "it tried alone");
}

#[test]
fn a_failed_load_costs_nothing() {
    // The second load fails; with room for one model the first had to go for it, and comes back.
    for (bound, loads) in [("8", 2), ("1", 3)] {
        let worker = worker("rogue", &["--max-models", bound], &[("SD_ROGUE", "fail@load:2")]);
        let client = worker.client();
        let answer = client.post("/v1/models/sd15/load", &json!({}));
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (500, &json!("backend_error")));
        assert_eq!(loaded(&client), ["emoji-sd"]);
        let events = draw(&client, "emoji-sd");
        assert!(!events.iter().any(|e| e["event"] == "narration"), "nothing was loaded: {events:?}");
        let log = worker.log_text();
        assert_eq!(log.matches("model loaded").count(), loads - 1, "{log}");
        // The third or fourth load is a good one.
        draw(&client, "sd15");
    }
}

#[test]
fn a_broken_model_costs_nothing_either() {
    let worker = worker("gauss", &["--max-models", "1"], &[]);
    let client = worker.client();
    for (name, status) in [("nothing-of-this-name", 404), ("..%2f..%2fetc", 400)] {
        assert_eq!(client.post(&format!("/v1/models/{name}/load"), &json!({})).status, status, "{name}");
        assert_eq!(loaded(&client), ["emoji-sd"]);
    }
}

#[test]
fn lack_of_memory_while_loading_takes_the_oldest_down() {
    let worker = worker("rogue", &[], &[("SD_ROGUE", "oom@load:2")]);
    let client = worker.client();
    draw(&client, "sd15");
    assert_eq!(loaded(&client), ["sd15"], "the first model made room for a second try");
}

#[test]
fn a_model_in_use_is_not_taken_away() {
    let worker = worker("gauss", &["--max-models", "1", "--lanes", "2", "--backend-option", "step_ms=20"], &[]);
    let client = worker.client();
    let body = |model: &str, steps: u32| json!({ "prompt": "x", "steps": steps, "model": model });
    let first = client.submit(&body("emoji-sd", 40));
    client.events(&first, 0).until("progress");
    assert_eq!(client.post("/v1/models/emoji-sd/unload", &json!({})).status, 409);
    // Another model waits for it, and those who come later for the first model do not overtake it for ever.
    let other = client.submit(&body("sd15", 2));
    let later: Vec<String> = (0..4).map(|_| client.submit(&body("emoji-sd", 10))).collect();
    for job in [&first, &other].into_iter().chain(&later) {
        assert_eq!(client.events(job, 0).rest().last().unwrap()["event"], "complete");
    }
}

#[test]
fn idle_models_go() {
    let worker = worker("gauss", &["--idle-unload-secs", "1"], &[]);
    let client = worker.client();
    draw(&client, "sd15");
    let until = Instant::now() + Duration::from_secs(20);
    while !loaded(&client).is_empty() {
        assert!(Instant::now() < until, "{:?}", loaded(&client));
        std::thread::sleep(Duration::from_millis(100));
    }
    draw(&client, "sd15");
}

#[test]
fn memory_comes_back_after_unloading() {
    let worker = worker("candle-cpu", &["--max-models", "1"], &[]);
    let client = worker.client();
    let swap = |times: u32| {
        for _ in 0..times {
            for model in ["emoji-sd", "sd15"] {
                assert_eq!(client.post(&format!("/v1/models/{model}/load"), &json!({})).status, 200);
            }
        }
        for model in ["emoji-sd", "sd15"] {
            assert_eq!(client.post(&format!("/v1/models/{model}/unload"), &json!({})).status, 200);
        }
        worker.rss_kib()
    };
    let before = swap(25);
    let after = swap(30);
    assert!(after < before + before / 10, "{before} KiB became {after} KiB");
}
