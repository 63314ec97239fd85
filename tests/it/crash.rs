//! Plugins in processes of their own that die, hang or talk nonsense: a job runs once more on a fresh process, the second
//! failure is one clean error, and nobody else notices.
#![cfg(target_os = "linux")]

use sd_tests::{Client, Worker, WorkerOptions};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A worker on the misbehaving test plugin, isolated, with a script for it.
fn worker(script: &str, more: &[&str]) -> Worker {
    let mut args = vec!["--backend", "rogue", "--isolate", "always"];
    args.extend(more);
    let env = vec![("SD_ROGUE".to_owned(), script.to_owned())];
    Worker::start(&WorkerOptions { env, ..WorkerOptions::args(&args) })
}

fn body(steps: u32, n: u32) -> Value {
    json!({ "prompt": "an apple", "steps": steps, "seed": 7, "n": n, "width": 64, "height": 64 })
}

fn named<'e>(events: &'e [Value], name: &str) -> Vec<&'e Value> {
    events.iter().filter(|e| e["event"] == name).collect()
}

/// The last event, which must be the only one of its kind.
fn end(events: &[Value]) -> &Value {
    let ends = events.iter().filter(|e| ["complete", "error", "cancelled"].contains(&e["event"].as_str().unwrap()));
    assert_eq!(ends.count(), 1, "{events:?}");
    events.last().unwrap()
}

fn retries(events: &[Value]) -> usize {
    named(events, "narration").iter().filter(|e| e["action"] == "retry").count()
}

/// What a job draws when nothing goes wrong.
fn good_picture(n: u32) -> Value {
    let worker = Worker::start(&WorkerOptions::args(&["--backend", "gauss", "--isolate", "never"]));
    end(&worker.client().run(&body(4, n)))["image_base64"].clone()
}

/// The next job must come through, and soon: a second, what loading takes, and what a busy machine takes.
fn works_again(client: &Client) {
    let since = Instant::now();
    let events = client.run(&body(2, 1));
    assert_eq!((&end(&events)["event"], retries(&events)), (&json!("complete"), 0), "{events:?}");
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
}

#[test]
fn a_death_costs_nothing_but_time() {
    let good = good_picture(1);
    for deed in ["kill", "abort", "segv", "exit", "exit0", "stack", "garbage", "close", "lost"] {
        for call in ["predict:3", "encode_text:1", "decode:1"] {
            let worker = worker(&format!("{deed}@{call}?first"), &[]);
            let client = worker.client();
            let events = client.run(&body(4, 1));
            assert_eq!(end(&events)["event"], "complete", "{deed}@{call}: {events:?}");
            assert_eq!(retries(&events), 1, "{deed}@{call}: {events:?}");
            assert_eq!(named(&events, "started").len(), 1);
            assert_eq!(end(&events)["image_base64"], good, "{deed}@{call}: the picture is another one");
            let after = events.iter().rposition(|e| e["action"] == "retry").unwrap();
            assert_eq!(named(&events[after..], "progress").len(), 4, "all steps ran again");
            works_again(&client);
            let figures = String::from_utf8(client.get("/metrics").body).unwrap();
            assert!(figures.contains("sd_worker_backend_deaths_total{device=\"cpu\"} 1"), "{figures}");
        }
    }
}

#[test]
fn pictures_are_told_once() {
    let worker = worker("kill@decode:2?first", &[]);
    let client = worker.client();
    let job = client.submit(&body(4, 3));
    let events = client.events(&job, 0).rest();
    assert_eq!((&end(&events)["event"], retries(&events)), (&json!("complete"), 1), "{events:?}");
    let told: Vec<u64> = named(&events, "image").iter().map(|e| e["index"].as_u64().unwrap()).collect();
    assert_eq!(told, [0, 1, 2]);
    assert_eq!(end(&events)["image_base64"], good_picture(3));
    assert_eq!(client.get(&format!("/v1/jobs/{job}/images/2")).status, 200);
}

#[test]
fn a_hanging_step_is_ended_by_the_watchdog() {
    for call in ["predict:2", "load:2", "decode:1"] {
        let worker = worker(&format!("hang@{call}?first"), &["--call-limit-secs", "2", "--max-models", "1"]);
        let client = worker.client();
        if call == "load:2" {
            assert_eq!(client.post("/v1/models/emoji-sd/unload", &json!({})).status, 200);
        }
        let since = Instant::now();
        let events = client.run(&body(4, 1));
        assert_eq!((&end(&events)["event"], retries(&events)), (&json!("complete"), 1), "{call}: {events:?}");
        assert!(since.elapsed() < Duration::from_secs(20), "{call}: {:?}", since.elapsed());
        works_again(&client);
    }
}

#[test]
fn the_second_death_is_one_clean_error() {
    let worker = worker("segv@predict:2?..2", &[]);
    let client = worker.client();
    let events = client.run(&body(4, 1));
    let error = end(&events);
    assert_eq!((&error["event"], &error["code"]), (&json!("error"), &json!("backend_died")), "{events:?}");
    assert_eq!((retries(&events), &error["retriable"]), (1, &json!(true)));
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("SIGSEGV") && message.len() < 300 && !message.contains('/'), "{message}");
    // The third process behaves.
    works_again(&client);
    assert_eq!(client.get("/ready").status, 200);
}

#[test]
fn a_caught_panic_is_no_death() {
    let worker = worker("panic@predict:2?first", &[]);
    let client = worker.client();
    for _ in 0..2 {
        let events = client.run(&body(4, 1));
        match end(&events)["event"].as_str() {
            Some("error") => assert_eq!((&end(&events)["code"], retries(&events)), (&json!("backend_panic"), 0)),
            other => assert_eq!(other, Some("complete")),
        }
    }
    works_again(&client);
}

#[test]
fn other_streams_do_not_notice() {
    let worker = worker("kill@predict:5?first", &["--lanes", "2"]);
    let client = worker.client();
    let jobs: Vec<String> = (0..4).map(|_| client.submit(&body(4, 1))).collect();
    let (mut retried, good) = (0, good_picture(1));
    for job in &jobs {
        let events = client.events(job, 0).rest();
        assert_eq!(end(&events)["event"], "complete", "{events:?}");
        assert_eq!(end(&events)["image_base64"], good);
        retried += retries(&events);
    }
    assert!((1..=2).contains(&retried), "those that ran in the dead process, and no other: {retried}");
}

#[test]
fn a_process_killed_from_outside_is_replaced() {
    let worker = worker("slow@predict", &[]);
    let client = worker.client();
    for _ in 0..2 {
        let job = client.submit(&body(4, 1));
        let mut events = client.events(&job, 0);
        events.until("progress");
        for child in worker.children() {
            // SAFETY: kill takes plain numbers; the id is that of a child which was there a moment ago.
            unsafe { libc::kill(child, libc::SIGKILL) };
        }
        let events = events.rest();
        assert_eq!((&end(&events)["event"], retries(&events)), (&json!("complete"), 1), "{events:?}");
    }
    assert_eq!(worker.children().len(), 1, "one process, and no zombies");
}

#[test]
fn a_backend_that_does_not_come_back_is_said_and_tried_again() {
    // The first process dies at work; the next ones die while loading; the sixth is a good one.
    let worker = worker("kill@predict:2?first,segv@load?2..5", &[]);
    let client = worker.client();
    let first = client.submit(&body(4, 1));
    let waiting = client.submit(&body(4, 1));
    let events = client.events(&first, 0).rest();
    assert_eq!((&end(&events)["code"], retries(&events)), (&json!("backend_died"), 1), "{events:?}");
    // Nobody waits for ever for a device that is not there.
    assert_eq!(end(&client.events(&waiting, 0).rest())["code"], "backend_died");
    let ready = client.get("/ready");
    assert_eq!((ready.status, &ready.json()["state"]), (503, &json!("broken")));
    let reason = ready.json()["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("cpu") && reason.contains("SIGSEGV"), "{reason}");
    assert_eq!(client.get("/health").status, 200);
    let refused = client.post("/v1/jobs", &body(4, 1));
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (503, &json!("not_ready")));
    assert!(refused.header("retry-after").is_some());
    assert_eq!(client.get("/info").json()["devices"][0]["state"], "broken");
    worker.wait_ready();
    works_again(&client);
    assert_eq!(client.get("/info").json()["devices"][0]["state"], "ready");
}

#[test]
fn a_cancelled_job_is_not_run_again() {
    let worker = worker("slow@predict", &[]);
    let client = worker.client();
    let job = client.submit(&body(20, 1));
    let mut events = client.events(&job, 0);
    events.until("progress");
    client.delete(&format!("/v1/jobs/{job}"));
    for child in worker.children() {
        // SAFETY: as above.
        unsafe { libc::kill(child, libc::SIGKILL) };
    }
    let events = events.rest();
    assert_eq!((&end(&events)["event"], retries(&events)), (&json!("cancelled"), 0), "{events:?}");
    // The kill may have come after the cancelled job's end; then it is the next one that finds the process gone.
    assert_eq!(end(&client.run(&body(2, 1)))["event"], "complete");
}
