//! Outputs that are no numbers, memory that does not suffice for a whole picture, and calls that are not made twice.

use sd_tests::{Worker, WorkerOptions};
use serde_json::{Value, json};

/// The last event of a job, and how many pictures it left, on a backend that does a deed.
fn last_event(deed: &str, body: Value) -> (Value, usize, String) {
    let mut options = WorkerOptions::args(&["--backend", "rogue", "--isolate", "never"]);
    options.env.push(("SD_ROGUE".to_owned(), deed.to_owned()));
    let worker = Worker::start(&options);
    let client = worker.client();
    let last = client.run(&body).pop().unwrap();
    let id = last["job_id"].as_str().unwrap();
    let pictures = (0..2).filter(|i| client.get(&format!("/v1/jobs/{id}/images/{i}")).status == 200).count();
    (last, pictures, worker.log_text())
}

#[test]
fn a_broken_picture_is_an_error_and_never_black() {
    for deed in ["nan@decode", "nan@predict", "nan@predict:3"] {
        let (last, pictures, _) = last_event(deed, json!({ "prompt": "x", "steps": 4 }));
        assert_eq!(
            (last["event"].as_str(), last["code"].as_str()),
            (Some("error"), Some("invalid_output")),
            "{deed}: {last}"
        );
        assert_eq!(
            (pictures, last["image_base64"].is_string(), last["retriable"].as_bool()),
            (0, false, Some(false)),
            "{deed}"
        );
    }
}

#[test]
fn a_picture_that_does_not_fit_whole_is_decoded_in_tiles() {
    let (last, pictures, log) = last_event("oom@decode:1", json!({ "prompt": "x", "steps": 2 }));
    assert_eq!((last["event"].as_str(), pictures), (Some("complete"), 1), "{last}");
    assert!(log.contains("decoding in tiles"), "{log}");
    // When tiles do not fit either there is nothing left to try.
    let (last, pictures, _) = last_event("oom@decode", json!({ "prompt": "x", "steps": 2 }));
    assert_eq!(
        (last["event"].as_str(), last["code"].as_str(), pictures),
        (Some("error"), Some("out_of_memory"), 0),
        "{last}"
    );
}

#[test]
fn a_repeated_prompt_costs_no_encoder_call() {
    let mut options = WorkerOptions::args(&["--backend", "rogue", "--isolate", "never"]);
    // The first job encodes its prompt and its negative prompt; a third call would fail.
    options.env.push(("SD_ROGUE".to_owned(), "fail@encode_text:3".to_owned()));
    let worker = Worker::start(&options);
    let client = worker.client();
    let ends = |prompt: &str, seed: u64| {
        let body = json!({ "prompt": prompt, "negative_prompt": "y", "steps": 2, "seed": seed, "guidance_scale": 5 });
        client.run(&body).pop().unwrap()["event"].as_str().unwrap_or_default().to_owned()
    };
    for seed in 0..4 {
        assert_eq!(ends("x", seed), "complete");
    }
    assert_eq!(ends("another", 0), "error", "another prompt is encoded");
}
