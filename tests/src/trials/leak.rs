//! The soak against a backend that leaks: the proof that its meter works.

use crate::{Worker, WorkerOptions, soak};
use std::time::Duration;

/// Runs the soak for `time` against the plugin that loses 1 MiB at each picture, inside the worker's own process.
pub fn leak(time: Duration) -> soak::Verdict {
    let folder = tempfile::tempdir().expect("a folder");
    super::two_models(folder.path());
    let dir = folder.path().display().to_string();
    let mut options = WorkerOptions::args(&[
        "--backend",
        "rogue",
        "--isolate",
        "never",
        "--log",
        "warn",
        "--models-dir",
        &dir,
        "--model",
        "model-a",
        "--keep-jobs",
        "20",
        "--keep-secs",
        "5",
        "--queue-jobs",
        "32",
    ]);
    options.env.push(("SD_ROGUE".to_owned(), "leak@decode".to_owned()));
    let worker = Worker::start(&options);
    soak::run(
        &worker,
        &["model-a".to_owned(), "model-b".to_owned()],
        time,
        &soak::Plan { seed: 1, quiet: false },
        &|_| (),
    )
}
