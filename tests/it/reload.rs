//! New versions of plugins, taken up while the worker runs: no job is lost, and what fails its trial serves nobody.
#![cfg(target_os = "linux")]

use crate::support::{ends_as, eventually};
use sd_tests::{Answer, Client, Plugins, Worker, WorkerOptions, bundled_models, program};
use serde_json::{Value, json};
use std::time::Duration;

const MODES: [&str; 2] = ["never", "always"];
const FILE: &str = "libsd_backend_rogue.so";

/// A worker on build 1 of the misbehaving test plugin, which behaves unless `script` says otherwise.
fn worker(isolate: &str, script: &str, more: &[&str]) -> (Worker, Plugins) {
    let plugins = Plugins::new();
    plugins.put("rogue", "rogue", Plugins::build_with(1, script));
    let dir = plugins.path();
    let mut args = vec!["--backend", "rogue", "--isolate", isolate, "--plugin-dir", dir.to_str().unwrap()];
    args.extend(more);
    let worker = Worker::start_unready(&WorkerOptions { env: plugins.env(), ..WorkerOptions::args(&args) });
    (worker, plugins)
}

fn body(steps: u32) -> Value {
    json!({ "prompt": "an apple", "steps": steps, "seed": 7, "width": 64, "height": 64 })
}

/// The picture of a job that goes well at the first try.
fn picture(events: &[Value]) -> Value {
    assert_eq!(ends_as(events), "complete", "{events:?}");
    assert!(events.iter().all(|e| e["action"] != "retry"), "{events:?}");
    events.last().unwrap()["image_base64"].clone()
}

fn reload(client: &Client) -> Answer {
    client.post("/v1/backends/reload", &json!({}))
}

/// What became of the only device.
fn change(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.json());
    let data = answer.json()["data"].clone();
    assert_eq!(data.as_array().unwrap().len(), 1, "{data}");
    data[0].clone()
}

/// The version that serves, by the list of plugins and by the worker's own description.
fn serving(client: &Client) -> String {
    let info = client.get("/info").json()["devices"][0]["version"].as_str().unwrap().to_owned();
    assert_eq!(client.get("/v1/backends").json()["serving"][0]["version"], info.as_str());
    info
}

/// The report of the only file.
fn report(client: &Client) -> Value {
    client.get("/v1/backends").json()["data"]["plugins"][0].clone()
}

#[test]
fn a_new_version_takes_over_while_jobs_run() {
    for isolate in MODES {
        let (worker, plugins) = worker(isolate, ",", &["--backend-option", "step_ms=40", "--lanes", "2"]);
        worker.wait_ready();
        let client = worker.client();
        let first = picture(&client.run(&body(4)));
        let long: Vec<String> = (0..2).map(|_| client.submit(&body(150))).collect();
        let waiting: Vec<String> = (0..4).map(|_| client.submit(&body(4))).collect();
        long.iter().for_each(|job| drop(client.events(job, 0).until("progress")));
        // Another picture of the same seed shows who drew it.
        plugins.put("rogue", "rogue", Plugins::build_with(2, "lazy@predict"));
        let told = change(&reload(&client));
        assert_eq!((&told["outcome"], &told["version"]), (&json!("switched"), &json!("0.1.0+build.2")), "{told}");
        assert!(told["reason"].as_str().unwrap().contains("took over from rogue 0.1.0+build.1"), "{told}");
        assert_eq!(serving(&client), "0.1.0+build.2");
        assert_eq!(crate::support::status(&client, &long[0]), "running", "the switch waits for no job");
        let second = picture(&client.run(&body(4)));
        assert_ne!(second, first, "{isolate}: build 2 draws");
        // What ran stays where it began, and nothing is lost.
        let old: Vec<Value> = long.iter().map(|job| picture(&client.events(job, 0).rest())).collect();
        assert_ne!(old[0], picture(&client.run(&body(150))), "{isolate}: build 1 drew it to its end");
        assert_eq!(old[0], old[1]);
        for job in &waiting {
            let drawn = picture(&client.events(job, 0).rest());
            assert!(drawn == first || drawn == second, "{isolate}");
        }
        let processes = if isolate == "always" { 1 } else { 0 };
        eventually("the old process ends", Duration::from_secs(20), || worker.children().len() == processes);
        assert_eq!((&report(&client)["state"], &report(&client)["version"]), (&json!("chosen"), &told["version"]));
        // Nothing more to do; the same bytes in another file are nothing new.
        assert_eq!(change(&reload(&client))["outcome"], "unchanged");
        plugins.put("rogue", "rogue", Plugins::build_with(2, "lazy@predict"));
        assert_eq!(change(&reload(&client))["outcome"], "unchanged");
        // And back again.
        plugins.put("rogue", "rogue", Plugins::build(1));
        assert_eq!(change(&reload(&client))["outcome"], "switched");
        assert_eq!(picture(&client.run(&body(4))), first);
        let figures = String::from_utf8(client.get("/metrics").body).unwrap();
        let loaded = figures.lines().find(|l| l.starts_with("sd_worker_model_loaded_info{")).unwrap();
        assert!(loaded.ends_with(" 1"), "{loaded}");
    }
}

#[test]
fn what_fails_its_trial_serves_nobody() {
    for isolate in MODES {
        let (worker, plugins) = worker(isolate, ",", &["--call-limit-secs", "3"]);
        worker.wait_ready();
        let client = worker.client();
        let good = picture(&client.run(&body(4)));
        for (script, code) in [
            ("segv@ctor", "plugin_process_failed"),
            ("exit@probe", "plugin_process_failed"),
            ("fail@open", "backend_open_failed"),
            ("abort@load", "backend_died"),
            ("fail@load", "backend_error"),
            ("nan@predict", "invalid_output"),
            ("hang@predict:2", "backend_hung"),
            ("panic@diffusion", "backend_panic"),
            ("kill@decode", "backend_died"),
        ] {
            plugins.put("rogue", "rogue", Plugins::build_with(2, script));
            let told = change(&reload(&client));
            let unfit = &told["unfit"][0];
            assert_eq!(
                (&told["outcome"], &unfit["code"]),
                (&json!("kept"), &json!(code)),
                "{isolate} {script}: {told}"
            );
            assert_eq!((&told["version"], &unfit["file"]), (&json!("0.1.0+build.1"), &json!(FILE)), "{told}");
            assert!(!unfit["remedy"].as_str().unwrap().is_empty() && !unfit["reason"].to_string().contains("/tmp"));
            assert_eq!(serving(&client), "0.1.0+build.1");
            let shown = report(&client);
            assert!(["failed", "refused"].contains(&shown["state"].as_str().unwrap()), "{shown}");
            let words = "version 0.1.0+build.1, opened before, serves cpu on";
            assert!(shown["reason"].as_str().unwrap().contains(words) && shown["remedy"].is_string(), "{shown}");
            assert_eq!(picture(&client.run(&body(4))), good, "{isolate} {script}");
        }
        std::fs::write(plugins.path().join("aside"), "no library").unwrap();
        std::fs::rename(plugins.path().join("aside"), plugins.file(FILE)).unwrap();
        assert_eq!(change(&reload(&client))["unfit"][0]["code"], "plugin_not_a_library");
        if isolate == "always" {
            // A process that ends is followed by one of the version that serves, not of the one in its place.
            for child in worker.children() {
                // SAFETY: kill takes plain numbers; the id is that of a child which was there a moment ago.
                unsafe { libc::kill(child, libc::SIGKILL) };
            }
            let events = client.run(&body(4));
            assert_eq!((ends_as(&events), &events.last().unwrap()["image_base64"]), ("complete", &good));
        }
        std::fs::remove_file(plugins.file(FILE)).unwrap();
        let told = change(&reload(&client));
        assert_eq!(told["outcome"], "kept");
        assert!(told["reason"].as_str().unwrap().contains("is gone"), "{told}");
        assert_eq!(picture(&client.run(&body(4))), good);
        plugins.put("rogue", "rogue", Plugins::build(3));
        assert_eq!(change(&reload(&client))["outcome"], "switched");
        assert_eq!((picture(&client.run(&body(4))), serving(&client)), (good, "0.1.0+build.3".to_owned()));
    }
}

#[test]
fn a_new_version_waits_for_memory_when_both_do_not_fit() {
    let (worker, plugins) = worker("always", ",", &["--backend-option", "step_ms=40"]);
    worker.wait_ready();
    let client = worker.client();
    let good = picture(&client.run(&body(4)));
    let running = client.submit(&body(30));
    client.events(&running, 0).until("progress");
    // The first load finds no room beside the other one's weights.
    plugins.put("rogue", "rogue", Plugins::build_with(2, "oom@load:1"));
    let told = change(&reload(&client));
    assert_eq!((&told["outcome"], serving(&client)), (&json!("switched"), "0.1.0+build.2".to_owned()), "{told}");
    assert!(worker.log_text().contains("both backends do not fit"), "{}", worker.log_text());
    picture(&client.events(&running, 0).rest());
    assert_eq!(picture(&client.run(&body(4))), good);
    // None at all: the models of the old one come back.
    plugins.put("rogue", "rogue", Plugins::build_with(3, "oom@load"));
    let told = change(&reload(&client));
    assert_eq!((&told["outcome"], &told["unfit"][0]["code"]), (&json!("kept"), &json!("out_of_memory")), "{told}");
    assert_eq!(client.get("/ready").json()["model"], "emoji-sd");
    assert_eq!(picture(&client.run(&body(4))), good);
}

#[test]
fn a_manifest_says_which_versions_may_run() {
    let plugins = Plugins::new();
    plugins.put("rogue", "rogue", Plugins::build(1));
    let manifest = plugins.path().with_file_name("plugins.sha256");
    let list = || {
        let sums = std::process::Command::new("sha256sum").arg(plugins.file(FILE)).output().unwrap();
        std::fs::write(&manifest, sums.stdout).unwrap();
    };
    list();
    let dir = plugins.path();
    let args = ["--backend", "rogue", "--plugin-dir", dir.to_str().unwrap()];
    let mut env = plugins.env();
    env.push(("SD_WORKER_PLUGIN_MANIFEST".to_owned(), manifest.to_str().unwrap().to_owned()));
    let worker = Worker::start(&WorkerOptions { env, ..WorkerOptions::args(&args) });
    let client = worker.client();
    plugins.put("rogue", "rogue", Plugins::build(2));
    let told = change(&reload(&client));
    assert_eq!((&told["outcome"], &told["unfit"][0]["code"]), (&json!("kept"), &json!("plugin_untrusted")), "{told}");
    assert!(told["unfit"][0]["reason"].as_str().unwrap().contains("the manifest plugins.sha256"), "{told}");
    list();
    assert_eq!(change(&reload(&client))["outcome"], "switched");
    let refused = std::process::Command::new(program("sd-worker"))
        .args(["--port", "0", "--backend", "rogue", "--plugin-manifest", "/nowhere/list", "--plugin-dir"])
        .arg(&dir)
        .arg("--models-dir")
        .arg(bundled_models())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && text.contains("the manifest list cannot be read"), "{text}");
    assert!(text.contains("--plugin-manifest"), "{text}");
}

#[test]
fn a_mended_version_heals_a_broken_device() {
    let (worker, plugins) = worker("always", "segv@load", &[]);
    let client = worker.client();
    eventually("the device is broken", Duration::from_secs(30), || client.get("/ready").json()["state"] == "broken");
    plugins.put("rogue", "rogue", Plugins::build(2));
    let done = std::process::Command::new(program("sd-worker"))
        .args(["backend", "reload", "--url", &worker.url])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && text.starts_with("cpu      switched   rogue 0.1.0+build.2"), "{text}");
    assert_eq!(client.get("/ready").status, 200, "{}", client.get("/ready").json());
    picture(&client.run(&body(4)));
    plugins.put("rogue", "rogue", Plugins::build_with(3, "fail@open"));
    let done = std::process::Command::new(program("sd-worker"))
        .args(["backend", "reload", "--url", &worker.url])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(!done.status.success() && text.contains("scripted failure in open") && text.contains("remedy"), "{text}");
}
