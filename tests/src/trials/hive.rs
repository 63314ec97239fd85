//! A hive that loses its worker: what it sees of a `kill -9`, and when it hears of the worker again.

use super::fleet::Queen;
use crate::{Random, Worker, WorkerOptions, meter, wire};
use serde_json::json;
use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    time::{Duration, Instant},
};

/// A worker posts a heartbeat this often, and hives take it for dead after three times that.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(90);
/// When the first heartbeat of a started worker must have come, with room for a machine that does other things too.
const FIRST: Duration = Duration::from_secs(15);
/// When a stream and the queen's connection must be seen to have ended after a kill. The kernel closes them; no clock runs.
const BROKEN: Duration = Duration::from_secs(2);

/// Kills a worker that draws, `kills` times at a random moment, and starts it again on the same state, as a supervisor does.
/// Each time its streams end at once, the queen hears nothing more, then hears of the same worker again, and every job
/// that was told of is known and ends. `watch`: how long it is watched at work before; and whether, if that is longer than
/// [`TIMEOUT`], the queen's own clock is awaited once after the last kill.
pub fn hive_sees_the_loss(options: &WorkerOptions, state: &Path, kills: usize, watch: Duration) -> String {
    let queen = Queen::start();
    let mut options = options.clone();
    let more = ["--queen-url", &queen.url, "--worker-id", "worker-7", "--state-dir", &state.display().to_string()]
        .map(str::to_owned);
    options.args.extend(more);
    let (mut random, mut jobs, mut back) = (Random::new(12), Vec::new(), Vec::new());
    let mut longest = Duration::ZERO;
    let mut lost_after = None;
    for kill in 0..kills {
        let started = Instant::now();
        let worker = Worker::start(&options);
        let first = queen.next(started, FIRST).expect("a heartbeat of the new worker");
        assert_eq!(first.body["worker"]["id"], "worker-7");
        back.push((first.at - started).as_secs_f64());
        let client = worker.client();
        if kill == 0 {
            longest = busy(&worker, &queen, watch);
        }
        jobs.extend((0..2).map(|_| client.submit(&json!({ "prompt": "x", "steps": 30 }))));
        let mut stream = TcpStream::connect(wire::address(&worker.url)).expect("the worker accepts");
        stream.set_read_timeout(Some(BROKEN)).expect("a timeout");
        let job = jobs.last().expect("a job");
        write!(stream, "GET /v1/jobs/{job}/stream HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("the request goes out");
        stream.read_exact(&mut [0; 16]).expect("the stream opens");
        std::thread::sleep(Duration::from_millis(random.below(150) as u64));
        let mut worker = worker;
        worker.signal(libc::SIGKILL);
        let killed = Instant::now();
        worker.wait(Duration::from_secs(20));
        // An end or a reset; a stream that is still open times out.
        let end = stream.read_to_end(&mut Vec::new()).err().map(|e| e.kind());
        assert!(end != Some(std::io::ErrorKind::WouldBlock), "the stream is open after the kill");
        assert!(queen.all_left(BROKEN), "the queen's connection is open after the kill");
        if kill + 1 == kills && watch > TIMEOUT {
            while queen.last().elapsed() <= TIMEOUT {
                std::thread::sleep(Duration::from_millis(100));
            }
            lost_after = Some(killed.elapsed());
        }
        let word = queen.beats().into_iter().find(|b| b.at > killed);
        assert!(word.is_none(), "a heartbeat of a dead worker: {word:?}");
    }
    let worker = Worker::start(&options);
    let ended = |job: &String| -> bool {
        let state = worker.client().get(&format!("/v1/jobs/{job}"));
        assert_eq!(state.status, 200, "{job} is lost");
        !["queued", "running"].contains(&state.json()["status"].as_str().unwrap_or_default())
    };
    let until = Instant::now() + Duration::from_secs(120);
    while !jobs.iter().all(ended) {
        assert!(Instant::now() < until, "jobs wait for ever");
        std::thread::sleep(Duration::from_millis(100));
    }
    let lost = lost_after
        .map_or(String::new(), |after| format!(", taken for dead {:.0} s after the last kill", after.as_secs_f64()));
    let watched = if watch.is_zero() {
        String::new()
    } else {
        format!("at work {:.0} s with at most {:.1} s between heartbeats, ", watch.as_secs_f64(), longest.as_secs_f64())
    };
    format!(
        "{watched}{kills} kills{lost}; heard of again after {:.1} s (median), {:.1} s (at most); {} jobs, none lost",
        meter::quantile(&back, 0.5),
        meter::quantile(&back, 1.0),
        jobs.len()
    )
}

/// Draws for `watch`; the longest time without a heartbeat.
fn busy(worker: &Worker, queen: &Queen, watch: Duration) -> Duration {
    let since = Instant::now();
    let (mut longest, client) = (Duration::ZERO, worker.client());
    while since.elapsed() < watch {
        let events = client.run(&json!({ "prompt": "x", "steps": 20 }));
        assert_eq!(events.last().expect("an end")["event"], "complete");
        longest = longest.max(queen.last().elapsed());
    }
    assert!(longest < 2 * INTERVAL, "{longest:?} without a heartbeat while it works");
    longest
}
