//! Tokens: asked for, compared whole, and never shown.

use sd_tests::{Worker, WorkerOptions, wire};
use serde_json::json;
use std::time::Duration;

const ALICE: &str = "correct-horse-battery";
const BOB: &str = "staple-staple-staple";

fn worker(folder: &std::path::Path, args: &[&str]) -> Worker {
    let file = folder.join("tokens");
    std::fs::write(&file, format!("alice:{ALICE}\nbob:{BOB}\n")).unwrap();
    let mut options =
        WorkerOptions::args(&["--backend", "gauss", "--isolate", "never", "--token-file", file.to_str().unwrap()]);
    options.args.extend(args.iter().map(|a| (*a).to_owned()));
    Worker::start(&options)
}

#[test]
fn wrong_tokens_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let worker = worker(folder.path(), &[]);
    let body = json!({ "prompt": "x", "steps": 1 });
    let almost = &ALICE[..ALICE.len() - 1];
    let cases = [
        None,
        Some("Bearer".to_owned()),
        Some("Bearer ".to_owned()),
        Some("Bearer wrong".to_owned()),
        Some(format!("Bearer {almost}")),
        Some(format!("Bearer {ALICE}x")),
        Some(format!("Bearer {}", ALICE.to_uppercase())),
        Some(format!("Bearer {ALICE} {BOB}")),
        Some(format!("Bearer {ALICE},{BOB}")),
        Some(format!("Bearer {}", "a".repeat(16 * 1024))),
        Some(format!("Token {ALICE}")),
        Some(ALICE.to_owned()),
        Some("Basic AAAA".to_owned()),
        Some("Basic !!!!".to_owned()),
    ];
    for header in cases {
        let client =
            header.as_ref().map_or_else(|| worker.client(), |h| worker.client().with_header("authorization", h));
        for answer in
            [client.post("/v1/jobs", &body), client.get("/v1/jobs"), client.get("/metrics"), client.get("/no")]
        {
            assert_eq!(answer.status, 401, "{header:.60?}");
            assert!(answer.header("www-authenticate").is_some());
            wire::proper_refusal(&answer).unwrap();
        }
    }
    assert_eq!(worker.client().with_header("authorization", &format!("bearer {ALICE}")).get("/v1/jobs").status, 200);
    assert_eq!(worker.client().get("/health").status, 200, "health is open");
}

#[test]
fn two_tokens_or_a_huge_one_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let worker = worker(folder.path(), &[]);
    let ask = |headers: &str| {
        let request = format!("GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n");
        wire::ask(wire::address(&worker.url), request.as_bytes(), Duration::from_secs(5)).answer.unwrap()
    };
    let (a, b) = (format!("Authorization: Bearer {ALICE}\r\n"), format!("Authorization: Bearer {BOB}\r\n"));
    assert_eq!(ask(&a).status, 200);
    for headers in [format!("{a}{b}"), format!("{a}{a}"), format!("{a}Authorization: Bearer wrong\r\n")] {
        let answer = ask(&headers);
        assert_eq!(answer.status, 401, "two Authorization headers are one too many");
        wire::proper_refusal(&answer).unwrap();
    }
    let answer = ask(&format!("Authorization: Bearer {}\r\n", "a".repeat(64 * 1024)));
    assert_eq!(answer.status, 431);
    wire::proper_refusal(&answer).unwrap();
}

#[test]
fn a_key_sees_its_own_jobs_only() {
    let folder = tempfile::tempdir().unwrap();
    let worker = worker(folder.path(), &[]);
    let alice = worker.client().with_header("authorization", &format!("Bearer {ALICE}"));
    let bob = worker.client().with_header("authorization", &format!("Bearer {BOB}"));
    let job = alice.submit(&json!({ "prompt": "x", "steps": 1 }));
    alice.events(&job, 0).rest();
    for path in ["", "/stream", "/images/0"] {
        let path = format!("/v1/jobs/{job}{path}");
        assert_eq!(alice.get(&path).status, 200, "{path}");
        let answer = bob.get(&path);
        assert_eq!(answer.status, 404, "{path}");
        wire::proper_refusal(&answer).unwrap();
    }
    assert_eq!(bob.delete(&format!("/v1/jobs/{job}")).status, 404);
    assert_eq!(bob.get("/v1/jobs").json()["data"], json!([]));
    assert_eq!(alice.get(&format!("/v1/jobs/{job}")).json()["status"], "completed", "it is still there");
}

/// Uses the tokens in every way, with every log line on, and looks for them wherever they could come out.
#[test]
fn tokens_and_prompts_are_written_nowhere() {
    const PROMPT: &str = "a secret wish nobody may read";
    let folder = tempfile::tempdir().unwrap();
    let worker = worker(folder.path(), &["--log", "trace", "--log-format", "json"]);
    let alice = worker.client().with_header("authorization", &format!("Bearer {ALICE}"));
    use base64::Engine as _;
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("alice:{ALICE}"));
    let as_basic = worker.client().with_header("authorization", &format!("Basic {basic}"));
    let mut told = String::new();
    let job = alice.submit(&json!({ "prompt": PROMPT, "steps": 2 }));
    alice.events(&job, 0).rest();
    for path in ["/info", "/metrics", "/health", "/ready", "/v1/queue", "/v1/backends", "/openapi.json", "/docs"] {
        for client in [&alice, &as_basic] {
            told.push_str(&String::from_utf8_lossy(&client.get(path).body));
        }
    }
    for wrong in [format!("Bearer {ALICE}x"), format!("Basic {basic}x")] {
        let answer = worker.client().with_header("authorization", &wrong).get("/v1/jobs");
        told.push_str(&String::from_utf8_lossy(&answer.body));
        told.push_str(&format!("{:?}", answer.headers));
    }
    // A wrong request must not have its prompt in the answer either.
    let refused = alice.post("/v1/jobs", &json!({ "prompt": PROMPT, "steps": 0, "sampler": "nonsense" }));
    told.push_str(&String::from_utf8_lossy(&refused.body));
    std::fs::write(folder.path().join("tokens"), format!("alice:{ALICE}\nbroken line: with spaces {BOB}\nbob:{BOB}\n"))
        .unwrap();
    worker.signal(libc::SIGHUP);
    std::thread::sleep(Duration::from_millis(300));
    for file in ["cmdline", "comm", "status"] {
        told.push_str(&std::fs::read_to_string(format!("/proc/{}/{file}", worker.pid())).unwrap());
    }
    let log = worker.log_text();
    assert!(log.len() > 2_000, "the log was on: {log}");
    for (place, text) in [("the log", &log), ("an answer", &told)] {
        for secret in [ALICE, BOB, basic.as_str(), PROMPT] {
            let at = text.find(secret);
            let around = at.map(|at| text[..at].lines().last().unwrap_or_default().to_owned());
            assert!(at.is_none(), "{place} holds a secret, behind {around:?}");
        }
    }
}
