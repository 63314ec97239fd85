//! Models that a plugin cannot load, and jobs over which a plugin dies twice: the next plugin, or another device.
#![cfg(target_os = "linux")]

use crate::support::ends_as;
use sd_tests::{Client, Plugins, Worker, WorkerOptions, bundled_models, root};
use serde_json::{Value, json};

/// A worker on two builds of the misbehaving test plugin: the better one with a script, the other one well-behaved unless
/// it has one too.
fn worker(better: &str, other: &str) -> (Worker, Plugins) {
    let plugins = Plugins::new();
    // Of two plugins with the same score the newer is the better.
    plugins.put("better", "rogue", Plugins::build_with(2, better));
    plugins.put("other", "rogue", Plugins::build_with(1, other));
    let (dir, bundled, fixtures) = (plugins.path(), bundled_models(), root().join("tests/fixtures/models"));
    let mut args = vec!["--backend", "rogue", "--isolate", "always", "--plugin-dir", dir.to_str().unwrap()];
    args.extend(["--models-dir", bundled.to_str().unwrap(), "--models-dir", fixtures.to_str().unwrap()]);
    (Worker::start(&WorkerOptions { env: plugins.env(), ..WorkerOptions::args(&args) }), plugins)
}

fn body(model: &str) -> Value {
    json!({ "prompt": "an apple", "steps": 4, "seed": 7, "width": 64, "height": 64, "model": model })
}

fn retries(events: &[Value]) -> Vec<String> {
    let told = events.iter().filter(|e| e["action"] == "retry");
    told.map(|e| e["human"].as_str().unwrap().to_owned()).collect()
}

/// Draws; answers what was told of further tries.
fn draw(client: &Client, model: &str) -> Vec<String> {
    let events = client.run(&body(model));
    assert_eq!(ends_as(&events), "complete", "{events:?}");
    retries(&events)
}

/// The plugins that serve, each with the models for which it stands in.
fn serving(client: &Client) -> Vec<(String, Vec<String>)> {
    let list = client.get("/v1/backends").json()["serving"].clone();
    let models = |entry: &Value| {
        let models = entry["stands_in_for"].as_array().map(Vec::as_slice).unwrap_or_default();
        models.iter().map(|m| m["model"].as_str().unwrap().to_owned()).collect()
    };
    list.as_array().unwrap().iter().map(|e| (e["version"].as_str().unwrap().to_owned(), models(e))).collect()
}

fn build(n: u8, models: &[&str]) -> (String, Vec<String>) {
    (format!("0.1.0+build.{n}"), models.iter().map(|m| (*m).to_owned()).collect())
}

#[test]
fn the_next_plugin_loads_what_the_best_cannot() {
    // An error, a caught panic, a death in each process; while looking at the model and while loading it.
    for script in ["fail@load:2", "panic@load:2", "segv@load:2,segv@load?2..", "fail@inspect:2"] {
        let (worker, _plugins) = worker(script, ",");
        let client = worker.client();
        let told = draw(&client, "sd15");
        let last = told.last().unwrap_or_else(|| panic!("{script}: nothing was told"));
        assert!(last.contains("rogue 0.1.0+build.2 cannot load the model: "), "{script}: {told:?}");
        assert!(last.ends_with("; trying rogue 0.1.0+build.1"), "{script}: {told:?}");
        assert_eq!(told.len(), if script.starts_with("segv") { 2 } else { 1 }, "{script}: {told:?}");
        assert_eq!(serving(&client), [build(2, &[]), build(1, &["sd15"])], "{script}");
        assert!(worker.log_text().contains("the next one serves it from now on"), "{}", worker.log_text());
        assert!(draw(&client, "sd15").is_empty(), "{script}: it is known by now");
        assert_eq!(client.get("/ready").status, 200);
        let models = client.get("/info").json()["devices"][0]["models"].clone();
        assert!(models.as_array().unwrap().contains(&json!("sd15")), "{models}");
        assert_eq!(client.post("/v1/models/sd15/unload", &json!({})).json()["status"], "unloaded");
        // Another model is still the better one's; a reload lets it try again what it could not. A fresh process would
        // count its loads from the beginning.
        if !script.starts_with("fail") {
            continue;
        }
        draw(&client, "emoji-sd");
        assert_eq!(client.post("/v1/backends/reload", &json!({})).json()["data"][0]["outcome"], "unchanged");
        assert_eq!(serving(&client), [build(2, &[])]);
        assert!(draw(&client, "sd15").is_empty(), "{script}: it is a good one this time");
        assert_eq!(serving(&client), [build(2, &[])]);
    }
}

#[test]
fn a_worker_starts_with_the_plugin_that_can() {
    for script in ["fail@load", "abort@load"] {
        let (worker, _plugins) = worker(script, ",");
        let client = worker.client();
        assert_eq!(serving(&client), [build(2, &[]), build(1, &["emoji-sd"])], "{script}");
        assert!(draw(&client, "emoji-sd").is_empty());
    }
}

#[test]
fn what_is_not_the_plugins_fault_moves_nothing() {
    let (worker, _plugins) = worker("oom@load:2,oom@load:3", "fail@open");
    let client = worker.client();
    // Making room by the other model's leaving does not help either.
    let events = client.run(&body("sd15"));
    assert_eq!((&events.last().unwrap()["code"], retries(&events).len()), (&json!("out_of_memory"), 0), "{events:?}");
    assert_eq!(serving(&client), [build(2, &[])]);
    assert!(!worker.log_text().contains("cannot load a model"), "{}", worker.log_text());
}

#[test]
fn when_nobody_can_the_best_ones_words_are_told() {
    let (worker, _plugins) = worker("fail@load:2", "panic@load");
    let client = worker.client();
    let events = client.run(&body("sd15"));
    let error = events.last().unwrap();
    assert_eq!((&error["code"], retries(&events).len()), (&json!("backend_error"), 1), "{events:?}");
    assert!(error["message"].as_str().unwrap().contains("scripted failure in load"), "{error}");
    assert_eq!(serving(&client), [build(2, &[]), build(1, &[])]);
    assert!(draw(&client, "sd15").is_empty(), "the best one is asked first again");
}

#[test]
fn a_job_that_kills_a_device_twice_is_tried_on_another() {
    let start = |options: &[&str]| {
        let plugins = Plugins::new();
        plugins.put("rogue", "rogue", |_| ());
        let dir = plugins.path();
        let mut args = vec!["--backend", "rogue", "--isolate", "always", "--plugin-dir", dir.to_str().unwrap()];
        options.iter().for_each(|option| args.extend(["--backend-option", option]));
        let mut env = plugins.env();
        env.push(("SD_GAUSS_DEVICES".to_owned(), "2".to_owned()));
        (Worker::start(&WorkerOptions { env, ..WorkerOptions::args(&args) }), plugins)
    };
    // In each process of the first device the second step is the last.
    let (worker, _plugins) = start(&["rogue.0=segv@predict:2", "step_ms=50"]);
    let client = worker.client();
    let jobs: Vec<String> = (0..2).map(|_| client.submit(&body("emoji-sd"))).collect();
    let mut pictures = Vec::new();
    for job in &jobs {
        let events = client.events(job, 0).rest();
        assert_eq!(ends_as(&events), "complete", "{events:?}");
        let told = retries(&events);
        if events.iter().any(|e| e["event"] == "started" && e["device"] == "cpu:0") {
            assert_eq!(told.len(), 2, "{told:?}");
            assert!(told[1].ends_with("on cpu:1"), "{told:?}");
        }
        pictures.push(events.last().unwrap()["image_base64"].clone());
    }
    assert_eq!(pictures[0], pictures[1]);
    assert!(worker.log_text().contains("on cpu:1"), "one of them began on cpu:0");
    // Where both die of it, it ends after the third death.
    let (worker, _plugins) = start(&["rogue=segv@predict:2"]);
    let client = worker.client();
    let events = client.run(&body("emoji-sd"));
    assert_eq!((&events.last().unwrap()["code"], retries(&events).len()), (&json!("backend_died"), 2), "{events:?}");
    let figures = String::from_utf8(client.get("/metrics").body).unwrap();
    let deaths = |device: &str| {
        let name = format!("sd_worker_backend_deaths_total{{device=\"{device}\"}} ");
        figures.lines().find_map(|l| l.strip_prefix(&name)?.parse::<u32>().ok()).unwrap_or(0)
    };
    let mut all = [deaths("cpu:0"), deaths("cpu:1")];
    all.sort_unstable();
    assert_eq!(all, [1, 2], "{figures}");
}
