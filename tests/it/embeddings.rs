//! Textual inversion over HTTP: files in `embeddings`, named in prompts, against diffusers' own loader.

use crate::parity::{Golden, draw, psnr};
use sd_tests::{Worker, WorkerOptions, copy_folder, root};
use serde_json::{Value, json};
use std::fs;

/// A models directory with the tiny models and embeddings of every kind.
fn models() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let fixtures = root().join("tests/fixtures");
    for family in ["sd15", "sdxl"] {
        copy_folder(&fixtures.join("models").join(family), &dir.path().join(family));
    }
    copy_folder(&fixtures.join("embeddings"), &dir.path().join("embeddings"));
    let at = |name: &str| dir.path().join("embeddings").join(name);
    let vectors: Vec<f32> = (0..64).map(|i| (i as f32 * 0.37).sin()).collect();
    // diffusers' layout: one tensor that is named by its token.
    fs::write(at("Ink-Wash.safetensors"), safetensors("<ink>", &[2, 32], &vectors)).unwrap();
    fs::write(at("wide.safetensors"), safetensors("emb_params", &[1, 64], &vectors)).unwrap();
    fs::write(at("old.pt"), b"PK\x03\x04 a pickle").unwrap();
    fs::write(at("lying.safetensors"), b"PK\x03\x04 a pickle under another name").unwrap();
    let broken = vectors.iter().map(|v| if *v == 0.0 { f32::NAN } else { *v }).collect::<Vec<_>>();
    fs::write(at("nan.safetensors"), safetensors("emb_params", &[2, 32], &broken)).unwrap();
    fs::write(at("notes.txt"), b"no embedding").unwrap();
    dir
}

fn safetensors(name: &str, shape: &[usize], values: &[f32]) -> Vec<u8> {
    let mut header =
        json!({ name: { "dtype": "F32", "shape": shape, "data_offsets": [0, values.len() * 4] } }).to_string();
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    bytes
}

#[test]
fn embeddings_draw_what_diffusers_draws() {
    let dir = models();
    let worker = Worker::start(&WorkerOptions::args(&[
        "--log",
        "warn",
        "--models-dir",
        dir.path().to_str().unwrap(),
        "--model",
        "sd15",
    ]));
    let client = worker.client();
    let facts: Value =
        serde_json::from_str(&fs::read_to_string(root().join("tests/fixtures/goldens/embeddings.json")).unwrap())
            .unwrap();
    let golden = Golden::read("embeddings");
    // Twice each: the first model is loaded anew for its second picture, and its tokens are added anew.
    for family in ["sd15", "sdxl", "sd15", "sdxl"] {
        let about = &facts[family]["embedding"];
        let (_, wanted) = golden.get(&format!("{family}.embedding.image"));
        let prompt = about["prompt"].as_str().unwrap();
        let name = if family == "sd15" { "tiny-style" } else { "tiny-style-xl" };
        assert!(prompt.contains(name));
        for prompt in [prompt.to_owned(), prompt.replace(name, &format!("embedding:{}", name.to_uppercase()))] {
            let body = json!({
                "model": family, "prompt": prompt, "negative_prompt": about["negative"], "seed": about["seed"],
                "steps": about["steps"], "guidance_scale": about["guidance"], "width": about["width"],
                "height": about["height"], "sampler": about["scheduler"]["_class_name"],
            });
            let ratio = psnr(draw(&client, &body).unwrap().as_raw(), &wanted);
            assert!(ratio >= 50.0, "{family}, {prompt}: {ratio:.1} dB");
        }
    }
}

#[test]
fn what_is_no_embedding_is_told() {
    let dir = models();
    let worker = Worker::start(&WorkerOptions::args(&[
        "--log",
        "warn",
        "--models-dir",
        dir.path().to_str().unwrap(),
        "--model",
        "sd15",
    ]));
    worker.wait_ready();
    let client = worker.client();
    let list = client.get("/sdapi/v1/embeddings").json();
    let names = |key: &str| list[key].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names("loaded"), ["Ink-Wash", "nan", "tiny-style"]);
    assert_eq!(names("skipped"), ["tiny-style-xl", "wide"]);
    assert_eq!(
        (&list["loaded"]["tiny-style"]["vectors"], &list["loaded"]["tiny-style"]["shape"]),
        (&json!(2), &json!(32))
    );
    assert_eq!(client.get("/v1/models").json()["data"].as_array().unwrap().len(), 2, "the folder is no model");

    for (word, reason) in [
        ("embedding:nope", "not installed"),
        ("embedding:old", "pickle"),
        ("embedding:lying", "pickle"),
        ("embedding:wide", "another family"),
        ("embedding:tiny-style-xl", "another family"),
    ] {
        for field in ["prompt", "negative_prompt"] {
            let mut body = json!({ "prompt": "x", "steps": 1 });
            body[field] = word.into();
            let answer = client.post("/v1/jobs", &body);
            let error = &answer.json()["error"];
            assert_eq!((answer.status, error["field"].as_str()), (422, Some(field)), "{word}: {error}");
            let message = error["message"].as_str().unwrap();
            assert!(message.contains(reason) && !message.contains(dir.path().to_str().unwrap()), "{message}");
        }
    }
    // The values are read when they are used.
    let last = client.run(&json!({ "prompt": "embedding:nan", "steps": 1 })).pop().unwrap();
    assert_eq!((last["event"].as_str(), last["code"].as_str()), (Some("error"), Some("invalid_request")), "{last}");

    // A bare word is an embedding where one fits, and text where none does.
    let picture = |prompt: &str| draw(&client, &json!({ "prompt": prompt, "steps": 2, "seed": 1 })).unwrap();
    assert_eq!(picture("a ink-wash cat"), picture("a embedding:Ink-Wash cat"));
    assert_ne!(picture("a ink-wash cat"), picture("a inkwash cat"));
    assert_ne!(picture("a (ink-wash:1.4) cat"), picture("a ink-wash cat"));
    assert!(draw(&client, &json!({ "prompt": "a wide cat", "steps": 1 })).is_ok());
    // A file that was changed is another embedding.
    let before = picture("ink-wash");
    let vectors: Vec<f32> = (0..64).map(|i| (i as f32 * 0.91).cos()).collect();
    fs::write(dir.path().join("embeddings/Ink-Wash.safetensors"), safetensors("<ink>", &[2, 32], &vectors)).unwrap();
    assert_ne!(picture("ink-wash"), before);
}
