//! Second passes: against the same two passes sent as two requests, and against diffusers.

use crate::{
    parity::Golden,
    pictures::{decoded, draw, fault, png, weightless},
};
use image::RgbImage;
use sd_images::{Filter, Picture, resample};
use sd_tests::{Worker, WorkerOptions, root};
use serde_json::{Value, json};

fn enlarged(picture: &RgbImage, width: u32, height: u32, filter: Filter) -> RgbImage {
    let picture = Picture::new(picture.width(), picture.height(), picture.as_raw().clone(), None).unwrap();
    RgbImage::from_raw(width, height, resample(&picture, width, height, filter).unwrap().rgb).unwrap()
}

/// The second request that does what the second pass does.
fn second(init: &RgbImage, seed: u64) -> Value {
    json!({ "operation": "image_transform", "prompt": "a green apple", "init_image": png(init), "seed": seed, "steps": 9,
        "strength": 0.5, "sampler": "euler_a", "guidance_scale": 2 })
}

fn first(hires: &Value, n: u32) -> Value {
    json!({ "prompt": "red apple", "seed": 4, "steps": 6, "n": n, "hires": hires })
}

#[test]
fn two_passes_are_two_requests() {
    let worker = Worker::start(&WorkerOptions::args(&["--log", "warn"]));
    let client = worker.client();
    let small = draw(&client, &json!({ "prompt": "red apple", "seed": 4, "steps": 6 })).0.remove(0);
    for (name, filter) in [("lanczos", Filter::Lanczos), ("bicubic", Filter::Bicubic), ("Nearest", Filter::Nearest)] {
        let hires = json!({ "scale": 1.5, "upscaler": name, "steps": 9, "strength": 0.5, "prompt": "a green apple",
            "sampler": "euler_a", "guidance_scale": 2 });
        let (pictures, last) = draw(&client, &first(&hires, 1));
        let large = enlarged(&small, 96, 96, filter);
        assert_eq!(pictures[0], draw(&client, &second(&large, 4)).0[0], "{name}");
        let recipe = client.post("/v1/png-info", &json!({ "image": last["image_base64"] })).json();
        assert_eq!(recipe["items"]["Hires resize"], "96x96");
        assert_eq!(recipe["items"]["Hires prompt"], "a green apple");
        assert_eq!(recipe["items"]["Denoising strength"], "0.5");
        assert_eq!(recipe["items"]["Size"], "64x64");
        // Nothing redone: the first pass's picture, enlarged.
        let still = first(&json!({ "scale": 1.5, "upscaler": name, "strength": 0 }), 1);
        assert_eq!(draw(&client, &still).0[0], large, "{name}");
    }
}

#[test]
fn every_picture_of_a_batch_has_its_second_pass_and_every_step_is_told() {
    let worker = weightless(&[]);
    let client = worker.client();
    let hires = json!({ "width": 128, "height": 96, "upscaler": "bilinear", "steps": 9, "strength": 0.5, "prompt": "a green apple",
        "sampler": "euler_a", "guidance_scale": 2 });
    let job = client.submit(&first(&hires, 3));
    let events = client.events(&job, 0).rest();
    let told: Vec<u64> =
        events.iter().filter(|e| e["event"] == "progress").map(|e| e["step"].as_u64().unwrap()).collect();
    // 6 steps, then half of 9.
    assert_eq!(told, (1..=10).collect::<Vec<_>>());
    assert!(events.iter().filter(|e| e["event"] == "progress").all(|e| e["total"] == 10));
    let started = events.iter().find(|e| e["event"] == "started").unwrap();
    assert_eq!((&started["width"], &started["height"]), (&json!(128), &json!(96)));
    for i in 0..3 {
        let after = decoded(&client.get(&format!("/v1/jobs/{job}/images/{i}")).body);
        let small =
            draw(&client, &json!({ "prompt": "red apple", "seed": 4 + i, "steps": 6, "width": 64, "height": 64 })).0;
        let square = enlarged(&small[0], 128, 128, Filter::Bilinear);
        let cut = image::imageops::crop_imm(&square, 0, 16, 128, 96).to_image();
        assert_eq!(after, draw(&client, &second(&cut, 4 + i)).0[0], "picture {i}");
    }
}

#[test]
fn passes_through_latents_are_those_of_diffusers() {
    let folder = root().join("tests/fixtures/goldens");
    let facts: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("hires.json")).unwrap()).unwrap();
    let golden = Golden::read("hires");
    let worker = Worker::start(&WorkerOptions::args(&["--log", "warn"]));
    let client = worker.client();
    let cases = facts["cases"].as_object().unwrap();
    assert_eq!(cases.len(), 3);
    for (name, case) in cases {
        let (one, two) = (&facts["first"], &facts["second"]);
        let body = json!({
            "prompt": one["prompt"], "negative_prompt": one["negative_prompt"], "steps": one["num_inference_steps"],
            "guidance_scale": one["guidance_scale"], "seed": facts["seed"], "sampler": case["scheduler"],
            "width": 64, "height": 64,
            "hires": {
                "width": case["width"], "height": case["height"], "steps": two["num_inference_steps"],
                "strength": two["strength"], "prompt": two["prompt"], "negative_prompt": two["negative_prompt"],
                "guidance_scale": two["guidance_scale"],
                "upscaler": if name == "bilinear" { "latent".to_owned() } else { format!("latent_{name}") },
            },
        });
        let ours = draw(&client, &body).0.remove(0);
        let (shape, wanted) = golden.bytes(&format!("{name}.image"));
        assert_eq!((shape[3] as u32, shape[2] as u32), ours.dimensions());
        let pixels = shape[2] * shape[3];
        let square: f64 = ours
            .as_raw()
            .iter()
            .enumerate()
            .map(|(i, v)| f64::from(v.abs_diff(wanted[i % 3 * pixels + i / 3])).powi(2))
            .sum::<f64>()
            / wanted.len() as f64;
        let psnr = 10.0 * (255.0f64.powi(2) / square.max(1e-9)).log10();
        assert!(psnr > 45.0, "{name}: {psnr:.1} dB");
    }
}

#[test]
fn a1111_clients_get_the_same() {
    let worker = weightless(&[]);
    let client = worker.client();
    let native = draw(
        &client,
        &json!({ "prompt": "x", "seed": 3, "steps": 4, "sampler": "euler", "schedule": "automatic", "guidance_scale": 5,
            "width": 64, "height": 64,
            "hires": { "scale": 2, "upscaler": "latent_nearest", "steps": 4, "strength": 0.5, "prompt": "y" } }),
    );
    let answer = client.post(
        "/sdapi/v1/txt2img",
        &json!({ "prompt": "x", "seed": 3, "steps": 4, "width": 64, "height": 64, "enable_hr": true, "hr_scale": 2,
            "sampler_name": "Euler", "cfg_scale": 5,
            "hr_upscaler": "Latent (nearest)", "hr_second_pass_steps": 2, "denoising_strength": 0.5, "hr_prompt": "y",
            "hr_negative_prompt": "", "hr_resize_x": 0, "hr_resize_y": 0, "hr_sampler_name": "Use same sampler" }),
    );
    assert_eq!(answer.status, 200, "{}", answer.json());
    let theirs = answer.json()["images"][0].clone();
    assert_eq!(theirs, native.1["image_base64"]);
    let modes = client.get("/sdapi/v1/latent-upscale-modes").json();
    assert!(modes.as_array().unwrap().iter().any(|m| m["name"] == "Latent (nearest)"), "{modes}");
    for upscaler in client.get("/v1/upscalers").json()["upscalers"].as_array().unwrap() {
        let hires = json!({ "upscaler": upscaler["name"], "steps": 2 });
        let body = json!({ "prompt": "x", "steps": 1, "width": 64, "height": 72, "hires": hires });
        assert_eq!(draw(&client, &body).0[0].dimensions(), (128, 144), "{upscaler}");
    }
}

#[test]
fn what_a_second_pass_cannot_be_is_said() {
    let worker = weightless(&[]);
    let client = worker.client();
    let with = |hires: Value| fault(&client, &json!({ "prompt": "x", "hires": hires }));
    let says = |field: &str| (422, field.to_owned());
    assert_eq!(with(json!({ "upscaler": "magic" })), says("hires.upscaler"));
    assert_eq!(with(json!({ "sampler": "magic" })), says("hires.sampler"));
    assert_eq!(with(json!({ "scale": 2, "width": 128 })), says("hires.scale"));
    assert_eq!(with(json!({ "width": 128 })), says("hires.height"));
    assert_eq!(with(json!({ "width": 100, "height": 104 })), says("hires.width"));
    assert_eq!(with(json!({ "steps": 0 })), says("hires.steps"));
    assert_eq!(with(json!({ "nonsense": 0 })), says("hires.nonsense"));
    let init = png(&RgbImage::new(64, 64));
    assert_eq!(fault(&client, &json!({ "prompt": "x", "init_image": init, "hires": {} })), says("hires"));
    let body = json!({ "prompt": "x", "width": 1024, "height": 1024, "hires": { "scale": 8 } });
    assert_eq!(fault(&client, &body), says("hires.scale"));
}
