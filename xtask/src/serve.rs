//! Builds what a worker needs and starts it on the bundled model.

use crate::shell::{Outcome, cargo, root, say, step, target};
use std::process::Command;

pub(crate) fn run(args: &[String]) -> Outcome {
    build(&["sd-worker", "sd-backend-candle-cpu"])?;
    let mut worker = Command::new(target().join("sd-worker"));
    worker.arg("serve").arg("--models-dir").arg(root().join("models")).args(args);
    say("");
    // The worker prints its URL once it listens, and takes Ctrl-C itself.
    let status = worker.status().map_err(|e| format!("cannot start sd-worker: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("sd-worker ended with {status}")) }
}

/// Builds packages in the release profile.
pub(crate) fn build(packages: &[&str]) -> Outcome {
    let mut command = cargo(&["build", "--release", "--locked"]);
    for package in packages {
        command.args(["--package", package]);
    }
    step(&format!("build {}", packages.join(", ")), command)
}
