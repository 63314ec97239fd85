//! The README's examples, run word for word against a real worker.

use sd_tests::{Worker, WorkerOptions, root};
use std::process::Command;

/// The code blocks of a language, in order.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).filter_map(|rest| rest.split("\n```").next()).map(str::to_owned).collect()
}

fn run(program: &str, flag: &str, script: &str) {
    let worker = Worker::start(&WorkerOptions::default());
    let folder = tempfile::tempdir().unwrap();
    // Only the port differs from what a reader types.
    let script = script.replace("http://127.0.0.1:8600", &worker.url);
    let done = Command::new(program).arg(flag).arg(&script).current_dir(folder.path()).output().unwrap();
    assert!(
        done.status.success(),
        "{script}\n--- said\n{}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    let picture =
        std::fs::read_dir(folder.path()).unwrap().flatten().find(|e| e.file_name().to_string_lossy().ends_with(".png"));
    let picture = picture.unwrap_or_else(|| panic!("no picture came of\n{script}"));
    let (width, height) = image::image_dimensions(picture.path()).unwrap();
    assert_eq!((width, height), (64, 64));
}

#[test]
fn the_curl_example_draws() {
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    let scripts: Vec<String> = blocks(&text, "sh").into_iter().filter(|b| b.contains("curl")).collect();
    assert_eq!(scripts.len(), 1);
    run("bash", "-euc", &scripts[0]);
}

#[test]
fn the_python_example_draws() {
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    let scripts = blocks(&text, "python");
    assert_eq!(scripts.len(), 1);
    run("python3", "-c", &scripts[0]);
}
