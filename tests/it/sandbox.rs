//! An isolated backend gives up rights before it sees a model, and still loads one after the other: from other folders, and
//! ones that came to be after its process began.

use crate::pictures::draw;
use sd_tests::{Worker, WorkerOptions, copy_folder, root};
use serde_json::json;
use std::{fs, path::PathBuf};

/// The worker's one child, and what the kernel says that it gave up.
fn child(worker: &Worker) -> (u32, String) {
    let parent = format!("PPid:\t{}", worker.pid());
    let status = |pid: u32| fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    let mut found: Vec<u32> = pids.filter(|pid| status(*pid).lines().any(|line| line == parent)).collect();
    assert_eq!(found.len(), 1, "one process for one device");
    let pid = found.remove(0);
    let lines = status(pid);
    let given_up = lines.lines().filter(|l| l.starts_with("NoNewPrivs") || l.starts_with("Seccomp:"));
    (pid, given_up.collect::<Vec<_>>().join(" "))
}

#[test]
fn models_from_other_folders_and_later_ones_are_loaded() {
    let models = root().join("tests/fixtures/models");
    let folder = tempfile::tempdir().unwrap();
    let [one, other, far] = ["one", "other", "far"].map(|name| folder.path().join(name));
    copy_folder(&models.join("tiny-sd"), &one.join("first"));
    fs::create_dir_all(&other).unwrap();
    let start = |isolate: &str| {
        let dirs: [&PathBuf; 2] = [&one, &other];
        let mut options = WorkerOptions::args(&[
            "--backend",
            "candle-cpu",
            "--isolate",
            isolate,
            "--max-models",
            "4",
            "--model",
            "first",
        ]);
        options.args.extend(dirs.into_iter().flat_map(|dir| ["--models-dir".to_owned(), dir.display().to_string()]));
        Worker::start(&options)
    };
    let body = |model: &str| json!({ "prompt": "x", "steps": 2, "width": 64, "height": 64, "seed": 4, "model": model });
    let worker = start("always");
    let client = worker.client();
    let before = child(&worker);
    assert_eq!(before.1, "NoNewPrivs:\t1 Seccomp:\t2", "it is shut in");
    let mut drawn = vec![draw(&client, &body("first")).0];
    // A folder that was empty when the process began, and a new one beside the first model.
    copy_folder(&models.join("sd15"), &other.join("second"));
    copy_folder(&models.join("sd15"), &one.join("third"));
    copy_folder(&models.join("tiny-sd"), &far.join("away"));
    drawn.extend(["second", "third"].map(|model| draw(&client, &body(model)).0));
    assert_eq!(child(&worker), before, "the same process did it all");
    let info = client.get("/info").json();
    assert_eq!(info["devices"][0]["models"], json!(["third", "second", "first"]));
    // Its weights are given back, and another model takes the name of one that was there.
    for model in ["first", "second", "third"] {
        assert_eq!(client.post(&format!("/v1/models/{model}/unload"), &json!({})).status, 200);
    }
    fs::rename(other.join("second"), folder.path().join("gone")).unwrap();
    fs::rename(far.join("away"), other.join("second")).unwrap();
    drawn.push(draw(&client, &body("second")).0);
    assert_eq!(child(&worker), before, "the same process did it all");
    assert!(drawn[1] == drawn[2] && drawn[0] == drawn[3] && drawn[0] != drawn[1], "each model's own pictures");
    // The same without a process of its own.
    let here = start("never");
    assert!(draw(&here.client(), &body("first")).0 == drawn[0] && draw(&here.client(), &body("third")).0 == drawn[1]);
}
