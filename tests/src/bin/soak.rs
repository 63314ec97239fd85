//! The soak: `cargo xtask soak [WHAT…]`. The large variants of the trials, then mixed chaos for a set time, then the proof
//! that the meter works. It fails when a bound is broken.
#![allow(clippy::print_stdout, reason = "its output is its purpose")]
#![allow(clippy::expect_used, clippy::panic, reason = "a soak that cannot run stops")]

use clap::Parser;
use sd_tests::{Worker, WorkerOptions, soak, trials};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

/// Runs the worker hard and long and judges what becomes of it.
#[derive(Debug, Parser)]
struct Args {
    /// What to run: `trials` (all of them), the name of a trial, `chaos`, `meter`; without, all of it
    what: Vec<String>,
    /// Say what there is, and run nothing
    #[arg(long)]
    list: bool,
    /// How long the mixed chaos lasts
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Where the chaos begins: the same number sends the same requests
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The backend of the chaos: `gauss` (fast: many jobs) or `candle-cpu`
    #[arg(long, default_value = "gauss")]
    backend: String,
    /// Hold times to their bounds as well: for a quiet machine
    #[arg(long)]
    quiet_machine: bool,
}

fn options(backend: &str, args: &[&str]) -> WorkerOptions {
    let mut options = WorkerOptions::args(&["--backend", backend, "--isolate", "never", "--log", "warn"]);
    options.args.extend(args.iter().map(|a| (*a).to_owned()));
    options
}

fn main() -> ExitCode {
    let args = Args::parse();
    let folder = tempfile::tempdir().expect("a folder");
    let trials = all_trials(folder.path(), args.quiet_machine);
    let names: Vec<&str> = trials.iter().map(|(name, _)| *name).chain(["trials", "chaos", "meter"]).collect();
    if let Some(unknown) = args.what.iter().find(|what| !names.contains(&what.as_str())) {
        println!("there is no `{unknown}`; there are {}", names.join(", "));
        return ExitCode::FAILURE;
    }
    if args.list {
        println!("{}", names.join("\n"));
        return ExitCode::SUCCESS;
    }
    let wanted = |name: &str| args.what.is_empty() || args.what.iter().any(|what| what == name);
    let mut well = true;
    for (name, trial) in &trials {
        if wanted(name) || wanted("trials") {
            well &= run_trial(name, trial);
        }
    }
    if wanted("chaos") {
        println!("\nchaos for {} minutes on {}", args.minutes, args.backend);
        well &= chaos(&args);
    }
    if wanted("meter") {
        println!("\nthe meter: the same against a backend that loses 1 MiB a job");
        well &= meter_works();
    }
    println!("\n{}", if well { "PASSED" } else { "FAILED" });
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A name and what runs it.
type Trial = (&'static str, Box<dyn Fn() -> String>);

/// The trials with the figures of a night. `folder`: where the models of some of them are laid.
fn all_trials(folder: &Path, quiet: bool) -> Vec<Trial> {
    let (models, outside) = trials::lay_traps(folder);
    let models = models.display().to_string();
    let state = folder.join("state");
    let gauss = |args: &[&str]| Worker::start(&options("gauss", args));
    let two = move |more: &[&str]| gauss(&[&["--models-dir", &models, "--model", "model-a"], more].concat());
    let also_two = two.clone();
    let step = move |ms: &str, more: &[&str]| gauss(&[&["--backend-option", ms], more].concat());
    vec![
        ("requests", Box::new(move || trials::mutated_requests(&gauss(&["--max-body-mib", "1"]), 100_000, 1))),
        ("chunks", Box::new(move || trials::tiny_chunks(&gauss(&["--max-body-mib", "4"]), 100, 1_000_000))),
        ("slow-clients", Box::new(move || trials::slow_clients(&gauss(&["--max-connections", "4096"]), 2_000, quiet))),
        (
            "connections",
            Box::new(move || trials::too_many_connections(&gauss(&["--max-connections", "2000"]), 2_000, 500)),
        ),
        ("burst", Box::new(move || trials::burst(&step("step_ms=200", &["--queue-jobs", "64"]), 64, quiet))),
        (
            "readers",
            Box::new(move || trials::herd(&step("step_ms=200", &["--max-connections", "12000"]), 10_000, quiet)),
        ),
        (
            "leaving",
            Box::new(move || {
                let worker = step("step_ms=4", &["--keep-jobs", "200", "--keep-secs", "60"]);
                trials::leaving_readers(&worker, 10_000)
            }),
        ),
        ("stalled", Box::new(move || trials::stalled_readers(&gauss(&[]), 500))),
        (
            "swaps",
            Box::new(move || trials::swap_race(&also_two(&["--queue-jobs", "64", "--max-models", "1"]), 32, 1_024)),
        ),
        ("names", Box::new(move || trials::hostile_names(&two(&[]), 50_000, &outside))),
        ("pictures", Box::new(move || trials::damaged_pictures(&gauss(&[]), 100_000, 2))),
        (
            "hive",
            Box::new(move || {
                let options = options("gauss", &["--backend-option", "step_ms=5"]);
                trials::hive_sees_the_loss(&options, &state, 20, Duration::from_secs(100))
            }),
        ),
    ]
}

fn run_trial(name: &str, trial: &dyn Fn() -> String) -> bool {
    let since = Instant::now();
    // What happened to one that failed has been printed where it happened.
    let outcome = catch_unwind(AssertUnwindSafe(trial));
    let (mark, text) = if let Ok(figures) = &outcome { ("ok  ", figures.as_str()) } else { ("FAIL", "see above") };
    println!("{mark}  {name:<13} {text} ({:.0} s)", since.elapsed().as_secs_f64());
    outcome.is_ok()
}

fn chaos(args: &Args) -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    trials::two_models(folder.path());
    let dir = folder.path().display().to_string();
    // Few finished jobs are kept, so that the memory for them is full soon and growth shows.
    let state = folder.path().join("state").display().to_string();
    let flags = [
        ["--models-dir", &dir],
        ["--model", "model-a"],
        ["--state-dir", &state],
        ["--keep-jobs", "100"],
        ["--keep-secs", "30"],
        ["--queue-jobs", "32"],
    ]
    .concat();
    let worker = Worker::start(&options(&args.backend, &flags));
    let time = Duration::from_secs_f64(args.minutes * 60.0);
    let models = ["model-a".to_owned(), "model-b".to_owned()];
    let verdict =
        soak::run(&worker, &models, time, &soak::Plan { seed: args.seed, quiet: args.quiet_machine }, &|line| {
            println!("{line}")
        });
    print!("{verdict}");
    verdict.holds()
}

/// The verdict on a backend that leaks must be "it leaks".
fn meter_works() -> bool {
    let verdict = trials::leak(Duration::from_secs(30));
    let found = !verdict.line_holds("memory growth") && !verdict.line_holds("memory growth per job");
    print!("{verdict}");
    println!(
        "{}",
        if found { "ok    the leak was found" } else { "FAIL  the leak was NOT found: believe none of the above" }
    );
    found
}
