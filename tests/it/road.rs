//! The whole road: a prompt goes in, every step is told, a picture comes out.

use base64::Engine as _;
use sd_tests::{Worker, WorkerOptions, program};
use serde_json::{Value, json};

const PROMPTS: [&str; 5] = ["red apple", "panda", "rocket", "blue car", "soccer ball"];

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|e| e["event"].as_str()).collect()
}

/// The events of a finished job, checked one by one; answers the picture's bytes.
fn check_events(events: &[Value], steps: u64) -> Vec<u8> {
    let names = names(events);
    assert_eq!(names.first(), Some(&"queued"), "{names:?}");
    assert_eq!(names.iter().filter(|n| **n == "started").count(), 1);
    assert_eq!(names.last(), Some(&"complete"), "{:?}", events.last());
    assert_eq!(names.iter().filter(|n| ["complete", "error", "cancelled"].contains(n)).count(), 1);
    let done: Vec<(u64, u64)> = events
        .iter()
        .filter(|e| e["event"] == "progress")
        .map(|e| (e["step"].as_u64().unwrap(), e["total"].as_u64().unwrap()))
        .collect();
    assert_eq!(done, (1..=steps).map(|k| (k, steps)).collect::<Vec<_>>());
    let last = events.last().unwrap();
    base64::engine::general_purpose::STANDARD.decode(last["image_base64"].as_str().unwrap()).unwrap()
}

#[test]
fn five_jobs_in_a_row_and_five_at_once() {
    let worker = Worker::start(&WorkerOptions::default());
    let client = worker.client();
    let mut first = Vec::new();
    for (i, prompt) in PROMPTS.iter().enumerate() {
        let events = client.run(&json!({ "prompt": prompt, "seed": i, "steps": 8 }));
        let png = check_events(&events, 8);
        assert_eq!(events.last().unwrap()["seed"], i);
        first.push(png);
    }
    let ids: Vec<String> = PROMPTS
        .iter()
        .enumerate()
        .map(|(i, p)| {
            client.submit(
                &json!({ "operation": "image_generation", "hive_id": "localhost", "prompt": p, "seed": i, "steps": 8 }),
            )
        })
        .collect();
    for (id, expected) in ids.iter().zip(&first) {
        let png = check_events(&client.events(id, 0).rest(), 8);
        assert_eq!(&png, expected, "the same seed gives the same file");
        let file = client.get(&format!("/v1/jobs/{id}/images/0"));
        assert_eq!((file.status, file.header("content-type")), (200, Some("image/png")));
        assert_eq!(&file.body, expected);
        assert_eq!(client.get(&format!("/v1/jobs/{id}")).json()["status"], "completed");
    }
    for png in &first {
        let picture = image::ImageReader::with_format(std::io::Cursor::new(png), image::ImageFormat::Png)
            .decode()
            .unwrap()
            .to_rgb8();
        assert_eq!(picture.dimensions(), (64, 64));
        let colours: std::collections::HashSet<_> = picture.pixels().map(|p| p.0).collect();
        assert!(colours.len() > 200, "a picture, not a flat field: {} colours", colours.len());
    }
    assert!(first.windows(2).all(|pair| pair[0] != pair[1]), "prompts matter");
}

#[test]
fn the_recipe_is_inside_the_picture_and_comes_back() {
    let worker = Worker::start(&WorkerOptions::default());
    let client = worker.client();
    let events =
        client.run(&json!({ "prompt": "red (apple:1.1)", "negative_prompt": "blue", "steps": 4, "guidance_scale": 3 }));
    let last = events.last().unwrap();
    let seed = last["seed"].as_u64().expect("a true seed");
    let recipe = client.post("/v1/png-info", &json!({ "image": last["image_base64"] })).json();
    let text = recipe["parameters"].as_str().unwrap_or_default();
    assert!(text.starts_with("red (apple:1.1)\nNegative prompt: blue\nSteps: 4, "), "{recipe}");
    assert!(text.contains(&format!("Seed: {seed}")), "{text}");
    let again = client.run(&json!({ "prompt": "red (apple:1.1)", "negative_prompt": "blue", "steps": 4, "guidance_scale": 3, "seed": seed }));
    assert_eq!(again.last().unwrap()["image_base64"], last["image_base64"], "the told seed makes the same picture");
}

#[test]
fn several_pictures_have_a_seed_each() {
    let worker = Worker::start(&WorkerOptions::default());
    let client = worker.client();
    let events = client.run(&json!({ "prompt": "panda", "seed": 7, "steps": 4, "n": 3 }));
    let last = events.last().unwrap();
    assert_eq!(last["seeds"], json!([7, 8, 9]));
    let id = last["job_id"].as_str().unwrap();
    let alone = client.run(&json!({ "prompt": "panda", "seed": 8, "steps": 4 }));
    let file = client.get(&format!("/v1/jobs/{id}/images/1")).body;
    let single = base64::engine::general_purpose::STANDARD
        .decode(alone.last().unwrap()["image_base64"].as_str().unwrap())
        .unwrap();
    let pixels = |bytes: &[u8]| {
        image::ImageReader::with_format(std::io::Cursor::new(bytes), image::ImageFormat::Png)
            .decode()
            .unwrap()
            .to_rgb8()
            .into_raw()
    };
    let far = pixels(&file).iter().zip(pixels(&single)).map(|(a, b)| a.abs_diff(b)).max().unwrap();
    assert!(far <= 1, "a picture does not depend on its company: {far}");
}

#[test]
fn picture_to_picture_and_inpainting() {
    let worker = Worker::start(&WorkerOptions::default());
    let client = worker.client();
    let source = client.run(&json!({ "prompt": "red apple", "seed": 1, "steps": 8 }));
    let source = source.last().unwrap()["image_base64"].clone();
    let pixels = |v: &Value| {
        let bytes = base64::engine::general_purpose::STANDARD.decode(v.as_str().unwrap()).unwrap();
        image::ImageReader::with_format(std::io::Cursor::new(bytes), image::ImageFormat::Png)
            .decode()
            .unwrap()
            .to_rgb8()
    };
    let before = pixels(&source);
    let moved = client.run(&json!({ "operation": "image_transform", "prompt": "blue apple", "init_image": source, "strength": 0.6, "steps": 10, "seed": 2 }));
    // 6 of the 10 steps are left at strength 0.6.
    check_events(&moved, 6);
    assert_ne!(pixels(&moved.last().unwrap()["image_base64"]), before);

    let mut mask = image::GrayImage::new(64, 64);
    for (x, _, p) in mask.enumerate_pixels_mut() {
        p.0[0] = if x < 32 { 255 } else { 0 };
    }
    let mut png = std::io::Cursor::new(Vec::new());
    mask.write_to(&mut png, image::ImageFormat::Png).unwrap();
    let mask = base64::engine::general_purpose::STANDARD.encode(png.into_inner());
    let painted = client.run(&json!({ "operation": "image_inpaint", "prompt": "panda", "init_image": source, "mask_image": mask, "steps": 8, "seed": 3 }));
    assert_eq!(painted.last().unwrap()["event"], "complete", "{painted:?}");
    let after = pixels(&painted.last().unwrap()["image_base64"]);
    let differs =
        |from: u32, to: u32| (from..to).any(|x| (0..64).any(|y| before.get_pixel(x, y) != after.get_pixel(x, y)));
    assert!(differs(0, 32), "the masked half is painted");
    assert!(!differs(32, 64), "the kept half is the same to the bit");
}

#[test]
fn streams_resume_without_loss_or_doubles() {
    let worker = Worker::start(&WorkerOptions::default());
    let client = worker.client();
    let job = client.submit(&json!({ "prompt": "rocket", "steps": 30 }));
    let whole = client.events(&job, 0).rest();
    for cut in 0..whole.len() as u64 {
        let tail = client.events(&job, cut).rest();
        assert_eq!(tail, whole[cut as usize..], "after event {cut}");
    }
}

#[test]
fn lists_and_states_answer() {
    let worker = Worker::start(&WorkerOptions::default());
    let client = worker.client();
    for path in [
        "/",
        "/health",
        "/ready",
        "/v1/ready",
        "/v2/health/live",
        "/v2/health/ready",
        "/info",
        "/v1/models",
        "/v1/backends",
        "/v1/samplers",
        "/v1/queue",
        "/v1/jobs",
        "/metrics",
        "/openapi.json",
        "/docs",
    ] {
        assert_eq!(client.get(path).status, 200, "{path}");
    }
    let models = client.get("/v1/models").json();
    assert_eq!(models["object"], "list");
    assert!(
        models["data"].as_array().unwrap().iter().any(|m| m["id"] == "emoji-sd" && m["object"] == "model"),
        "{models}"
    );
    let backends = client.get("/v1/backends").json();
    assert!(backends.to_string().contains("candle-cpu"), "{backends}");
}

#[test]
fn the_command_line_draws_and_explains() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("apple.png");
    let models = sd_tests::bundled_models();
    let run = |args: &[&str]| {
        let done = std::process::Command::new(program("sd-worker")).args(args).output().unwrap();
        (
            done.status.code(),
            String::from_utf8_lossy(&done.stdout).into_owned(),
            String::from_utf8_lossy(&done.stderr).into_owned(),
        )
    };
    let models = models.to_str().unwrap();
    let (code, _, err) = run(&[
        "generate",
        "--models-dir",
        models,
        "--prompt",
        "red apple",
        "--seed",
        "5",
        "--steps",
        "6",
        "-o",
        out.to_str().unwrap(),
    ]);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(image::image_dimensions(&out).unwrap(), (64, 64));
    let (code, text, err) = run(&["backend", "list"]);
    assert!(code == Some(0) && text.contains("candle-cpu"), "{text}{err}");
    let (code, text, err) = run(&["models", "list", "--models-dir", models]);
    assert!(code == Some(0) && text.contains("emoji-sd"), "{text}{err}");
    let (code, text, err) = run(&["doctor", "--models-dir", models]);
    assert!(code == Some(0) && text.contains("candle-cpu") && text.contains("emoji-sd"), "{text}{err}");
    let (code, text, err) = run(&["inspect", out.to_str().unwrap()]);
    assert!(code == Some(0) && text.contains("red apple") && text.contains("Seed: 5"), "{text}{err}");
    let (code, text, _) = run(&["--help"]);
    assert!(code == Some(0) && text.contains("generate"), "{text}");
    let (code, _, err) = run(&["serve", "--bind-addr", "0.0.0.0", "--port", "0", "--models-dir", models]);
    assert!(code == Some(64) && err.contains("token"), "{code:?} {err}");
    let (code, _, err) = run(&[
        "generate",
        "--models-dir",
        models,
        "--model",
        "nothing-here",
        "--prompt",
        "x",
        "-o",
        out.to_str().unwrap(),
    ]);
    assert!(code.is_some_and(|c| c != 0) && err.contains("nothing-here"), "{err}");
}
