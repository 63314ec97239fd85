//! Several devices: which are opened, which one does a job, and what the failure of one means for the others.
#![cfg(target_os = "linux")]

use sd_tests::{Client, Plugins, Worker, WorkerOptions, bundled_models, program};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A worker on a test plugin that offers the processor as so many devices.
fn worker(plugin: &str, devices: u32, more: &[&str]) -> (Worker, Plugins) {
    let plugins = Plugins::new();
    plugins.put(plugin, plugin, |_| ());
    let dir = plugins.path();
    let mut args = vec!["--backend", plugin, "--isolate", "always", "--plugin-dir", dir.to_str().unwrap()];
    args.extend(more);
    let mut env = plugins.env();
    env.push(("SD_GAUSS_DEVICES".to_owned(), devices.to_string()));
    (Worker::start(&WorkerOptions { env, ..WorkerOptions::args(&args) }), plugins)
}

fn labels(client: &Client) -> Vec<String> {
    let info = client.get("/info").json();
    info["devices"].as_array().unwrap().iter().map(|d| d["device"].as_str().unwrap().to_owned()).collect()
}

fn body(steps: u32) -> Value {
    json!({ "prompt": "x", "steps": steps, "width": 64, "height": 64, "guidance_scale": 1 })
}

/// Follows jobs to their good ends; answers how many ran on each device.
fn shares(client: &Client, jobs: &[String]) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for job in jobs {
        let events = client.events(job, 0).rest();
        assert_eq!(events.last().unwrap()["event"], "complete", "{events:?}");
        let started = events.iter().find(|e| e["event"] == "started").unwrap();
        *shares.entry(started["device"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    shares
}

#[test]
fn all_devices_of_the_best_backend_work() {
    let (worker, _plugins) = worker("gauss", 3, &["--backend-option", "step_ms=30"]);
    let client = worker.client();
    assert_eq!(labels(&client), ["cpu:0", "cpu:1", "cpu:2"]);
    let info = client.get("/info").json();
    assert!(info["devices"].as_array().unwrap().iter().all(|d| d["model"] == "emoji-sd"), "each has it: {info}");
    assert_eq!(worker.children().len(), 3, "a process each");
    let jobs: Vec<String> = (0..3).map(|_| client.submit(&body(30))).collect();
    let shares = shares(&client, &jobs);
    assert_eq!(shares.values().copied().collect::<Vec<_>>(), [1, 1, 1], "{shares:?}");
    let list = client.get("/v1/models").json();
    let entry = list["data"].as_array().unwrap().iter().find(|m| m["id"] == "emoji-sd").unwrap().clone();
    assert_eq!(entry["devices"], json!(["cpu:0", "cpu:1", "cpu:2"]));
    let backends = client.get("/v1/backends").json();
    let reason = backends["data"]["plugins"][0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("cpu:0, cpu:1, cpu:2: "), "{reason}");
    assert_eq!(client.post("/v1/models/emoji-sd/unload", &json!({})).json()["status"], "unloaded");
    assert!(client.get("/ready").json()["models"].as_array().unwrap().is_empty());
}

#[test]
fn the_operator_chooses() {
    for (wish, expected) in [
        ("cpu:2", &["cpu:2"][..]),
        ("cpu:0,cpu:2", &["cpu:0", "cpu:2"]),
        ("all", &["cpu:0", "cpu:1", "cpu:2"]),
        ("0", &["cpu:0"]),
        ("cpu", &["cpu:0"]),
    ] {
        let (worker, _plugins) = worker("gauss", 3, &["--device", wish]);
        assert_eq!(labels(&worker.client()), expected, "{wish}");
    }
    let models = bundled_models();
    for wish in ["cuda:7", "cpu,tpu"] {
        let mut command = std::process::Command::new(program("sd-worker"));
        command.args(["serve", "--port", "0", "--backend", "gauss", "--device", wish, "--models-dir"]).arg(&models);
        let done = command.output().unwrap();
        let text = String::from_utf8_lossy(&done.stderr);
        let missing = wish.rsplit(',').next().unwrap();
        assert_eq!(done.status.code(), Some(1), "{text}");
        assert!(text.contains(&format!("no backend offers device `{missing}`; this machine has: cpu")), "{text}");
    }
}

#[test]
fn the_faster_device_does_more() {
    let slow = ["--backend-option", "step_ms.0=150", "--backend-option", "step_ms.1=3"];
    let (worker, _plugins) = worker("gauss", 2, &slow);
    let client = worker.client();
    // Both are tried once; from then on their pace is known.
    let first: Vec<String> = (0..2).map(|_| client.submit(&body(8))).collect();
    assert_eq!(shares(&client, &first).len(), 2);
    let jobs: Vec<String> = (0..20).map(|_| client.submit(&body(8))).collect();
    let shares = shares(&client, &jobs);
    assert!(shares["cpu:1"] >= 16, "{shares:?}");
}

#[test]
fn the_death_of_one_device_does_not_stop_the_others() {
    let (worker, _plugins) = worker("rogue", 2, &["--backend-option", "rogue.1=segv@load"]);
    let client = worker.client();
    let info = client.get("/info").json();
    let states: Vec<&Value> = info["devices"].as_array().unwrap().iter().map(|d| &d["state"]).collect();
    assert_eq!(states, ["ready", "broken"], "{info}");
    assert!(info["devices"][1]["reason"].as_str().unwrap().contains("SIGSEGV"), "{info}");
    assert_eq!(client.get("/ready").status, 200);
    let jobs: Vec<String> = (0..6).map(|_| client.submit(&body(4))).collect();
    assert_eq!(shares(&client, &jobs), BTreeMap::from([("cpu:0".to_owned(), 6)]));
}

#[test]
fn a_device_that_does_not_open_is_said_and_left_out() {
    let (worker, _plugins) = worker("rogue", 2, &["--backend-option", "rogue.0=fail@open"]);
    let client = worker.client();
    assert_eq!(labels(&client), ["cpu:1"]);
    assert!(worker.log_text().contains("no backend works on this device"), "{}", worker.log_text());
    let backends = client.get("/v1/backends").json();
    let plugin = &backends["data"]["plugins"][0];
    let reason = plugin["reason"].as_str().unwrap();
    assert!(reason.starts_with("cpu:1: ") && reason.contains("scripted failure in open"), "{plugin}");
    assert_eq!((&plugin["state"], plugin["remedy"].is_string()), (&json!("chosen"), true));
    shares(&client, &[client.submit(&body(2))]);
}

#[test]
fn the_next_best_plugin_serves_when_the_best_fails() {
    let plugins = Plugins::new();
    // Of two plugins with the same score the newer is the better.
    plugins.put("new", "rogue", Plugins::build_with(2, "fail@open"));
    plugins.put("old", "rogue", Plugins::build(1));
    let dir = plugins.path();
    let args = ["--backend", "rogue", "--isolate", "always", "--plugin-dir", dir.to_str().unwrap()];
    let worker = Worker::start(&WorkerOptions { env: plugins.env(), ..WorkerOptions::args(&args) });
    let client = worker.client();
    shares(&client, &[client.submit(&body(2))]);
    assert!(worker.log_text().contains("scripted failure in open; trying the next one"), "{}", worker.log_text());
    let backends = client.get("/v1/backends").json();
    let state = |n: usize| {
        let plugin = &backends["data"]["plugins"][n];
        (plugin["file"].as_str().unwrap().to_owned(), plugin["state"].as_str().unwrap().to_owned())
    };
    assert_eq!(state(0), ("libsd_backend_old.so".to_owned(), "chosen".to_owned()), "{backends}");
    assert_eq!(state(1), ("libsd_backend_new.so".to_owned(), "failed".to_owned()), "{backends}");
}
