//! Requests that nobody should send: each is answered with a 4xx and a JSON error, and the worker stays well.

use sd_tests::{Worker, WorkerOptions};
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

/// A small generator, so that a failing case can be made again.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below.max(1) as u64) as usize
    }
}

fn worker() -> Worker {
    Worker::start(&WorkerOptions::args(&[
        "--backend",
        "gauss",
        "--isolate",
        "never",
        "--queue-jobs",
        "64",
        "--max-body-mib",
        "1",
    ]))
}

/// The first JSON value of a text: another answer may follow on the same connection.
fn first_json(text: &str) -> Value {
    serde_json::Deserializer::from_str(text).into_iter().next().and_then(Result::ok).unwrap_or(Value::Null)
}

fn refusal(status: u16, body: &Value, what: &str) {
    assert!((400..500).contains(&status), "{what}: status {status}, {body}");
    assert!(body["error"]["code"].is_string() && body["error"]["message"].is_string(), "{what}: {body}");
    let text = body.to_string();
    for leak in ["/root", "/work", "/tmp", "/home", "0x", ".so", "panicked", "src/"] {
        assert!(!text.contains(leak), "{what}: the answer names {leak}: {text}");
    }
}

#[test]
fn wrong_fields_are_refused_by_name() {
    let worker = worker();
    let client = worker.client();
    let cases = [
        (json!({}), "prompt"),
        (json!({ "prompt": 3 }), "prompt"),
        (json!({ "prompt": "x", "steps": 0 }), "steps"),
        (json!({ "prompt": "x", "steps": 151 }), "steps"),
        (json!({ "prompt": "x", "steps": 2.5 }), "steps"),
        (json!({ "prompt": "x", "width": 65 }), "width"),
        (json!({ "prompt": "x", "height": 1_000_000 }), "height"),
        (json!({ "prompt": "x", "guidance_scale": 31 }), "guidance_scale"),
        (json!({ "prompt": "x", "guidance_scale": "7" }), "guidance_scale"),
        (json!({ "prompt": "x", "seed": -2 }), "seed"),
        (json!({ "prompt": "x", "seed": 1.5 }), "seed"),
        (json!({ "prompt": "x", "n": 17 }), "n"),
        (json!({ "prompt": "x", "sampler": "eulr" }), "sampler"),
        (json!({ "prompt": "x", "schedule": "kerras" }), "schedule"),
        (json!({ "prompt": "x", "strength": 2 }), "strength"),
        (json!({ "prompt": "x", "init_image": "!!" }), "init_image"),
        (json!({ "prompt": "x", "init_image": "http://example.com/a.png" }), "init_image"),
        (json!({ "prompt": "x", "mask_image": "AAAA" }), "init_image"),
        (json!({ "prompt": "x", "operation": "image_transform" }), "init_image"),
        (json!({ "prompt": "x", "operation": "infer" }), "operation"),
        (json!({ "prompt": "x", "model": "../../etc/passwd" }), "model"),
        (json!({ "prompt": "x", "model": "nothing-here" }), "model"),
        (json!({ "prompt": "x", "nonsense": 1 }), "nonsense"),
    ];
    for (body, field) in cases {
        let answer = client.post("/v1/jobs", &body);
        refusal(answer.status, &answer.json(), &body.to_string());
        let error = &answer.json()["error"];
        let all = error["errors"].as_array().cloned().unwrap_or_else(|| vec![error.clone()]);
        assert!(all.iter().any(|e| e["field"] == field), "{body}: {error}");
    }
    let closest = client.post("/v1/jobs", &json!({ "prompt": "x", "sampler": "eulr" })).json();
    assert!(closest["error"]["message"].as_str().unwrap().contains("euler"), "{closest}");
}

#[test]
fn five_thousand_mutated_requests() {
    let worker = worker();
    let seeds = [
        "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {n}\r\nConnection: close\r\n\r\n{\"prompt\":\"a red apple\",\"steps\":4,\"width\":64,\"height\":64,\"seed\":1}",
        "GET /v1/jobs/job-00000000-0000-4000-8000-000000000000/stream HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: 3\r\nConnection: close\r\n\r\n",
        "DELETE /v1/jobs/job-00000000-0000-4000-8000-000000000000 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "GET /v1/jobs?status=queued&limit=10 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "POST /v1/models/emoji-sd/load HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    ];
    let address = worker.url.trim_start_matches("http://").to_owned();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut answered, mut refused) = (0, 0);
    for round in 0..5000 {
        let seed = seeds[random.next(if round % 50 == 0 { seeds.len() } else { 4 })];
        let (head, body) = seed.split_once("\r\n\r\n").unwrap();
        let mut body = body.as_bytes().to_vec();
        let mut head = head.replace("{n}", &body.len().to_string()).into_bytes();
        for _ in 0..1 + random.next(3) {
            let target = if body.is_empty() || random.next(3) == 0 { &mut head } else { &mut body };
            let at = random.next(target.len());
            match random.next(5) {
                0 => target[at] = random.next(256) as u8,
                1 => target.truncate(at.max(1)),
                2 => target.insert(at, random.next(256) as u8),
                3 => {
                    let piece = target[at..(at + 8).min(target.len())].to_vec();
                    target.splice(at..at, piece);
                }
                _ => target[at] ^= 1 << random.next(8),
            }
        }
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        // The worker may refuse before everything is written.
        let _ = stream.write_all(&[&head[..], b"\r\n\r\n", &body[..]].concat());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer);
        let Some(status) = text.split(' ').nth(1).and_then(|s| s.parse::<u16>().ok()) else { continue };
        answered += 1;
        assert!(status < 500 || status == 503, "{status} for {:?}", String::from_utf8_lossy(&head));
        if (400..500).contains(&status) {
            refused += 1;
            // hyper itself refuses what is no HTTP at all, without a body.
            if let Some((_, json)) = text.split_once("\r\n\r\n")
                && json.starts_with('{')
            {
                refusal(status, &first_json(json), "mutated request");
            }
        }
    }
    assert!(
        answered > 3000 && refused > 1000,
        "the mutations reach the handlers: {answered} answered, {refused} refused"
    );
    assert_eq!(worker.client().get("/health").status, 200);
    assert!(!worker.log_text().contains("panicked"), "{}", worker.log_text());
}

#[test]
fn bodies_are_bounded_while_they_are_read() {
    let worker = worker();
    let client = worker.client();
    let before = worker.rss_kib();
    let answer = client.post_bytes("/v1/jobs", "application/json", &vec![b' '; 3 * 1024 * 1024]);
    refusal(answer.status, &answer.json(), "three MiB");
    assert_eq!(answer.status, 413);
    // A chunked body tells no length beforehand.
    let mut stream = TcpStream::connect(worker.url.trim_start_matches("http://")).unwrap();
    stream.write_all(b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    let chunk = [b"10000\r\n".as_slice(), &vec![b' '; 0x10000], b"\r\n"].concat();
    let since = Instant::now();
    let mut sent = 0u64;
    while sent < 256 * 1024 * 1024 && stream.write_all(&chunk).is_ok() {
        sent += 0x10000;
    }
    assert!(sent < 64 * 1024 * 1024, "the worker took {sent} bytes");
    assert!(since.elapsed() < Duration::from_secs(10));
    assert!(worker.rss_kib() < before + 16 * 1024, "{} KiB more", worker.rss_kib() - before);
    let deep = format!("{{\"prompt\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let answer = client.post_bytes("/v1/jobs", "application/json", deep.as_bytes());
    refusal(answer.status, &answer.json(), "deep nesting");
}

#[test]
fn a_stranger_page_cannot_send_jobs() {
    let worker = worker();
    let body = json!({ "prompt": "x", "steps": 1 });
    let foreign = worker.client().with_header("origin", "https://evil.example");
    let answer = foreign.post("/v1/jobs", &body);
    assert_eq!(answer.status, 403);
    refusal(answer.status, &answer.json(), "foreign origin");
    let form = worker.client().post_bytes("/v1/jobs", "text/plain", body.to_string().as_bytes());
    assert_eq!(form.status, 415);
    refusal(form.status, &form.json(), "text/plain");
}

#[test]
fn tokens_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    std::fs::write(&file, "alice:correct-horse-battery\nbob:staple-staple-staple\n").unwrap();
    let worker = Worker::start(&WorkerOptions::args(&[
        "--backend",
        "gauss",
        "--isolate",
        "never",
        "--token-file",
        file.to_str().unwrap(),
    ]));
    let body = json!({ "prompt": "x", "steps": 1 });
    for header in [None, Some("Bearer wrong"), Some("Bearer "), Some("Basic AAAA"), Some("Token correct-horse-battery")]
    {
        let client = header.map_or_else(|| worker.client(), |h| worker.client().with_header("authorization", h));
        let answer = client.post("/v1/jobs", &body);
        assert_eq!(answer.status, 401, "{header:?}");
        assert!(answer.header("www-authenticate").is_some());
        refusal(answer.status, &answer.json(), "no token");
    }
    let alice = worker.client().with_header("authorization", "Bearer correct-horse-battery");
    let job = alice.submit(&body);
    let bob = worker.client().with_header("authorization", "Bearer staple-staple-staple");
    assert_eq!(bob.get(&format!("/v1/jobs/{job}")).status, 404, "a key sees its own jobs only");
    assert_eq!(worker.client().get("/health").status, 200, "health is open");
    assert!(!worker.log_text().contains("correct-horse"), "tokens stay out of the log");
}
