//! The builds of the CPU plugin for several instruction sets, each in a worker of its own: do they draw the baseline's
//! picture and conform (`--check`), and how fast are they beside it (`--bench`)? `cargo xtask variants` makes them.
#![allow(clippy::print_stdout, reason = "its output is its purpose")]
#![allow(clippy::expect_used, reason = "a measurement that cannot be made stops")]

use base64::Engine;
use sd_tests::{
    Client, Worker, WorkerOptions, bundled_models,
    meter::{quantile, usage},
    program,
};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// What others are compared with: the build for every processor of the architecture.
const BASELINES: [&str; 2] = ["baseline", "neon"];

/// Least agreement of a picture with the baseline's: sums in another order, no less exact arithmetic.
const MIN_PSNR: f64 = 50.0;

const STEPS: u32 = 20;

/// Rounds of the benchmark. In each every build draws once, so that what else the machine does hits all of them.
const ROUNDS: usize = 15;

/// Width and height of the pictures that are timed.
const SIZES: [u32; 2] = [64, 256];

struct Build {
    /// The end of its file's name.
    name: String,
    file: PathBuf,
    worker: Worker,
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().expect("the folder of the builds"));
    let wants: Vec<String> = args.collect();
    let builds = runnable(&folder);
    let mut well = builds.first().is_some_and(is_baseline);
    if !well {
        println!("there is no baseline to compare with");
    }
    if well && wants.iter().any(|w| w == "--check") {
        well = same_picture(&builds) & conforms(&builds);
    }
    if well && wants.iter().any(|w| w == "--bench") {
        bench(&builds);
    }
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints what the worker says of each file, and starts a worker for each that this machine can run, baseline first.
fn runnable(folder: &Path) -> Vec<Build> {
    let mut list = Command::new(program("sd-worker"));
    list.args(["backend", "list", "--json", "--log", "error", "--plugin-dir"]).arg(folder);
    let out = list.output().expect("sd-worker starts");
    let report: Value = serde_json::from_slice(&out.stdout).expect("a report");
    let mut builds = Vec::new();
    for plugin in report["plugins"].as_array().into_iter().flatten() {
        let text = |key: &str| plugin[key].as_str().unwrap_or_default();
        println!("{:<10} {}: {}", text("state"), text("file"), text("reason"));
        let stem = text("file").strip_prefix("libsd_backend_candle_cpu_").and_then(|f| f.strip_suffix(".so"));
        let (Some(name), "chosen" | "available") = (stem, text("state")) else { continue };
        let backend = format!("candle-cpu-{}", name.replace('_', "-"));
        let flags = ["--log", "warn", "--state-dir", "off", "--isolate", "never", "--backend", &backend];
        let mut options = WorkerOptions::args(&flags);
        options.args.extend(["--plugin-dir".to_owned(), folder.display().to_string()]);
        builds.push(Build { name: name.to_owned(), file: folder.join(text("file")), worker: Worker::start(&options) });
    }
    builds.sort_by_key(|b| !is_baseline(b));
    builds
}

fn is_baseline(build: &Build) -> bool {
    BASELINES.contains(&build.name.as_str())
}

fn picture(client: &Client, body: &Value) -> image::RgbImage {
    let events = client.run(body);
    let last = events.last().expect("a last event");
    let png = base64::engine::general_purpose::STANDARD.decode(last["image_base64"].as_str().expect("a picture"));
    let png = std::io::Cursor::new(png.expect("base64"));
    image::ImageReader::with_format(png, image::ImageFormat::Png).decode().expect("a PNG").to_rgb8()
}

/// Peak signal-to-noise ratio in dB of two pictures of 8 bits; infinite when they are the same.
fn psnr(a: &image::RgbImage, b: &image::RgbImage) -> f64 {
    assert_eq!(a.dimensions(), b.dimensions(), "pictures of one size");
    let square = |(x, y): (&u8, &u8)| (f64::from(*x) - f64::from(*y)).powi(2);
    let sum: f64 = a.as_raw().iter().zip(b.as_raw()).map(square).sum();
    10.0 * (255.0f64.powi(2) * a.as_raw().len() as f64 / sum).log10()
}

/// Whether every build draws the baseline's pictures.
fn same_picture(builds: &[Build]) -> bool {
    println!("\npictures beside the baseline's, {STEPS} steps, worst of four");
    let jobs: Vec<Value> = [(64, "red apple"), (64, "blue car"), (128, "red apple"), (64, "a yellow sun")]
        .iter()
        .zip(1..)
        .map(|((side, prompt), seed)| json!({ "prompt": prompt, "seed": seed, "steps": STEPS, "width": side, "height": side }))
        .collect();
    let draw = |build: &Build| -> Vec<_> { jobs.iter().map(|job| picture(&build.worker.client(), job)).collect() };
    let wanted = draw(&builds[0]);
    let mut well = true;
    for build in &builds[1..] {
        let worst = draw(build).iter().zip(&wanted).map(|(a, b)| psnr(a, b)).fold(f64::INFINITY, f64::min);
        well &= worst >= MIN_PSNR;
        let verdict = if worst >= MIN_PSNR { "ok" } else { "TOO FAR" };
        println!("  {:<14} {worst:>6.1} dB  {verdict}", build.name);
    }
    well
}

/// Whether every build passes the conformance kit, in its short form.
fn conforms(builds: &[Build]) -> bool {
    println!("\nconformance kit");
    let mut well = true;
    for build in builds {
        let mut kit = Command::new(program("sd-worker"));
        kit.args(["backend", "check", "--quick", "--reference", "none", "--log", "error", "--models-dir"]);
        let out = kit.arg(bundled_models()).arg(&build.file).output().expect("sd-worker starts");
        let text = String::from_utf8_lossy(&out.stdout);
        println!("  {:<14} {}", build.name, text.lines().last().unwrap_or_default());
        text.lines().filter(|line| line.starts_with("FAILED")).for_each(|line| println!("    {line}"));
        well &= out.status.success();
    }
    well
}

/// One guided step of each build, and its ratio to the baseline's in the same round. Processor time says more than the clock
/// where other programs run beside.
fn bench(builds: &[Build]) {
    for side in SIZES {
        println!("\na guided step at {side} × {side}, {ROUNDS} interleaved rounds of {STEPS} steps");
        let mut times = vec![Vec::new(); builds.len()];
        let mut used = vec![0u64; builds.len()];
        for round in 0..=ROUNDS {
            for (i, build) in builds.iter().enumerate() {
                let body =
                    json!({ "prompt": "red apple", "seed": round, "steps": STEPS, "width": side, "height": side });
                let before = usage(build.worker.pid()).cpu_ms;
                let events = build.worker.client().run(&body);
                let took = events.last().and_then(|e| e["timings"]["denoise_ms"].as_f64()).expect("timings");
                // The first round warms up.
                if round > 0 {
                    times[i].push(took / f64::from(STEPS));
                    used[i] += usage(build.worker.pid()).cpu_ms - before;
                }
            }
        }
        for (i, build) in builds.iter().enumerate() {
            let step = quantile(&times[i], 0.5);
            let ratios: Vec<f64> = times[i].iter().zip(&times[0]).map(|(a, b)| a / b).collect();
            let [low, ratio, high] = [0.25, 0.5, 0.75].map(|part| quantile(&ratios, part));
            let cpu = used[i] as f64 / used[0].max(1) as f64;
            println!(
                "  {:<14} median {step:>7.2} ms, of the baseline's {ratio:.3} (quartiles {low:.3}, {high:.3}); processor time {cpu:.3}",
                build.name
            );
        }
    }
}
