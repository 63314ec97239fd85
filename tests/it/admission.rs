//! What requests cost that come faster than they can be worked on: they are refused or wait before their pictures are decoded.

use crate::{pictures::png, support::gauss};
use image::RgbImage;
use sd_tests::{Client, Worker};
use serde_json::{Value, json};

/// Bytes of the decoded picture that is sent.
const DECODED: u64 = 4096 * 4096 * 3;

/// Kilobytes as a file.
fn large() -> Value {
    png(&RgbImage::from_pixel(4096, 4096, image::Rgb([30, 160, 90])))
}

/// The most memory that the worker has had, in bytes. Linux only.
fn peak(worker: &Worker) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.pid())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

/// Sends a body so many times at once and answers the statuses.
fn at_once(count: usize, url: &str, path: &str, body: &Value) -> Vec<u16> {
    let body = body.to_string();
    std::thread::scope(|scope| {
        let send = |_| scope.spawn(|| Client::new(url).post_bytes(path, "application/json", body.as_bytes()).status);
        let threads: Vec<_> = (0..count).map(send).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

#[test]
fn a_request_that_finds_no_place_is_not_decoded() {
    let worker = Worker::start(&gauss(100, &["--queue-jobs", "1", "--max-megapixels", "16"]));
    let client = worker.client();
    let running = client.submit(&json!({ "prompt": "x", "steps": 150 }));
    client.events(&running, 0).until("started");
    let waiting = client.submit(&json!({ "prompt": "x", "steps": 1 }));
    let before = peak(&worker);
    let body = json!({ "prompt": "x", "init_image": large(), "width": 64, "height": 64 });
    let statuses = at_once(48, &worker.url, "/v1/jobs", &body);
    assert!(statuses.iter().all(|s| *s == 429), "{statuses:?}");
    let grown = peak(&worker) - before;
    assert!(grown < 2 * DECODED, "{} MB for requests that were refused", grown / 1_000_000);
    client.delete(&format!("/v1/jobs/{running}"));
    assert_eq!(client.events(&waiting, 0).rest().last().unwrap()["event"], "complete");
}

#[test]
fn no_more_pictures_are_worked_on_than_there_are_cores() {
    let worker = Worker::start(&gauss(1, &["--max-megapixels", "16"]));
    let cores = std::thread::available_parallelism().unwrap().get();
    let before = peak(&worker);
    // Decoded, and then found to become too large.
    let body = json!({ "image": large(), "upscaler_1": "Nearest", "upscaling_resize": 8 });
    let count = (cores * 12).clamp(32, 512);
    let statuses = at_once(count, &worker.url, "/sdapi/v1/extra-single-image", &body);
    assert!(statuses.iter().all(|s| *s == 422), "{statuses:?}");
    let grown = peak(&worker) - before;
    // A picture may be there twice while it is unpacked.
    assert!(grown < (cores as u64 * 3 + 4) * DECODED, "{} MB for {count} requests", grown / 1_000_000);
}
