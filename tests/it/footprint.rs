//! Models are loaded and given back again and again: the idle worker keeps its size. And the meter works: of a backend that
//! loses memory at each load it says so.

use sd_tests::{Client, Worker, WorkerOptions, meter, trials};
use serde_json::json;
use std::time::Duration;

/// Swaps after which sizes are compared: allocators and tables that are made late settle first.
const WARM_UP: usize = 60;
/// The most growth of the idle worker's resident memory over sixty swaps, in KiB: far less than one model, more than what
/// an allocator moves about.
const LIMIT: f64 = 1024.0;

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

/// Growth of a worker without a model over so many swaps, in KiB. Two of ten loaded models draw.
#[allow(clippy::print_stderr, reason = "the figures of a long run")]
fn growth(backend: &str, script: &str, swaps: usize) -> f64 {
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
    // The middle of ten swaps each: a single moment may hold what is just being freed.
    let middle = |sizes: &[f64]| meter::quantile(sizes, 0.5);
    let (before, after) = (middle(&sizes[WARM_UP - 10..WARM_UP]), middle(&sizes[sizes.len() - 10..]));
    eprintln!("{backend}: {before} KiB idle after {WARM_UP} swaps, {after} KiB after {swaps} more");
    after - before
}

#[test]
fn sixty_swaps_leave_nothing_behind() {
    for backend in ["gauss", "candle-cpu"] {
        let grown = growth(backend, "", 60);
        assert!(grown < LIMIT, "{backend} grew by {grown} KiB");
    }
}

#[test]
fn the_meter_sees_a_leak() {
    // 1 MiB at each of 20 loads.
    let grown = growth("rogue", "leak@load", 20);
    assert!(grown > 10.0 * LIMIT, "{grown} KiB");
}
