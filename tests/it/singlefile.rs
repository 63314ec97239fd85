//! Single-file checkpoints: imported, inspected, drawn, removed; the pictures are those of the same weights as a folder.

use crate::parity::draw;
use sd_tests::{Worker, WorkerOptions, bundled_models, copy_folder, program, root};
use serde_json::{Value, json};
use std::{fs, path::Path, process::Command};

/// `sd-worker models …`: exit code, output, complaints.
fn models(args: &[&str]) -> (Option<i32>, String, String) {
    let done = Command::new(program("sd-worker")).arg("models").args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.code(), text(&done.stdout), text(&done.stderr))
}

/// The single file of a family as somebody would have downloaded it, with what its tensors cannot tell beside it: the
/// small tokenizer, and the folder's own scheduler.
fn download(to: &Path, family: &str) -> String {
    fs::create_dir_all(to).unwrap();
    let folder = root().join("tests/fixtures/models").join(family);
    fs::copy(
        root().join("tests/fixtures/singlefile").join(format!("{family}.safetensors")),
        to.join(format!("{family}.safetensors")),
    )
    .unwrap();
    let scheduler: Value =
        serde_json::from_str(&fs::read_to_string(folder.join("scheduler/scheduler_config.json")).unwrap()).unwrap();
    let mut notes = json!({ "scheduler": scheduler });
    for tokenizer in ["tokenizer", "tokenizer_2"] {
        if folder.join(tokenizer).exists() {
            copy_folder(&folder.join(tokenizer), &to.join(tokenizer));
            notes[tokenizer] = tokenizer.into();
        }
    }
    if family == "sd21-v" {
        notes["family"] = "sd2-v".into();
    }
    fs::write(to.join(format!("{family}.sd-worker.json")), notes.to_string()).unwrap();
    to.join(format!("{family}.safetensors")).to_str().unwrap().to_owned()
}

#[test]
fn a_single_file_draws_what_its_folder_draws() {
    let dir = tempfile::tempdir().unwrap();
    let (downloads, library) = (dir.path().join("downloads"), dir.path().join("models"));
    let place = library.to_str().unwrap();
    for family in ["sd15", "sd21-v", "sdxl"] {
        copy_folder(&root().join("tests/fixtures/models").join(family), &library.join(family));
        let file = download(&downloads.join(family), family);
        let name = format!("{family}-file");
        let (code, out, err) = models(&["import", &file, "--name", &name, "--models-dir", place]);
        assert!(code == Some(0) && out.contains(&name), "{out}{err}");
        let (code, out, err) = models(&["inspect", &name, "--models-dir", place]);
        assert_eq!(code, Some(0), "{out}{err}");
        for said in ["single-file", "million in F16", "512 × 512", "768 × 768", "1024 × 1024", "missing      nothing"]
        {
            assert!(out.contains(said), "{said}: {out}");
        }
        let (code, _, err) = models(&["import", &file, "--name", &name, "--models-dir", place]);
        assert!(code == Some(1) && err.contains("already"), "{err}");
    }
    // What was downloaded is not needed any more.
    fs::remove_dir_all(&downloads).unwrap();
    let worker = Worker::start(&WorkerOptions::args(&["--log", "warn", "--models-dir", place, "--model", "sd15-file"]));
    let client = worker.client();
    for family in ["sd15", "sd21-v", "sdxl"] {
        let picture = |model: &str| {
            let body = json!({
                "model": model, "prompt": "a red (apple:1.2) on the table", "negative_prompt": "dark", "seed": 5, "steps": 8,
                "width": 64, "height": 48, "guidance_scale": 6.0,
            });
            draw(&client, &body).unwrap()
        };
        assert_eq!(picture(&format!("{family}-file")), picture(family), "{family}: bit by bit");
    }
    let (code, out, _) = models(&["rm", "sd15-file", "--models-dir", place]);
    assert!(code == Some(0) && out.contains("removed"), "{out}");
    let left: Vec<String> =
        library.read_dir().unwrap().flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    assert!(!left.iter().any(|name| name.starts_with("sd15-file")), "{left:?}");
}

#[test]
fn inspect_tells_all_that_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    copy_folder(&root().join("tests/fixtures/models/sd15"), &dir.path().join("sd15"));
    fs::remove_file(dir.path().join("sd15/vae/config.json")).unwrap();
    fs::remove_file(dir.path().join("sd15/text_encoder/model.safetensors")).unwrap();
    let place = dir.path().to_str().unwrap();
    let (code, out, err) = models(&["inspect", "sd15", "--models-dir", place]);
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(out.contains("vae/config.json") && out.contains("text_encoder/model.safetensors"), "{out}");
    assert!(out.contains("missing      ") && !out.contains(place), "{out}");
}

#[test]
fn the_bundled_model_stays() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("emoji-sd");
    copy_folder(&bundled_models().join("emoji-sd"), &model);
    let rm = || models(&["rm", "emoji-sd", "--models-dir", dir.path().to_str().unwrap()]);
    let (code, _, err) = rm();
    assert!(code == Some(1) && err.contains("served by default"), "{err}");
    assert!(model.join("model_index.json").exists());
    // What does not say that it is bundled is the operator's own.
    fs::remove_file(model.join("sd-worker.json")).unwrap();
    let (code, _, err) = rm();
    assert_eq!(code, Some(0), "{err}");
    assert!(!model.exists());
}
