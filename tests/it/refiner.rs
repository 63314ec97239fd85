//! Another model finishes the pictures. That the pictures are those of diffusers is held in `parity`.

use crate::{
    parity::draw,
    pictures::{decoded, weightless},
};
use sd_tests::{Worker, WorkerOptions, root};
use serde_json::{Value, json};

fn worker() -> Worker {
    let fixtures = root().join("tests/fixtures/models");
    Worker::start(&WorkerOptions::args(&[
        "--log",
        "warn",
        "--models-dir",
        fixtures.to_str().unwrap(),
        "--model",
        "sdxl",
    ]))
}

fn body(more: Value) -> Value {
    let mut body = json!({
        "prompt": "a red apple", "steps": 10, "seed": 4, "width": 64, "height": 48, "sampler": "euler_a",
        "refiner": "sdxl-refiner", "refiner_switch_at": 0.6,
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn the_refiner_changes_the_picture_and_every_step_is_told_once() {
    let worker = worker();
    let client = worker.client();
    let plain = draw(&client, &body(json!({ "refiner": null, "refiner_switch_at": null }))).unwrap();
    let late = draw(&client, &body(json!({ "refiner_switch_at": 1 }))).unwrap();
    assert_eq!(plain, late, "1 is never");
    let events = client.run(&body(json!({ "n": 2 })));
    let told: Vec<(u64, u64)> = events
        .iter()
        .filter(|e| e["event"] == "progress")
        .map(|e| (e["step"].as_u64().unwrap(), e["total"].as_u64().unwrap()))
        .collect();
    assert_eq!(told, (1..=10).map(|step| (step, 10)).collect::<Vec<_>>());
    let last = events.last().unwrap();
    assert_eq!((last["event"].as_str(), last["seeds"].as_array().unwrap().len()), (Some("complete"), 2));
    let recipe = client.post("/v1/png-info", &json!({ "image": last["image_base64"] })).json();
    let text = recipe["parameters"].as_str().unwrap();
    assert!(text.contains("Refiner: sdxl-refiner, Refiner switch at: 0.6"), "{text}");
    assert_ne!(draw(&client, &body(json!({}))).unwrap(), plain);
    // The score belongs to the refiner, and the job to both.
    let scored = body(json!({ "aesthetic_score": 9.0 }));
    assert_ne!(draw(&client, &scored).unwrap(), draw(&client, &body(json!({}))).unwrap());
    // Adaptive steps are counted over all pictures and both models.
    let events = client.run(&body(json!({ "sampler": "dpm_adaptive", "schedule": "karras", "n": 2 })));
    let told: Vec<u64> =
        events.iter().filter(|e| e["event"] == "progress").map(|e| e["step"].as_u64().unwrap()).collect();
    assert_eq!(told, (1..=20).collect::<Vec<_>>(), "{:?}", events.last());
}

#[test]
fn an_interrupt_between_the_models_leaves_no_noise() {
    let worker = weightless(&["--backend-option", "step_ms=200"]);
    let client = worker.client();
    let named = client.get("/v1/models").json()["data"][0]["id"].as_str().unwrap().to_owned();
    let body = json!({ "prompt": "x", "steps": 6, "seed": 4, "width": 64, "height": 64, "sampler": "euler",
        "refiner": named, "refiner_switch_at": 0.5 });
    let whole = draw(&client, &body).unwrap();
    let job = client.submit(&body);
    let mut events = client.events(&job, 0);
    while events.next_event().unwrap()["step"] != 2 {}
    // The third is the last of the first model.
    assert_eq!(client.post("/sdapi/v1/interrupt", &json!({})).status, 200);
    let last = events.rest().pop().unwrap();
    assert_eq!(last["event"], "complete", "{last}");
    let early = decoded(&client.get(&format!("/v1/jobs/{job}/images/0")).body);
    let far = whole.iter().zip(early.iter()).map(|(a, b)| u32::from(a.abs_diff(*b))).sum::<u32>();
    assert!(far < 20 * whole.len() as u32, "{} of 255 on average", far / whole.len() as u32);
}

#[test]
fn a_mask_keeps_through_both_models() {
    let worker = worker();
    let client = worker.client();
    let source =
        client.run(&body(json!({ "refiner": null, "refiner_switch_at": null }))).pop().unwrap()["image_base64"].clone();
    let mut mask = image::GrayImage::new(64, 48);
    mask.enumerate_pixels_mut().for_each(|(x, _, p)| p.0[0] = if x < 32 { 255 } else { 0 });
    let mut png = std::io::Cursor::new(Vec::new());
    mask.write_to(&mut png, image::ImageFormat::Png).unwrap();
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::STANDARD;
    let painted = draw(
        &client,
        &body(
            json!({ "prompt": "snow", "seed": 9, "init_image": source, "mask_image": engine.encode(png.into_inner()) }),
        ),
    )
    .unwrap();
    let bytes = engine.decode(source.as_str().unwrap()).unwrap();
    let before = image::ImageReader::with_format(std::io::Cursor::new(bytes), image::ImageFormat::Png)
        .decode()
        .unwrap()
        .to_rgb8();
    assert!((32..64).all(|x| (0..48).all(|y| before.get_pixel(x, y) == painted.get_pixel(x, y))));
    assert!((0..32).any(|x| (0..48).any(|y| before.get_pixel(x, y) != painted.get_pixel(x, y))));
}

#[test]
fn what_cannot_be_handed_over_is_said() {
    let worker = worker();
    let client = worker.client();
    for (more, status, field) in [
        (json!({ "refiner": "nothing-here" }), 404, "refiner"),
        (json!({ "refiner": "sd15" }), 422, "refiner"),
        (json!({ "refiner": "../x" }), 400, "refiner"),
        (json!({ "refiner_switch_at": 0 }), 422, "refiner_switch_at"),
        (json!({ "refiner_switch_at": 1.5 }), 422, "refiner_switch_at"),
        (json!({ "refiner": null }), 422, "refiner_switch_at"),
    ] {
        let answer = client.post("/v1/jobs", &body(more.clone()));
        assert_eq!((answer.status, answer.json()["error"]["field"].as_str()), (status, Some(field)), "{more}");
    }
    // A1111's words for the same.
    let theirs = json!({
        "prompt": "a red apple", "steps": 10, "seed": 4, "width": 64, "height": 48, "sampler_name": "Euler a", "scheduler": "Karras",
        "refiner_checkpoint": "sdxl-refiner.safetensors [0123456789]", "refiner_switch_at": 0.6,
    });
    let answer = client.post("/sdapi/v1/txt2img", &theirs);
    assert_eq!(answer.status, 200, "{}", answer.json());
    let ours = client.run(&body(json!({ "schedule": "karras", "guidance_scale": 7.0 }))).pop().unwrap();
    assert_eq!(answer.json()["info"].as_str().map(|i| i.contains("Refiner: sdxl-refiner")), Some(true));
    assert!(ours["image_base64"].is_string());
}
