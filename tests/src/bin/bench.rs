//! Measurements over HTTP: how fast the worker answers, idle and busy, and where a picture's time goes.
//!
//! It prints figures and judges nothing. Run it on a quiet machine: `cargo xtask bench`.
#![allow(clippy::print_stdout, reason = "its output is its purpose")]
#![allow(clippy::expect_used, reason = "a measurement that cannot be made stops")]

use sd_tests::{Client, Worker, WorkerOptions};
use serde_json::{Value, json};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

const PROMPT: &str = "red apple";
const STEPS: u32 = 20;

fn main() {
    let worker = Worker::start(&WorkerOptions::args(&["--log", "warn", "--queue-jobs", "10000"]));
    let client = worker.client();
    println!("one worker, the bundled model, {STEPS} steps, 64 × 64 pixels, median of the runs\n");
    pictures(&client);
    posts(&client);
    health(&client);
    kept_posts();
    println!("resident memory of the worker                     {:>9.1} MiB", worker.rss_kib() as f64 / 1024.0);
}

/// The value in the middle, and the one that 99 % do not exceed.
fn spread(values: Vec<f64>) -> (f64, f64) {
    let (middle, high, _) = spread_and_most(values);
    (middle, high)
}

/// The same, and the largest.
fn spread_and_most(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |part: f64| values[((values.len() - 1) as f64 * part).round() as usize];
    (at(0.5), at(0.99), at(1.0))
}

fn line(what: &str, value: f64, unit: &str) {
    println!("{what:<48} {value:>10.2} {unit}");
}

/// Whole pictures: from POST to complete, and the stages as the worker tells them.
fn pictures(client: &Client) {
    let body = json!({ "prompt": PROMPT, "steps": STEPS, "seed": 1 });
    client.run(&body);
    let (mut whole, mut first, mut stages) = (Vec::new(), Vec::new(), Vec::<Value>::new());
    for seed in 0..9 {
        let since = Instant::now();
        let job = client.submit(&json!({ "prompt": format!("{PROMPT} {seed}"), "steps": STEPS, "seed": seed }));
        let mut events = client.events(&job, 0);
        events.until("progress");
        first.push(since.elapsed().as_secs_f64() * 1e3);
        let last = events.until("complete");
        whole.push(since.elapsed().as_secs_f64() * 1e3);
        stages.push(last["timings"].clone());
    }
    line("from POST to complete", spread(whole).0, "ms");
    line("from POST to the first step", spread(first).0, "ms");
    for (name, key) in
        [("texts", "encode_ms"), ("all steps", "denoise_ms"), ("decode", "decode_ms"), ("file", "write_ms")]
    {
        let values = stages.iter().filter_map(|t| t[key].as_f64()).collect();
        line(&format!("  {name}"), spread(values).0, "ms");
    }
    let per_step = stages.iter().filter_map(|t| t["denoise_ms"].as_f64()).map(|ms| ms / f64::from(STEPS)).collect();
    line("  one step, with guidance", spread(per_step).0, "ms");
}

/// How long `POST /v1/jobs` takes, with nothing to do and while pictures are made.
fn posts(client: &Client) {
    let post = |n: usize| -> Vec<f64> {
        (0..n)
            .map(|_| {
                let since = Instant::now();
                client.submit(&json!({ "prompt": PROMPT, "steps": STEPS, "priority": -10 }));
                since.elapsed().as_secs_f64() * 1e3
            })
            .collect()
    };
    let cancel_all = || {
        let jobs = client.get("/v1/jobs?limit=100").json();
        for job in jobs["data"].as_array().into_iter().flatten() {
            client.delete(&format!("/v1/jobs/{}", job["job_id"].as_str().unwrap_or_default()));
        }
    };
    let mut idle = Vec::new();
    for _ in 0..30 {
        idle.extend(post(1));
        cancel_all();
        std::thread::sleep(Duration::from_millis(20));
    }
    let (median, p99) = spread(idle);
    line("POST /v1/jobs, idle: median", median, "ms");
    line("POST /v1/jobs, idle: 99 %", p99, "ms");
    let job = client.submit(&json!({ "prompt": PROMPT, "steps": 150 }));
    client.events(&job, 0).until("progress");
    let (median, p99) = spread(post(90));
    line("POST /v1/jobs, while drawing: median", median, "ms");
    line("POST /v1/jobs, while drawing: 99 %", p99, "ms");
    cancel_all();
    cancel_all();
}

/// How long `POST /v1/jobs` takes when every job is written down first, while pictures are drawn and written all the time.
/// Each job is taken back at once, so that the queue keeps the length that a served one has.
fn kept_posts() {
    const POSTS: usize = 3000;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let state = folder.path().to_str().expect("a plain path");
    let worker = Worker::start(&WorkerOptions::args(&["--log", "warn", "--state-dir", state]));
    let (client, done) = (worker.client(), AtomicBool::new(false));
    let (times, drawn) = std::thread::scope(|scope| {
        let draw = || {
            let (client, mut drawn) = (worker.client(), 0_u32);
            while !done.load(Ordering::Relaxed) {
                client.run(&json!({ "prompt": PROMPT, "steps": STEPS, "priority": 10 }));
                drawn += 1;
            }
            drawn
        };
        // One more than is drawn at a time, so that the device never waits.
        let drawing: Vec<_> = (0..2).map(|_| scope.spawn(draw)).collect();
        let mut times = Vec::with_capacity(POSTS);
        for n in 0..POSTS {
            let body = json!({ "prompt": format!("{PROMPT} {n}"), "steps": STEPS, "priority": -10 });
            let since = Instant::now();
            let job = client.submit(&body);
            times.push(since.elapsed().as_secs_f64() * 1e3);
            client.delete(&format!("/v1/jobs/{job}"));
        }
        done.store(true, Ordering::Relaxed);
        (times, drawing.into_iter().map(|d| d.join().unwrap_or(0)).sum::<u32>())
    });
    let (median, p99, most) = spread_and_most(times);
    line("POST /v1/jobs, drawing, kept on disk: median", median, "ms");
    line("POST /v1/jobs, drawing, kept on disk: 99 %", p99, "ms");
    line("POST /v1/jobs, drawing, kept on disk: longest", most, "ms");
    println!("{:<48} {drawn:>10} pictures during {POSTS} requests", "");
}

fn health(client: &Client) {
    let since = Instant::now();
    let mut count = 0u32;
    while since.elapsed() < Duration::from_secs(2) {
        assert_eq!(client.get("/health").status, 200);
        count += 1;
    }
    line("GET /health, one client one after the other", f64::from(count) / since.elapsed().as_secs_f64(), "per second");
}
