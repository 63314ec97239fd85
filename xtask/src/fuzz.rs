//! The fuzzer: `cargo xtask fuzz [TARGET…] [--seconds N]`, on the stable toolchain.
//!
//! libFuzzer needs to see which branches an input takes. The compiler can tell it through LLVM's own options, which need no
//! nightly; only this project's crates are compiled that way (as cargo's workspace wrapper, which is this program again), so
//! that dependencies are not built a second time.

use crate::shell::{Outcome, cargo, root, say, step, target};
use std::{path::Path, process::Command};

/// Set for the compiler wrapper.
pub(crate) const WRAPPER: &str = "SD_FUZZ_WRAPPER";

/// What makes the compiler count branches, and check what a release build takes on trust.
const COVERAGE: [&str; 9] = [
    "-Cdebug-assertions=on",
    "-Coverflow-checks=on",
    "--cfg",
    "fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// The readers worth counting in: the host and its parts.
const COUNTED: [&str; 6] = ["sd_worker", "sd_images", "sd_models", "sd_plugins", "sd_prompt", "sd_fuzz"];

/// Compiles one crate, with coverage if it is one of ours.
pub(crate) fn wrap(args: &[String]) -> Outcome {
    let (rustc, rest) = args.split_first().ok_or("the compiler is missing")?;
    let name = rest.windows(2).find(|pair| pair[0] == "--crate-name").map(|pair| pair[1].as_str());
    let mut command = Command::new(rustc);
    command.args(rest);
    if name.is_some_and(|n| COUNTED.contains(&n)) {
        command.args(COVERAGE);
    }
    let status = command.status().map_err(|e| format!("cannot start {rustc}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{} failed", name.unwrap_or("rustc"))) }
}

pub(crate) fn run(args: &[String]) -> Outcome {
    let (mut seconds, mut targets, mut rest) = ("60".to_owned(), Vec::new(), args.iter());
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "--seconds" => seconds.clone_from(rest.next().ok_or("--seconds needs a number")?),
            name => targets.push(name.to_owned()),
        }
    }
    if targets.is_empty() {
        targets = corpus_names()?;
    }
    let own = std::env::current_exe().map_err(|e| format!("where is this program? {e}"))?;
    // A folder beside the other builds: the wrapped crates must not take the place of the plain ones.
    let mut build =
        cargo(&["build", "--release", "--locked", "--workspace", "--bin", "fuzz", "--features", "sd-fuzz/engine"]);
    build.env("RUSTC_WORKSPACE_WRAPPER", own).env(WRAPPER, "1");
    step("build the fuzzer", build)?;
    let found = target().join("fuzz-found");
    let mut failed = Vec::new();
    for name in targets {
        let seeds = root().join("fuzz/corpus").join(&name);
        let (work, crashes) = (found.join(&name), found.join(format!("{name}-")));
        std::fs::create_dir_all(&work).map_err(|e| format!("{}: {e}", work.display()))?;
        let mut fuzzer = Command::new(target().join("fuzz"));
        fuzzer.env("SD_FUZZ_TARGET", &name).args(limits(&seconds, &crashes)).arg(&work).arg(&seeds);
        // What one target found is no reason to leave the others out.
        if let Err(message) = step(&format!("fuzz {name}"), fuzzer) {
            say(&message);
            failed.push(name);
        }
    }
    let place = found.display();
    if failed.is_empty() {
        say(&format!("\nnothing was found; the inputs that were kept lie in {place}"));
        return Ok(());
    }
    Err(format!(
        "found something: {} (the inputs lie in {place}: TARGET-crash-…, -timeout-…, -oom-…)",
        failed.join(", ")
    ))
}

/// libFuzzer's flags: time, the longest run of one input, memory, and where a failing input is written.
fn limits(seconds: &str, crashes: &Path) -> [String; 6] {
    [
        format!("-max_total_time={seconds}"),
        "-timeout=30".to_owned(),
        "-rss_limit_mb=2048".to_owned(),
        "-print_final_stats=1".to_owned(),
        "-verbosity=1".to_owned(),
        format!("-artifact_prefix={}", crashes.display()),
    ]
}

/// Every target has a folder of seeds.
fn corpus_names() -> Result<Vec<String>, String> {
    let folder = root().join("fuzz/corpus");
    let entries = folder.read_dir().map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut names: Vec<String> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}
