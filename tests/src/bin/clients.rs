//! Runs the scripts of `tests/clients` against three workers of their own. `cargo xtask clients` prepares what they need.
//!
//! Arguments: pairs of a program and a script. The exit code says whether every check of every script passed.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its output is its purpose")]
#![allow(clippy::expect_used, reason = "a script that cannot be run stops")]

use sd_tests::{Worker, WorkerOptions};
use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

const TOKEN: &str = "a-token-for-the-stock-clients";
/// No script takes longer.
const LIMIT: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let tokens = folder.path().join("tokens");
    std::fs::write(&tokens, format!("client:{TOKEN}\n")).expect("the token file");
    let gauss = ["--backend", "gauss", "--isolate", "never", "--log", "warn"];
    let start = |more: &[&str]| Worker::start(&WorkerOptions::args(more));
    let plain = start(&["--log", "warn"]);
    let slow = start(&[&gauss[..], &["--backend-option", "step_ms=50", "--queue-jobs", "1"]].concat());
    let closed = start(&[&gauss[..], &["--token-file", tokens.to_str().expect("a plain path")]].concat());
    let pictures = sd_tests::program("").with_file_name("clients").join("pictures");
    std::fs::create_dir_all(&pictures).expect("the pictures' folder");
    let mut failed = 0;
    for pair in args.chunks_exact(2) {
        let script = pair[1].file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        println!("\n{script}");
        let mut command = Command::new(&pair[0]);
        command
            .arg(&pair[1])
            .current_dir(pair[1].parent().unwrap_or_else(|| Path::new(".")))
            .env("SD_URL", &plain.url)
            .env("SD_SLOW_URL", &slow.url)
            .env("SD_CLOSED_URL", &closed.url)
            .env("SD_TOKEN", TOKEN)
            .env("SD_PICTURES", &pictures)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        failed += u32::from(!passes(command));
    }
    for (name, worker) in [("bundled model", &plain), ("slow", &slow), ("closed", &closed)] {
        if worker.log_text().contains("panicked") {
            eprintln!("the worker ({name}) panicked:\n{}", worker.log_text());
            failed += 1;
        }
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether a script ends well within its time.
fn passes(mut command: Command) -> bool {
    let mut child = command.spawn().expect("the script starts");
    let since = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("the script is waited for") {
            return status.success();
        }
        if since.elapsed() > LIMIT {
            eprintln!("the script does not end; stopping it");
            let _ = child.kill();
            let _ = child.wait();
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
