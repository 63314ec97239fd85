//! The heartbeat against a queen that is away, hangs, fails, knows nothing of heartbeats, and comes back.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn config(queen: Option<String>, callback: Option<String>) -> HiveConfig {
    HiveConfig {
        queen_url: queen,
        callback_url: callback,
        worker_id: "worker-7".into(),
        port: 8600,
        own_url: "http://127.0.0.1:8600".into(),
        implementation: "sd-worker-rbee-cpu".into(),
        backend: "cpu".into(),
        version: "1.2.3".into(),
        timing: Timing {
            interval: Duration::from_millis(30),
            retry: Duration::from_millis(10),
            timeout: Duration::from_millis(400),
        },
    }
}

fn ready() -> WorkerStatus {
    WorkerStatus { status: Status::Ready, model_id: "emoji-sd".into(), device: "cpu:0".into() }
}

/// What the fake queen does with the next request; `None` is to hang.
type Mood = Arc<Mutex<Option<u16>>>;

/// Answers every request on `listener` by its mood and passes on path and body. Ends with the test's process.
fn queen(listener: TcpListener, mood: Mood) -> Receiver<(String, Value)> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (mood, sender) = (mood.clone(), sender.clone());
            std::thread::spawn(move || attend(stream, &mood, &sender));
        }
    });
    receiver
}

fn attend(mut stream: TcpStream, mood: &Mood, sender: &Sender<(String, Value)>) -> Option<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).ok()?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).ok()?.to_lowercase();
        let length = head.lines().find_map(|l| l.strip_prefix("content-length: "))?.trim().parse().ok()?;
        let mut body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
        let path = head.split(' ').nth(1)?.to_owned();
        let status = *mood.lock().unwrap();
        sender.send((path, serde_json::from_slice(&body).ok()?)).ok()?;
        match status {
            Some(status) => write!(stream, "HTTP/1.1 {status} x\r\ncontent-length: 2\r\n\r\n{{}}").ok()?,
            // Until the client gives up.
            None => drop(stream.read(&mut [0; 1])),
        }
    }
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[test]
fn a_queen_in_every_mood() {
    let (gone, address) = listener();
    drop(gone);
    let (beats, seen) = channel();
    let heart = start(config(Some(format!("http://{address}/")), None), ready, move |b| drop(beats.send(b.clone())));
    let heart = heart.unwrap().unwrap();
    let wait_for = |good: &dyn Fn(&Beat) -> bool, what: &str| {
        while !good(&seen.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no heartbeat {what}"))) {}
    };
    wait_for(&|b| matches!(b, Beat::Failed(_)), "while she is away");

    let mood = Mood::default();
    let requests = queen(TcpListener::bind(address).unwrap(), mood.clone());
    let set = |status| *mood.lock().unwrap() = status;
    wait_for(&|b| matches!(b, Beat::Failed(reason) if reason.contains("timeout")), "while she hangs");
    set(Some(500));
    wait_for(&|b| *b == Beat::Failed("status 500".into()), "while she fails");
    set(Some(404));
    wait_for(&|b| *b == Beat::NoRoute, "while she knows none");
    set(Some(200));
    wait_for(&|b| *b == Beat::Taken, "when she is back");
    set(Some(302));
    wait_for(&|b| *b == Beat::Failed("status 302".into()), "when she points elsewhere");
    set(Some(200));
    wait_for(&|b| *b == Beat::Taken, "when she is back again");
    heart.stop();

    let requests: Vec<(String, Value)> = requests.try_iter().collect();
    let (path, body) = &requests[0];
    let worker = &body["worker"];
    assert_eq!(path, "/v1/worker-heartbeat");
    for (field, value) in [
        ("id", "worker-7"),
        ("model_id", "emoji-sd"),
        ("device", "cpu:0"),
        ("status", "ready"),
        ("implementation", "sd-worker-rbee-cpu"),
        ("version", "1.2.3"),
    ] {
        assert_eq!(worker[field], value, "{field}");
    }
    assert_eq!(worker["port"], 8600);
    let time = time::OffsetDateTime::parse(
        body["timestamp"].as_str().unwrap(),
        &time::format_description::well_known::Rfc3339,
    );
    assert!((time::OffsetDateTime::now_utc() - time.unwrap()).abs() < time::Duration::hours(1));
    assert!(body["timestamp"].as_str().unwrap().ends_with('Z'));
    assert_eq!(requests.last().unwrap().1["worker"]["status"], "stopped", "a last word");
}

#[test]
fn the_callback_is_said_once_when_the_worker_is_ready() {
    let (listener, address) = listener();
    let mood = Mood::new(Mutex::new(Some(503)));
    let requests = queen(listener, mood.clone());
    let loaded = Arc::new(AtomicBool::new(false));
    let (flag, url) = (loaded.clone(), format!("http://{address}"));
    let status = move || {
        let status = if flag.load(Ordering::SeqCst) { Status::Busy } else { Status::Starting };
        WorkerStatus { status, ..ready() }
    };
    let heart = start(config(Some(url.clone()), Some(url)), status, |_| {}).unwrap().unwrap();
    let next = || requests.recv_timeout(PATIENCE).unwrap();
    for _ in 0..3 {
        assert_eq!(next().0, "/v1/worker-heartbeat", "not while it loads");
    }
    loaded.store(true, Ordering::SeqCst);
    heart.poke();
    let callback = loop {
        let (path, body) = next();
        if path == "/v1/workers/ready" {
            break body;
        }
    };
    assert_eq!(
        callback,
        serde_json::json!({"worker_id": "worker-7", "url": "http://127.0.0.1:8600", "model_ref": "emoji-sd", "backend": "cpu", "device": "cpu:0"})
    );
    while next().0 != "/v1/workers/ready" {}
    *mood.lock().unwrap() = Some(200);
    // One more may be under way with the old mood and one comes with the new; then never again.
    let rest: Vec<String> = (0..20).map(|_| next().0).collect();
    let calls = rest.iter().filter(|p| *p == "/v1/workers/ready").count();
    assert!((1..=2).contains(&calls), "{rest:?}");
    assert!(rest[10..].iter().all(|p| p == "/v1/worker-heartbeat"), "{rest:?}");
}

#[test]
fn a_wrong_address_is_said_at_the_start() {
    assert!(start(config(None, None), ready, |_| {}).unwrap().is_none());
    assert_eq!(start(config(None, Some("x".into())), ready, |_| {}).unwrap_err().code(), "invalid_hive_url");
}
