//! Readers who come and go: cut at any byte, gone at any step, and a queen in every mood beside it all.

use crate::support::{ends_as, eventually, gauss, status};
use sd_tests::{Client, Worker, trials, wire};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Reads at most `bytes` of a job's stream after an event and hangs up. Answers the whole events in it and whether the
/// marker came.
fn read_some(worker: &Worker, job: &str, after: u64, bytes: usize) -> (Vec<(u64, Value)>, bool) {
    let host = worker.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let resume = if after > 0 { format!("last-event-id: {after}\r\n") } else { String::new() };
    write!(stream, "GET /v1/jobs/{job}/stream HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{resume}\r\n").unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).unwrap();
    }
    // The body is chunked: sizes and data in turn, cut anywhere.
    let mut raw = vec![0; bytes];
    let mut filled = 0;
    while filled < bytes {
        match reader.read(&mut raw[filled..]).unwrap() {
            0 => break,
            n => filled += n,
        }
    }
    let mut text = Vec::new();
    let mut rest = &raw[..filled];
    while let Some(end) = rest.windows(2).position(|w| w == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        let data = &rest[end + 2..];
        text.extend_from_slice(&data[..size.min(data.len())]);
        if size == 0 || data.len() < size + 2 {
            break;
        }
        rest = &data[size + 2..];
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut events = Vec::new();
    let mut done = false;
    // Only what ends with an empty line is an event.
    for block in text.split_inclusive("\n\n").filter(|b| b.ends_with("\n\n")) {
        let field = |name: &str| block.lines().find_map(|l| l.strip_prefix(name));
        match (field("id: "), field("data: ")) {
            (Some(id), Some(data)) => events.push((id.parse().unwrap(), serde_json::from_str(data).unwrap())),
            (None, Some("[DONE]")) => done = true,
            _ => {}
        }
    }
    (events, done)
}

#[test]
fn a_stream_cut_a_hundred_times_loses_and_doubles_nothing() {
    let worker = Worker::start(&gauss(5, &[]));
    let job = worker.client().submit(&json!({ "prompt": "x", "steps": 150, "preview_every": 50 }));
    let (mut seen, mut cursor, mut cuts) = (Vec::new(), 0, 0);
    let mut random = 12_345_u64;
    loop {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // The first hundred readers leave early; the last event holds a whole picture.
        let bytes = if cuts < 100 { 1 + (random >> 33) as usize % 700 } else { 4 << 20 };
        let (events, done) = read_some(&worker, &job, cursor, bytes);
        cursor = events.last().map_or(cursor, |(id, _)| *id);
        seen.extend(events);
        if done {
            break;
        }
        cuts += 1;
        assert!(cuts < 1000, "no end");
    }
    assert!(cuts >= 100, "{cuts} cuts");
    let ids: Vec<u64> = seen.iter().map(|(id, _)| *id).collect();
    assert!(ids.windows(2).all(|w| w[0] < w[1]), "{ids:?}");
    let events: Vec<Value> = seen.into_iter().map(|(_, event)| event).collect();
    assert_eq!(ends_as(&events), "complete");
    let steps: Vec<u64> =
        events.iter().filter(|e| e["event"] == "progress").map(|e| e["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=150).collect::<Vec<u64>>());
}

/// Open files of a process.
fn open_files(worker: &Worker) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", worker.pid())).unwrap().count()
}

/// Follows a job up to a step and hangs up.
fn leave_at(client: &Client, job: &str, step: u64) {
    let mut events = client.events(job, 0);
    while events.until("progress")["step"].as_u64() < Some(step) {}
}

#[test]
fn a_reader_may_leave_at_any_step() {
    let worker = Worker::start(&gauss(15, &[]));
    let client = worker.client();
    let ended = |job: &str| !["queued", "running"].contains(&status(&client, job).as_str());
    for step in 1..=12 {
        let job = client.submit(&json!({ "prompt": "x", "steps": 150, "on_disconnect": "cancel" }));
        leave_at(&client, &job, step);
        eventually("the job is cancelled", Duration::from_secs(10), || ended(&job));
        let job = client.get(&format!("/v1/jobs/{job}")).json();
        assert_eq!(job["status"], "cancelled");
        // What the reader saw, what was under way when he left, and what the server needs to notice.
        let far = job["progress"]["step"].as_u64().unwrap();
        assert!(far <= step + 40, "left at {step}, ran to {far}");
    }
    let kept = client.submit(&json!({ "prompt": "x", "steps": 20 }));
    leave_at(&client, &kept, 3);
    eventually("the job ends", Duration::from_secs(30), || ended(&kept));
    assert_eq!(status(&client, &kept), "completed");
}

#[test]
fn three_hundred_lost_readers_leave_nothing_behind() {
    let worker = Worker::start(&gauss(0, &["--keep-jobs", "10"]));
    let client = worker.client();
    let mut base = (0, 0);
    for round in 0..330 {
        let job = client.submit(&json!({ "prompt": "x", "steps": 30, "on_disconnect": "cancel" }));
        drop(read_some(&worker, &job, 0, 200));
        eventually("it ends", Duration::from_secs(10), || {
            !["queued", "running"].contains(&status(&client, &job).as_str())
        });
        if round == 30 {
            base = (open_files(&worker), worker.rss_kib());
        }
    }
    eventually("all connections are closed", Duration::from_secs(20), || open_files(&worker) <= base.0 + 3);
    let growth = worker.rss_kib().saturating_sub(base.1);
    assert!(growth < 16 * 1024, "{growth} KiB more after 300 lost readers");
    eventually("no place in the queue is lost", Duration::from_secs(10), || {
        let text = String::from_utf8(client.get("/metrics").body).unwrap();
        text.lines().any(|l| l == "sd_worker_queue_jobs 0")
    });
}

#[test]
fn a_hive_sees_a_killed_worker_go_and_come_back() {
    let state = tempfile::tempdir().unwrap();
    trials::hive_sees_the_loss(&gauss(5, &[]), state.path(), 3, Duration::ZERO);
}

#[test]
fn a_queen_in_any_mood_touches_no_job() {
    // 0: closes at once. 1: never answers. Else a status.
    static MOOD: AtomicU64 = AtomicU64::new(0);
    static OPEN: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);
    let beats = Arc::new(AtomicU64::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let queen = format!("http://{}", listener.local_addr().unwrap());
    let heard = beats.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let heard = heard.clone();
            std::thread::spawn(move || {
                MOST.fetch_max(OPEN.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                attend(stream, &heard);
                OPEN.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    fn attend(stream: TcpStream, heard: &AtomicU64) -> Option<()> {
        let mut stream = BufReader::new(stream);
        loop {
            wire::request(&mut stream)?;
            match MOOD.load(Ordering::SeqCst) {
                0 => return None,
                1 => drop(stream.read(&mut [0])),
                status => {
                    if status == 200 {
                        heard.fetch_add(1, Ordering::SeqCst);
                    }
                    write!(stream.get_mut(), "HTTP/1.1 {status} x\r\ncontent-length: 2\r\n\r\n{{}}").ok()?;
                }
            }
        }
    }
    let worker = Worker::start(&gauss(0, &["--queen-url", &queen]));
    for mood in [0, 1, 500, 404, 302] {
        MOOD.store(mood, Ordering::SeqCst);
        for _ in 0..3 {
            assert_eq!(ends_as(&worker.client().run(&json!({ "prompt": "x", "steps": 2 }))), "complete", "mood {mood}");
        }
        std::thread::sleep(Duration::from_millis(700));
    }
    MOOD.store(200, Ordering::SeqCst);
    eventually("she hears from the worker again", Duration::from_secs(45), || beats.load(Ordering::SeqCst) > 0);
    assert!(MOST.load(Ordering::SeqCst) <= 2, "{} sockets at a time", MOST.load(Ordering::SeqCst));
    // A name that is not known, and an address where nobody listens.
    let lost = Worker::start(&gauss(0, &["--queen-url", "http://no-such-queen.invalid:7833"]));
    assert_eq!(ends_as(&lost.client().run(&json!({ "prompt": "x", "steps": 2 }))), "complete");
    let mut alone = Worker::start(&gauss(0, &["--queen-url", "http://127.0.0.1:1"]));
    assert_eq!(ends_as(&alone.client().run(&json!({ "prompt": "x", "steps": 2 }))), "complete");
    alone.signal(libc::SIGTERM);
    assert_eq!(alone.wait(Duration::from_secs(20)).code(), Some(0), "and she keeps nobody from leaving");
}
