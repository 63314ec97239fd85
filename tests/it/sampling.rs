//! What a request can say about sampling: noise levels of its own, churn, samplers that choose their steps.

use sd_tests::{Client, Worker, WorkerOptions};
use serde_json::{Value, json};

/// The pixels of every picture of a job.
fn pictures(client: &Client, body: &Value) -> Vec<Vec<u8>> {
    let events = client.run(body);
    let last = events.last().unwrap();
    assert_eq!(last["event"], "complete", "{last}");
    let steps: Vec<u64> =
        events.iter().filter(|e| e["event"] == "progress").map(|e| e["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=steps.len() as u64).collect::<Vec<_>>(), "each step is told once");
    let id = last["job_id"].as_str().unwrap();
    let count = last["images"].as_array().unwrap().len();
    let read = |i: usize| {
        let file = client.get(&format!("/v1/jobs/{id}/images/{i}")).body;
        let reader = image::ImageReader::with_format(std::io::Cursor::new(file), image::ImageFormat::Png);
        reader.decode().unwrap().to_rgb8().into_raw()
    };
    (0..count).map(read).collect()
}

fn farthest(a: &[u8], b: &[u8]) -> u8 {
    a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn a_picture_does_not_depend_on_its_company() {
    let worker = Worker::start(&WorkerOptions::default());
    let client = worker.client();
    for sampler in ["dpm_adaptive", "dpmpp_2m_sde", "dpmpp_sde", "restart"] {
        let body = |seed: u64, n: u32| json!({ "prompt": "panda", "seed": seed, "steps": 4, "n": n, "sampler": sampler, "schedule": "karras" });
        let together = pictures(&client, &body(7, 3));
        assert_eq!(together.len(), 3);
        for (i, picture) in together.iter().enumerate() {
            let alone = pictures(&client, &body(7 + i as u64, 1));
            let far = farthest(picture, &alone[0]);
            assert!(far <= 1, "{sampler}, picture {i}: {far}");
        }
        assert!(farthest(&together[0], &together[1]) > 20, "{sampler}: seeds matter");
    }
}

#[test]
fn noise_levels_of_a_request_are_used() {
    let worker = Worker::start(&WorkerOptions::default());
    let client = worker.client();
    // The levels of Karras et al. for the bundled model's range, worked out here.
    let (highest, lowest, rho) = (14.6146_f64.powf(1.0 / 7.0), 0.0292_f64.powf(1.0 / 7.0), 7.0);
    let mut sigmas: Vec<f64> = (0..8).map(|i| (highest + f64::from(i) / 7.0 * (lowest - highest)).powf(rho)).collect();
    sigmas.push(0.0);
    let body = json!({ "prompt": "red apple", "seed": 3, "sampler": "euler" });
    let with = |more: Value| {
        let mut body = body.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let own = pictures(&client, &with(json!({ "sigmas": sigmas })));
    let named = pictures(&client, &with(json!({ "steps": 8, "schedule": "karras" })));
    assert!(
        farthest(&own[0], &named[0]) <= 4,
        "the same levels by number and by name: {}",
        farthest(&own[0], &named[0])
    );
    let other = pictures(&client, &with(json!({ "sigmas": [14.0, 3.0, 1.0, 0.0] })));
    assert!(farthest(&own[0], &other[0]) > 20);
    // Scheduling counts the steps that are run: after the first of three the other prompt is read.
    let switched =
        pictures(&client, &with(json!({ "sigmas": [14.0, 3.0, 1.0, 0.0], "prompt": "[red apple:panda:1]" })));
    assert!(farthest(&switched[0], &other[0]) > 20);
    for (wrong, field) in [
        (json!({ "sigmas": [1.0, 2.0, 0.0] }), "sigmas"),
        (json!({ "sigmas": [1.0, 1.0, 0.0] }), "sigmas"),
        // Equal in the precision that is sampled in: between them lies no way, and its noise would be no number.
        (json!({ "sigmas": [2.000_000_01, 2.0, 1.0, 0.0], "sampler": "dpmpp_sde" }), "sigmas"),
        (json!({ "sigmas": [1.0] }), "sigmas"),
        (json!({ "sigmas": [1e9, 0.0] }), "sigmas"),
        (json!({ "sigmas": [3.0, 1.0, 0.0], "steps": 20 }), "steps"),
        (json!({ "s_churn": -1 }), "s_churn"),
        (json!({ "original_size": [512, 512] }), "original_size"),
        (json!({ "aesthetic_score": 7 }), "aesthetic_score"),
    ] {
        let answer = client.post("/v1/jobs", &with(wrong.clone()));
        assert_eq!((answer.status, answer.json()["error"]["field"].as_str()), (422, Some(field)), "{wrong}");
    }
}

#[test]
fn churn_changes_the_picture_and_stands_in_its_recipe() {
    let worker = Worker::start(&WorkerOptions::default());
    let client = worker.client();
    let body = json!({ "prompt": "rocket", "seed": 3, "steps": 6, "sampler": "heun" });
    let plain = pictures(&client, &body);
    let mut churned = body.clone();
    churned.as_object_mut().unwrap().extend(json!({ "s_churn": 4.0, "s_noise": 1.01 }).as_object().unwrap().clone());
    assert!(farthest(&plain[0], &pictures(&client, &churned)[0]) > 5);
    let last = client.run(&churned).pop().unwrap();
    let recipe = client.post("/v1/png-info", &json!({ "image": last["image_base64"] })).json();
    let text = recipe["parameters"].as_str().unwrap();
    assert!(text.contains("Sigma churn: 4, ") && text.contains("Sigma noise: 1.01, "), "{text}");
}
