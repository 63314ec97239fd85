//! Batches: as many pictures in one call as the memory takes, and the same pictures however they are split.

use crate::pictures::{decoded, draw, weightless};
use image::RgbImage;
use sd_tests::{Worker, WorkerOptions};
use serde_json::{Value, json};

fn four() -> Value {
    json!({ "prompt": "x", "seed": 3, "steps": 4, "n": 4, "width": 64, "height": 72, "sampler": "euler_a",
        "guidance_scale": 3 })
}

fn pictures(worker: &Worker) -> Vec<RgbImage> {
    draw(&worker.client(), &four()).0
}

#[test]
fn pictures_do_not_depend_on_how_a_batch_is_split() {
    let whole = pictures(&weightless(&[]));
    assert_eq!(whole.len(), 4);
    assert!(whole.windows(2).all(|pair| pair[0] != pair[1]));
    // Guided, four pictures are eight items of a call.
    for fits in [1, 2, 3, 5, 7] {
        let worker = weightless(&["--backend-option", &format!("oom_above={fits}")]);
        assert_eq!(pictures(&worker), whole, "{fits} items fit");
        let log = worker.log_text();
        let halved = log.matches("not enough memory for the batch").count();
        // Once learned, no later step tries what did not fit.
        assert!((1..=3).contains(&halved), "{halved} in {log}");
        assert_eq!(pictures(&worker), whole, "{fits} items fit, again");
        assert_eq!(worker.log_text().matches("not enough memory for the batch").count(), halved);
    }
}

#[test]
fn a_single_picture_that_does_not_fit_is_said() {
    let script = ["--backend", "rogue", "--isolate", "never", "--backend-option", "rogue=oom@predict", "--log", "warn"];
    let worker = Worker::start(&WorkerOptions::args(&script));
    let events = worker.client().run(&four());
    let last = events.last().unwrap();
    assert_eq!((&last["event"], &last["code"]), (&json!("error"), &json!("out_of_memory")), "{last}");
    assert!(last["message"].as_str().unwrap().contains("ask for a smaller one"), "{last}");
    assert_eq!(worker.client().get("/ready").status, 200);
}

#[test]
fn a_mixed_batch_stays_what_each_picture_is_alone() {
    let worker = weightless(&["--backend-option", "oom_above=3"]);
    let client = worker.client();
    let mut jobs = Vec::new();
    for i in 0..3 {
        jobs.push(
            client.submit(&json!({ "prompt": "x", "seed": i, "steps": 3 + i, "n": 2, "width": 64, "height": 64 })),
        );
    }
    for (i, job) in jobs.iter().enumerate() {
        assert_eq!(client.events(job, 0).rest().last().unwrap()["event"], "complete");
        for k in 0..2 {
            let alone = json!({ "prompt": "x", "seed": i + k, "steps": 3 + i, "width": 64, "height": 64 });
            let file = client.get(&format!("/v1/jobs/{job}/images/{k}")).body;
            assert_eq!(decoded(&file), draw(&client, &alone).0[0], "job {i}, picture {k}");
        }
    }
}
