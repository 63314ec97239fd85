//! Models are loaded and given back again and again: the idle worker keeps its size. And the meter works: of a backend that
//! loses memory at each load it says so.

use sd_tests::{Client, Worker, WorkerOptions, meter, trials};
use serde_json::json;
use std::time::Duration;

/// Swaps after which sizes are compared: allocators and tables that are made late settle first.
const WARM_UP: usize = 200;
/// The most that is lost for good over all swaps, as a part of the idle worker's resident memory.
const MOST_LOST: f64 = 0.01;
/// The most growth of any kind, in KiB: less than the smallest model's weights, more than what an allocator moves about.
const MOST_GROWN: f64 = 1024.0;

/// A request about a model. A job lets go of its model a moment after its last event, which is waited for.
fn ask(client: &Client, model: &str, verb: &str) {
    let path = format!("/v1/models/{model}/{verb}");
    let mut answer = client.post(&path, &json!({}));
    for _ in 0..250 {
        if answer.status != 409 {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        answer = client.post(&path, &json!({}));
    }
    assert_eq!(answer.status, 200, "{verb} {model}: {}", String::from_utf8_lossy(&answer.body));
}

/// How an idle worker's resident memory changed over many swaps.
struct Growth {
    /// From the first to the last, in KiB.
    grown: f64,
    /// What every stretch of swaps adds, put together, as a part of the beginning: an allocator that takes a new heap once
    /// adds to one stretch, a leak to each.
    lost: f64,
}

impl Growth {
    fn of(sizes: &[f64]) -> Growth {
        // The middle of a stretch: a single moment may hold what is just being freed.
        let middles: Vec<f64> = sizes.chunks(sizes.len().div_ceil(10)).map(|part| meter::quantile(part, 0.5)).collect();
        let steps: Vec<f64> = middles.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let (first, last) = (middles[0], middles[middles.len() - 1]);
        Growth { grown: last - first, lost: meter::quantile(&steps, 0.5) * middles.len() as f64 / first }
    }
}

/// A worker without a model swaps so many times. Two of ten loaded models draw.
#[allow(clippy::print_stderr, reason = "the figures of a long run")]
fn growth(backend: &str, script: &str, swaps: usize) -> Growth {
    let folder = tempfile::tempdir().unwrap();
    trials::two_models(folder.path());
    let mut options = WorkerOptions::args(&[
        "--backend",
        backend,
        "--isolate",
        "never",
        "--model",
        "model-a",
        "--keep-jobs",
        "4",
        "--models-dir",
    ]);
    // Finished jobs are kept on purpose: few here, so that they are not taken for a leak.
    options.args.push(folder.path().display().to_string());
    options.env.push(("SD_ROGUE".to_owned(), script.to_owned()));
    let worker = Worker::start(&options);
    let client = worker.client();
    let mut sizes = Vec::new();
    ask(&client, "model-a", "unload");
    for swap in 0..WARM_UP + swaps {
        let model = ["model-a", "model-b"][swap % 2];
        ask(&client, model, "load");
        if swap % 10 < 2 {
            let events = client.run(&json!({ "prompt": "x", "steps": 2, "width": 64, "height": 64, "model": model }));
            assert_eq!(events.last().unwrap()["event"], "complete", "{events:?}");
        }
        ask(&client, model, "unload");
        sizes.push(meter::usage(worker.pid()).rss_kib as f64);
    }
    let growth = Growth::of(&sizes[WARM_UP..]);
    let (before, after) = (sizes[WARM_UP], sizes[sizes.len() - 1]);
    eprintln!(
        "{backend}: {before} KiB idle after {WARM_UP} swaps, {after} KiB after {swaps} more; lost {:.2} %",
        growth.lost * 100.0
    );
    growth
}

/// `SD_SLOW=1` swaps a thousand times.
fn swaps(few: usize) -> usize {
    if std::env::var_os("SD_SLOW").is_some() { 1000 } else { few }
}

fn leaves_nothing_behind(backend: &str, few: usize) {
    let Growth { grown, lost } = growth(backend, "", swaps(few));
    assert!(grown < MOST_GROWN && lost < MOST_LOST, "{backend} grew by {grown} KiB and lost {:.2} %", lost * 100.0);
}

#[test]
fn swaps_of_weightless_models_leave_nothing_behind() {
    leaves_nothing_behind("gauss", 200);
}

#[test]
fn swaps_of_true_models_leave_nothing_behind() {
    leaves_nothing_behind("candle-cpu", 60);
}

#[test]
fn the_meter_sees_a_leak() {
    // 1 MiB at each of 20 loads, beside what the warm-up has lost already.
    let Growth { grown, lost } = growth("rogue", "leak@load", 20);
    assert!(grown > 10.0 * MOST_GROWN && lost > 5.0 * MOST_LOST, "{grown} KiB, {:.2} %", lost * 100.0);
}

#[test]
fn a_leak_is_told_from_a_new_heap() {
    let jump: Vec<f64> = (0..200).map(|i| 20_000.0 + f64::from(i % 3) + if i < 90 { 0.0 } else { 600.0 }).collect();
    let leak: Vec<f64> = (0..200).map(|i| 20_000.0 + f64::from(i % 3) + f64::from(i) * 1.5).collect();
    let [jump, leak] = [jump, leak].map(|sizes| Growth::of(&sizes));
    assert!((590.0..610.0).contains(&jump.grown) && jump.lost < MOST_LOST / 5.0, "{} {}", jump.grown, jump.lost);
    assert!(leak.lost > MOST_LOST, "{}", leak.lost);
}
