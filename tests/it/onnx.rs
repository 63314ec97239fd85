//! The same pictures from a stranger's engine: the ONNX plugin beside candle's, on the bundled model's weights.
//!
//! ONNX Runtime is no part of the build, so these wait for `cargo xtask onnx`, which fetches it and names it with
//! `ORT_DYLIB_PATH`. They fail without it: an absent runtime must not look like equal pictures.

use crate::pictures::{draw, png};
use image::RgbImage;
use sd_tests::{Client, Worker, WorkerOptions, bundled_models, copy_folder, root};
use serde_json::{Value, json};
use std::path::Path;

/// The least likeness of two engines' pictures in dB, as of diffusers' and ours.
const LEAST_DB: f64 = 50.0;

/// Lays the bundled model out as an ONNX export: committed graphs, each with the weights that lie in a safetensors file.
fn export(folder: &Path) {
    let (model, graphs) = (bundled_models().join("emoji-sd"), root().join("tests/fixtures/onnx/emoji-sd"));
    let mut index: Value = serde_json::from_slice(&std::fs::read(model.join("model_index.json")).unwrap()).unwrap();
    index.as_object_mut().unwrap().remove("vae");
    for (part, source, weights) in [
        ("text_encoder", "text_encoder", "model"),
        ("unet", "unet", "diffusion_pytorch_model"),
        ("vae_decoder", "vae", "diffusion_pytorch_model"),
        ("vae_encoder", "vae", "diffusion_pytorch_model"),
    ] {
        let (from, to) = (model.join(source), folder.join(part));
        std::fs::create_dir_all(&to).unwrap();
        let packed = std::fs::File::open(graphs.join(format!("{part}.onnx.gz"))).unwrap();
        let mut graph = std::fs::File::create(to.join("model.onnx")).unwrap();
        std::io::copy(&mut flate2::read::GzDecoder::new(packed), &mut graph).unwrap();
        std::fs::copy(from.join(format!("{weights}.safetensors")), to.join("model.onnx_data")).unwrap();
        std::fs::copy(from.join("config.json"), to.join("config.json")).unwrap();
        index[part] = json!(["diffusers", "OnnxRuntimeModel"]);
    }
    for part in ["scheduler", "tokenizer"] {
        copy_folder(&model.join(part), &folder.join(part));
    }
    std::fs::copy(model.join("sd-worker.json"), folder.join("sd-worker.json")).unwrap();
    index["_class_name"] = "OnnxStableDiffusionPipeline".into();
    std::fs::write(folder.join("model_index.json"), index.to_string()).unwrap();
}

fn likeness(a: &RgbImage, b: &RgbImage) -> f64 {
    assert_eq!(a.dimensions(), b.dimensions());
    let squares = a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
    let mean = squares.sum::<f64>() / a.as_raw().len() as f64;
    20.0 * (255.0 / mean.sqrt()).log10()
}

/// A worker with one backend, whose answers to probes are kept apart from other workers'.
fn worker(backend: &str, models: &Path, cache: &Path) -> (Worker, Client) {
    let models = models.display().to_string();
    let mut options = WorkerOptions::args(&["--backend", backend, "--models-dir", &models]);
    options.env.push(("XDG_CACHE_HOME".to_owned(), cache.display().to_string()));
    let worker = Worker::start(&options);
    let client = worker.client();
    (worker, client)
}

#[test]
#[ignore = "NOT RUN: it needs ONNX Runtime; `cargo xtask onnx` fetches it and runs this"]
#[allow(clippy::print_stderr, reason = "the figures")]
fn onnx_draws_what_candle_draws() {
    let runtime =
        std::env::var_os("ORT_DYLIB_PATH").expect("ORT_DYLIB_PATH names ONNX Runtime's library or its folder");
    assert!(Path::new(&runtime).exists(), "ORT_DYLIB_PATH: {} is not there", Path::new(&runtime).display());
    let folder = tempfile::tempdir().unwrap();
    export(&folder.path().join("emoji-sd"));
    let (_candle, candle) = worker("candle-cpu", &bundled_models(), folder.path());
    let (_onnx, onnx) = worker("onnx", folder.path(), folder.path());
    assert_eq!(onnx.get("/info").json()["devices"][0]["backend"], "onnx");
    let mut start = None;
    for mut body in [
        json!({ "prompt": "panda", "steps": 20, "seed": 7 }),
        json!({ "prompt": "(red:1.4) apple", "negative_prompt": "leaf", "steps": 12, "seed": 3, "sampler": "dpmpp_2m" }),
        json!({ "prompt": "blue car", "steps": 8, "seed": 11, "n": 3, "width": 96, "height": 64 }),
        json!({ "prompt": "panda in a hat", "steps": 10, "seed": 5, "strength": 0.6, "init_image": "the first one" }),
    ] {
        if body.get("init_image").is_some() {
            body["init_image"] = png(start.as_ref().unwrap());
        }
        let (wanted, _) = draw(&candle, &body);
        let (got, _) = draw(&onnx, &body);
        assert_eq!(wanted.len(), got.len());
        for (wanted, got) in wanted.iter().zip(&got) {
            let db = likeness(wanted, got);
            eprintln!("{}: {db:.1} dB", body["prompt"]);
            assert!(db >= LEAST_DB, "{}: {db:.1} dB", body["prompt"]);
        }
        start = start.or_else(|| wanted.into_iter().next());
    }
}
