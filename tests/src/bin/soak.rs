//! The soak: `cargo xtask soak [--minutes N]`. The large variants of the trials, then mixed chaos for a set time, then the
//! proof that the meter works. It fails when a bound is broken.
#![allow(clippy::print_stdout, reason = "its output is its purpose")]
#![allow(clippy::expect_used, clippy::panic, reason = "a soak that cannot run stops")]

use clap::Parser;
use sd_tests::{Worker, WorkerOptions, soak, trials};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::{Duration, Instant},
};

/// Runs the worker hard and long and judges what becomes of it.
#[derive(Debug, Parser)]
struct Args {
    /// How long the mixed chaos lasts
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Where the chaos begins: the same number sends the same requests
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The backend of the chaos: `gauss` (fast: many jobs) or `candle-cpu`
    #[arg(long, default_value = "gauss")]
    backend: String,
    /// Leave the large trials out
    #[arg(long)]
    no_trials: bool,
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
    let mut well = true;
    if !args.no_trials {
        well &= run_trials(args.quiet_machine);
    }
    println!("\nchaos for {} minutes on {}", args.minutes, args.backend);
    well &= chaos(&args);
    println!("\nthe meter: the same against a backend that loses 1 MiB a job");
    well &= meter_works();
    println!("\n{}", if well { "PASSED" } else { "FAILED" });
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A name and what runs it.
type Trial<'a> = (&'a str, Box<dyn Fn() -> String + 'a>);

fn run_trials(quiet: bool) -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    let (models, outside) = trials::lay_traps(folder.path());
    let models = models.display().to_string();
    let gauss = |args: &[&str]| Worker::start(&options("gauss", args));
    let all: Vec<Trial<'_>> = vec![
        ("mutated requests", Box::new(|| trials::mutated_requests(&gauss(&["--max-body-mib", "1"]), 100_000, 1))),
        ("tiny chunks", Box::new(|| trials::tiny_chunks(&gauss(&["--max-body-mib", "4"]), 100, 1_000_000))),
        ("slow clients", Box::new(|| trials::slow_clients(&gauss(&["--max-connections", "4096"]), 2_000, quiet))),
        (
            "too many connections",
            Box::new(|| trials::too_many_connections(&gauss(&["--max-connections", "2000"]), 2_000, 500)),
        ),
        (
            "burst",
            Box::new(|| trials::burst(&gauss(&["--queue-jobs", "64", "--backend-option", "step_ms=200"]), 64, quiet)),
        ),
        (
            "herd",
            Box::new(|| {
                trials::herd(&gauss(&["--max-connections", "12000", "--backend-option", "step_ms=200"]), 10_000, quiet)
            }),
        ),
        ("stalled readers", Box::new(|| trials::stalled_readers(&gauss(&[]), 500))),
        (
            "swap race",
            Box::new(|| trials::swap_race(&gauss(&["--models-dir", &models, "--model", "model-a"]), 32, 1_024)),
        ),
        (
            "hostile names",
            Box::new(|| {
                trials::hostile_names(&gauss(&["--models-dir", &models, "--model", "model-a"]), 50_000, &outside)
            }),
        ),
    ];
    let mut well = true;
    for (name, trial) in all {
        let since = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(trial));
        let (mark, text) = match outcome {
            Ok(figures) => ("ok  ", figures),
            // What happened has been printed where it happened.
            Err(_) => ("FAIL", "see above".to_owned()),
        };
        well &= mark != "FAIL";
        println!("{mark}  {name:<22} {text} ({:.0} s)", since.elapsed().as_secs_f64());
    }
    well
}

fn chaos(args: &Args) -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    trials::two_models(folder.path());
    let dir = folder.path().display().to_string();
    // Few finished jobs are kept, so that the memory for them is full soon and growth shows.
    let flags =
        ["--models-dir", &dir, "--model", "model-a", "--keep-jobs", "100", "--keep-secs", "30", "--queue-jobs", "32"];
    let worker = Worker::start(&options(&args.backend, &flags));
    let time = Duration::from_secs_f64(args.minutes * 60.0);
    let models = ["model-a".to_owned(), "model-b".to_owned()];
    let verdict = soak::run(&worker, &models, time, args.seed, &|line| println!("{line}"));
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
