//! Many threads that load, unload and use models at once.

use crate::{Random, Worker, copy_folder, root};
use serde_json::json;
use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

/// The names under which [`two_models`] lays them.
const NAMES: [&str; 2] = ["model-a", "model-b"];

/// Puts two small models under a folder, as copies of a fixture.
pub fn two_models(folder: &Path) {
    for name in NAMES {
        copy_folder(&root().join("tests/fixtures/models/tiny-sd"), &folder.join(name));
    }
}

/// `threads` threads do `rounds` things each: load, unload, list, draw. Every answer must be one that the state allows,
/// every job must end, at most one model may be loaded, and the worker must work afterwards.
pub fn swap_race(worker: &Worker, threads: usize, rounds: usize) -> String {
    let counts: [AtomicUsize; 4] = Default::default();
    let since = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let counts = &counts;
            scope.spawn(move || {
                let client = worker.client();
                let mut random = Random::new(thread as u64 + 1);
                for round in 0..rounds {
                    let name = *random.pick(&NAMES);
                    let what = random.below(4);
                    counts[what].fetch_add(1, Ordering::Relaxed);
                    match what {
                        0 => {
                            let answer = client.post(&format!("/v1/models/{name}/load"), &json!({}));
                            assert!(
                                [200, 409, 503].contains(&answer.status),
                                "load: {} {}",
                                answer.status,
                                answer.json()
                            );
                        }
                        1 => {
                            let answer = client.post(&format!("/v1/models/{name}/unload"), &json!({}));
                            assert!([200, 409].contains(&answer.status), "unload: {} {}", answer.status, answer.json());
                        }
                        2 => {
                            let list = client.get("/v1/models").json();
                            let loaded =
                                list["data"].as_array().expect("a list").iter().filter(|m| m["loaded"] == true).count();
                            assert!(loaded <= 1, "{loaded} models on one device");
                        }
                        _ => {
                            let body = json!({ "prompt": "x", "steps": 1, "model": name });
                            let answer = client.post("/v1/jobs", &body);
                            if answer.status == 429 {
                                continue;
                            }
                            assert_eq!(answer.status, 200, "{}", answer.json());
                            // Every fourth job is left to itself, as clients do.
                            if round % 4 == 0 {
                                continue;
                            }
                            let id = answer.json()["job_id"].as_str().expect("an id").to_owned();
                            let events = client.events(&id, 0).rest();
                            let names: Vec<&str> = events.iter().filter_map(|e| e["event"].as_str()).collect();
                            let ends = names.iter().filter(|n| ["complete", "error", "cancelled"].contains(n)).count();
                            assert_eq!((names.last(), ends), (Some(&"complete"), 1), "{events:?}");
                        }
                    }
                }
            });
        }
    });
    let took = since.elapsed();
    let client = worker.client();
    let until = Instant::now() + Duration::from_secs(60);
    while client.get("/v1/queue").json()["waiting"] != 0 {
        assert!(Instant::now() < until, "jobs wait for ever");
        std::thread::sleep(Duration::from_millis(20));
    }
    for name in NAMES {
        let events = client.run(&json!({ "prompt": "x", "steps": 1, "model": name }));
        assert_eq!(events.last().expect("an end")["event"], "complete");
    }
    assert!(!worker.log_text().contains("panicked"));
    let [loads, unloads, lists, jobs] = counts.map(AtomicUsize::into_inner);
    format!(
        "{threads} threads: {loads} loads, {unloads} unloads, {lists} lists, {jobs} jobs in {:.1} s",
        took.as_secs_f64()
    )
}
