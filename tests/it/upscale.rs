//! Enlarging: jobs of their own, between two passes, over A1111's interface and on the command line.

use crate::{
    parity::{Golden, psnr},
    pictures::{Dice, decoded, draw, fault, png},
};
use image::{RgbImage, imageops};
use sd_tests::{Worker, WorkerOptions, bundled_models, program, root};
use serde_json::{Value, json};

/// A worker that finds the bundled model and the tests' upscalers.
fn worker(more: &[&str]) -> Worker {
    let dirs = format!("{}:{}", bundled_models().display(), root().join("tests/fixtures/models").display());
    Worker::start(&WorkerOptions::args(&[&["--log", "warn", "--models-dir", &dirs], more].concat()))
}

fn upscale(picture: &RgbImage, more: Value) -> Value {
    let mut body = json!({ "operation": "image_upscale", "init_image": png(picture) });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn networks_enlarge_as_spandrel_does() {
    let worker = worker(&[]);
    let client = worker.client();
    let golden = Golden::read("upscalers");
    for name in
        ["body-x4", "body-x2", "body-x1", "trunk-x4", "sequence-x4", "sequence-x2", "sequence-x1", "averaged-x4"]
    {
        let body = json!({ "operation": "image_upscale", "init_image": golden.png("picture"), "upscaler": name });
        let (pictures, _) = draw(&client, &body);
        let (shape, wanted) = golden.get(name);
        assert_eq!(pictures[0].dimensions(), (shape[3] as u32, shape[2] as u32), "{name}");
        let ratio = psnr(pictures[0].as_raw(), &wanted);
        // Both the picture and the result are rounded to 8 bits.
        assert!(ratio > 45.0, "{name}: {ratio:.1} dB");
    }
}

#[test]
fn any_size_goes_through_in_tiles_and_rounds() {
    // The weightless backend repeats pixels: every seam and every round can be told exactly.
    for isolate in ["never", "always"] {
        let worker = worker(&["--backend", "gauss", "--isolate", isolate]);
        let client = worker.client();
        let mut dice = Dice(11);
        for (width, height, scale) in [(200, 131, 2), (1, 1, 2), (65, 64, 4), (37, 90, 8)] {
            let picture = dice.picture(width, height);
            let job = client.submit(&upscale(&picture, json!({ "upscaler": "body-x2", "scale": scale })));
            let events = client.events(&job, 0).rest();
            let last = events.last().unwrap();
            assert_eq!(last["event"], "complete", "{last}");
            let steps: Vec<(u64, u64)> = events
                .iter()
                .filter(|e| e["event"] == "progress")
                .map(|e| (e["step"].as_u64().unwrap(), e["total"].as_u64().unwrap()))
                .collect();
            let total = steps.len() as u64;
            assert_eq!(steps, (1..=total).map(|k| (k, total)).collect::<Vec<_>>(), "each tile is told once");
            assert!(total >= u64::from(scale).ilog2().into());
            let large = decoded(&client.get(&format!("/v1/jobs/{job}/images/0")).body);
            let expected = imageops::resize(&picture, width * scale, height * scale, imageops::FilterType::Nearest);
            assert!(large == expected, "{width} × {height} × {scale}");
        }
        // What the network makes too large is brought down, other proportions are cut on both sides.
        let picture = RgbImage::from_pixel(40, 20, image::Rgb([9, 80, 200]));
        for (wish, size) in [
            (json!({ "scale": 1.25 }), (50, 25)),
            (json!({ "width": 80 }), (80, 40)),
            (json!({ "width": 64, "height": 64 }), (64, 64)),
        ] {
            let mut body = upscale(&picture, json!({ "upscaler": "body-x2" }));
            body.as_object_mut().unwrap().extend(wish.as_object().unwrap().clone());
            let large = draw(&client, &body).0.remove(0);
            assert_eq!(large.dimensions(), size, "{wish}");
            assert!(large.pixels().all(|p| p.0 == [9, 80, 200]), "{wish}");
        }
    }
}

#[test]
fn the_picture_keeps_its_recipe_and_a_pass_may_have_a_network_before_it() {
    let worker = worker(&[]);
    let client = worker.client();
    let plain = json!({ "prompt": "red apple", "seed": 4, "steps": 6 });
    let (small, last) = draw(&client, &plain);
    let body = json!({ "operation": "image_upscale", "init_image": last["image_base64"], "upscaler": "body-x2" });
    let (large, last) = draw(&client, &body);
    let recipe = client.post("/v1/png-info", &json!({ "image": last["image_base64"] })).json();
    assert_eq!(recipe["items"]["Prompt"], "red apple", "{recipe}");
    assert_eq!(recipe["items"]["Seed"], "4");
    assert_eq!(recipe["items"]["Postprocess upscaler"], "body-x2");
    let none = draw(&client, &upscale(&small[0], json!({ "upscaler": "bicubic" }))).1;
    let recipe = client.post("/v1/png-info", &json!({ "image": none["image_base64"] })).json();
    assert_eq!(recipe["items"]["Postprocess upscaler"], "Bicubic", "{recipe}");

    let mut body = plain.clone();
    body["hires"] = json!({ "upscaler": "body-x2", "steps": 8, "strength": 0.5 });
    let (both, last) = draw(&client, &body);
    let second = json!({ "operation": "image_transform", "prompt": "red apple", "init_image": png(&large[0]), "seed": 4,
        "steps": 8, "strength": 0.5 });
    assert_eq!(both, draw(&client, &second).0, "three requests make the same");
    let recipe = client.post("/v1/png-info", &json!({ "image": last["image_base64"] })).json();
    assert_eq!(recipe["items"]["Hires upscaler"], "body-x2");
}

#[test]
fn a1111_clients_enlarge_too() {
    let worker = worker(&["--backend", "gauss", "--isolate", "never"]);
    let client = worker.client();
    let picture = Dice(5).picture(30, 20);
    let list = client.get("/sdapi/v1/upscalers").json();
    let entry = list.as_array().unwrap().iter().find(|u| u["name"] == "body-x2").unwrap();
    assert_eq!(entry["scale"], 2);
    let nearest = |w, h| imageops::resize(&picture, w, h, imageops::FilterType::Nearest);
    let read = |text: &Value| {
        use base64::Engine as _;
        decoded(&base64::engine::general_purpose::STANDARD.decode(text.as_str().unwrap()).unwrap())
    };
    for (upscaler, factor) in [("body-x2", 2), ("Nearest", 3)] {
        let sent = json!({ "image": png(&picture), "upscaler_1": upscaler, "upscaling_resize": factor });
        let answer = client.post("/sdapi/v1/extra-single-image", &sent).json();
        assert_eq!(read(&answer["image"]), nearest(30 * factor, 20 * factor), "{upscaler}");
    }
    let sent = json!({ "imageList": [{ "data": png(&picture), "name": "a" }, { "data": png(&picture), "name": "b" }],
        "upscaler_1": "body-x2", "resize_mode": 1, "upscaling_resize_w": 40, "upscaling_resize_h": 40 });
    let answer = client.post("/sdapi/v1/extra-batch-images", &sent).json();
    let images = answer["images"].as_array().unwrap();
    assert_eq!(images.len(), 2);
    assert!(images.iter().all(|i| read(i) == imageops::crop_imm(&nearest(60, 40), 10, 0, 40, 40).to_image()));
    let refused = client.post("/sdapi/v1/extra-single-image", &json!({ "image": png(&picture), "upscaler_1": "x" }));
    assert_eq!(refused.status, 422, "{}", refused.json());
    let sent = json!({ "prompt": "x", "seed": 3, "steps": 4, "width": 64, "height": 64, "enable_hr": true, "hr_scale": 2,
        "hr_upscaler": "body-x2", "denoising_strength": 0 });
    let answer = client.post("/sdapi/v1/txt2img", &sent).json();
    assert_eq!(read(&answer["images"][0]).dimensions(), (128, 128), "{answer}");
}

#[test]
fn what_cannot_be_enlarged_is_said() {
    let worker = worker(&[]);
    let client = worker.client();
    let picture = RgbImage::new(600, 600);
    let says = |field: &str| (422, field.to_owned());
    let with = |more: Value| fault(&client, &upscale(&picture, more));
    assert_eq!(with(json!({ "upscaler": "magic" })), says("upscaler"));
    assert_eq!(with(json!({ "upscaler": "latent" })), says("upscaler"));
    assert_eq!(with(json!({ "prompt": "x" })), says("prompt"));
    assert_eq!(with(json!({ "n": 2 })), says("n"));
    assert_eq!(with(json!({ "scale": 8 })), says("scale"));
    assert_eq!(with(json!({ "scale": 2, "width": 64 })), says("scale"));
    assert_eq!(fault(&client, &json!({ "operation": "image_upscale" })), says("init_image"));
    let large = RgbImage::new(2000, 2000);
    assert_eq!(fault(&client, &upscale(&large, json!({ "upscaler": "body-x4", "scale": 1 }))), says("init_image"));
    let list = client.get("/v1/upscalers").json();
    let names: Vec<&str> = list["upscalers"].as_array().unwrap().iter().filter_map(|u| u["name"].as_str()).collect();
    assert!(names.contains(&"lanczos") && names.contains(&"trunk-x4"), "{names:?}");
    let models = client.get("/v1/models").json();
    assert!(!models["data"].as_array().unwrap().iter().any(|m| m["id"] == "upscalers"), "{models}");
}

#[test]
fn the_command_line_enlarges() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("a.png"), folder.path().join("b.png"));
    RgbImage::from_pixel(20, 30, image::Rgb([200, 10, 60])).save(&from).unwrap();
    let dirs = format!("{}:{}", bundled_models().display(), root().join("tests/fixtures/models").display());
    let run = |args: &[&str]| {
        let done = std::process::Command::new(program("sd-worker"))
            .args(["generate", "--operation", "image_upscale", "--init", from.to_str().unwrap()])
            .args(["--models-dir", &dirs, "-o", to.to_str().unwrap()])
            .args(args)
            .output()
            .unwrap();
        (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let (code, err) = run(&["--upscaler", "body-x2"]);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(image::image_dimensions(&to).unwrap(), (40, 60));
    let (code, err) = run(&["--scale", "1.5"]);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(image::image_dimensions(&to).unwrap(), (30, 45));
    let (code, err) = run(&["--upscaler", "magic"]);
    assert!(code.is_some_and(|c| c != 0) && err.contains("there is no upscaler"), "{err}");
}
