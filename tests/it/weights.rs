//! Weights that rot under a running worker: numbers that are none, files cut short while a model is loaded from them.

use sd_tests::{Worker, WorkerOptions, trials};
use serde_json::{Value, json};
use std::{fs, path::Path};

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

fn ends(worker: &Worker, model: &str) -> Value {
    let events = worker.client().run(&json!({ "prompt": "x", "steps": 2, "model": model, "seed": 1 }));
    let mut last = events.last().unwrap().clone();
    last["image_base64"].take();
    last
}

/// Fills the data of a safetensors file with NaN; header and length stay.
fn poison(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[start..].fill(0xff);
    fs::write(file, bytes).unwrap();
}

#[test]
fn weights_that_rot_cost_one_job_each() {
    let folder = tempfile::tempdir().unwrap();
    trials::two_models(folder.path());
    poison(&folder.path().join("model-b").join(UNET));
    let dir = folder.path().to_str().unwrap();
    let worker = Worker::start(&WorkerOptions::args(&[
        "--backend",
        "candle-cpu",
        "--isolate",
        "never",
        "--models-dir",
        dir,
        "--model",
        "model-a",
    ]));
    assert_eq!(ends(&worker, "model-a")["event"], "complete");
    let error = ends(&worker, "model-b");
    assert_eq!(error["event"], "error", "{error}");
    assert_eq!(ends(&worker, "model-a")["event"], "complete", "the next job is not touched");

    // The file shrinks under the loaded model: a mapped one would kill the process at the next read.
    let file = folder.path().join("model-a").join(UNET);
    let whole = fs::read(&file).unwrap();
    for keep in [whole.len() / 2, 100, 0] {
        fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(keep as u64).unwrap();
        let end = ends(&worker, "model-a");
        assert!(["complete", "error"].contains(&end["event"].as_str().unwrap()), "{end}");
        assert_eq!(worker.client().get("/health").status, 200);
        let load = worker.client().post("/v1/models/model-a/unload", &json!({}));
        assert!([200, 409].contains(&load.status), "{}", load.json());
        let load = worker.client().post("/v1/models/model-a/load", &json!({}));
        assert_eq!(
            (load.status, &load.json()["error"]["code"]),
            (422, &json!("model_invalid")),
            "{keep} bytes are left"
        );
        fs::write(&file, &whole).unwrap();
        let load = worker.client().post("/v1/models/model-a/load", &json!({}));
        assert_eq!(load.status, 200, "the whole file is taken again: {}", load.json());
        assert_eq!(ends(&worker, "model-a")["event"], "complete");
    }
}

#[test]
fn damaged_weights_are_refused_and_named() {
    let folder = tempfile::tempdir().unwrap();
    trials::two_models(folder.path());
    let dir = folder.path().to_str().unwrap();
    let args = [
        "--backend",
        "candle-cpu",
        "--isolate",
        "never",
        "--max-models",
        "1",
        "--models-dir",
        dir,
        "--model",
        "model-a",
    ];
    let worker = Worker::start(&WorkerOptions::args(&args));
    let client = worker.client();
    let file = folder.path().join("model-b").join(UNET);
    let whole = fs::read(&file).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let put = |at: usize, bytes: &[u8]| {
        let mut all = whole.clone();
        all[at..at + bytes.len()].copy_from_slice(bytes);
        all
    };
    let name = whole.windows(14).position(|w| w == b"conv_in.weight").unwrap();
    for (what, bytes) in [
        ("half a header", whole[..header / 2].to_vec()),
        ("half the data", whole[..header + (whole.len() - header) / 2].to_vec()),
        ("one byte short", whole[..whole.len() - 1].to_vec()),
        ("a header of 2^63 bytes", put(0, &(1u64 << 63).to_le_bytes())),
        ("a tensor of another name", put(name, b"vnoc")),
        ("a header that is no JSON", put(8, b"x")),
        ("numbers that are none", put(header, &[0xff; 4096])),
    ] {
        fs::write(&file, &bytes).unwrap();
        let answer = client.post("/v1/models/model-b/load", &json!({}));
        let error = answer.json();
        let code = error["error"]["code"].as_str().unwrap_or_default();
        assert!((400..600).contains(&answer.status), "{what}: {error}");
        assert!(["model_invalid", "backend_error"].contains(&code), "{what}: {error}");
        assert!(!error.to_string().contains(dir), "{what} gives a path away: {error}");
        assert_eq!(ends(&worker, "model-a")["event"], "complete", "{what}: the other model still draws");
    }
    fs::write(&file, &whole).unwrap();
    assert_eq!(ends(&worker, "model-b")["event"], "complete", "the whole file is taken again");
}
