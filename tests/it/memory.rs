//! Memory runs out for real, by a limit that the kernel holds: one job fails, the worker lives and goes on drawing.

use crate::support::ends_as;
use sd_tests::{Worker, WorkerOptions};
use serde_json::{Value, json};

fn picture(events: &[Value]) -> &Value {
    assert_eq!(ends_as(events), "complete", "{events:?}");
    &events.last().unwrap()["image_base64"]
}

#[test]
fn a_job_that_runs_out_of_memory_costs_one_job() {
    // The eighth step of a process takes memory, 16 MiB after 16 MiB, until the kernel gives no more.
    let args = ["--backend", "rogue", "--isolate", "always", "--plugin-memory-mib", "320"];
    let env = vec![("SD_ROGUE".to_owned(), "eat@predict:8".to_owned())];
    let worker = Worker::start(&WorkerOptions { env, ..WorkerOptions::args(&args) });
    let client = worker.client();
    let small = json!({ "prompt": "panda", "steps": 2, "seed": 3, "width": 64, "height": 64 });
    let first = client.run(&small);
    let before = worker.rss_kib();
    let large = client.run(&json!({ "prompt": "panda", "steps": 12, "width": 64, "height": 64 }));
    assert_eq!(ends_as(&large), "error", "{large:?}");
    let code = large.last().unwrap()["code"].as_str().unwrap();
    assert!(["backend_died", "backend_crashed"].contains(&code), "{:?}", large.last());
    assert_eq!(client.get("/health").status, 200);
    // What the plugin took came from its own process, and went with it.
    let grown = worker.rss_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "the worker itself grew by {grown} KiB");
    // The model is loaded anew in a new process, and draws the same picture.
    assert_eq!(picture(&client.run(&small)), picture(&first));
}
