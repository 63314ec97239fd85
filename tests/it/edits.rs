//! Edited pictures over HTTP against diffusers and A1111's masks: edges of strength, legacy inpainting, soft and blurred
//! masks, what stands under a mask, "only masked". The figures go to `docs/PARITY-edits.md`.

use crate::{
    parity::{Golden, psnr},
    pictures::{draw, png},
};
use image::RgbImage;
use sd_tests::{Worker, WorkerOptions, root};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// The least signal-to-noise ratio of a picture in dB.
const LEAST_DB: f64 = 40.0;

/// `[1, c, h, w]` bytes as a picture.
fn picture(golden: &Golden, name: &str) -> RgbImage {
    let (shape, bytes) = golden.bytes(name);
    let [c, h, w] = [shape[1], shape[2], shape[3]];
    let at = |channel: usize, x: u32, y: u32| bytes[(channel.min(c - 1) * h + y as usize) * w + x as usize];
    RgbImage::from_fn(w as u32, h as u32, |x, y| image::Rgb([at(0, x, y), at(1, x, y), at(2, x, y)]))
}

/// What must come back: the pipeline's pixels where the mask repaints, the picture's own where it keeps.
fn wanted(result: &RgbImage, init: &RgbImage, weights: Option<&RgbImage>) -> Vec<f32> {
    let mut planes = vec![0.0; result.as_raw().len()];
    let pixels = planes.len() / 3;
    for (i, value) in result.as_raw().iter().enumerate() {
        let weight = weights.map_or(1.0, |w| f32::from(w.as_raw()[i]) / 255.0);
        let (drawn, kept) = (f32::from(*value), f32::from(init.as_raw()[i]));
        planes[i % 3 * pixels + i / 3] = (weight * drawn + (1.0 - weight) * kept) / 255.0;
    }
    planes
}

#[test]
fn edits_are_those_of_diffusers() {
    let folder = root().join("tests/fixtures/goldens");
    let facts: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("edits.json")).unwrap()).unwrap();
    let golden = Golden::read("edits");
    let models = root().join("tests/fixtures/models");
    let worker = Worker::start(&WorkerOptions::args(&[
        "--log",
        "warn",
        "--models-dir",
        models.to_str().unwrap(),
        "--model",
        "sd15",
    ]));
    let client = worker.client();
    let init = picture(&golden, "image");
    let mut table = String::from(
        "# Edited pictures against diffusers\n\nDrawn over HTTP with the weights and the noise that diffusers had, as [whole pictures](PARITY-pictures.md) are. Masks that are soft, \
         blurred or\nfilled are A1111's, put into the diffusers pipeline by `tests/golden/edits.py`. Where a mask keeps, the picture's own pixels are wanted back. \
         Only masked\nis the pipelines' `padding_mask_crop`. Below 40 dB a test fails.\n\n| picture | request | dB |\n|---|---|---|\n",
    );
    let mut faults = Vec::new();
    let cases = facts["cases"].as_array().unwrap();
    for case in cases {
        let key = case["key"].as_str().unwrap();
        let mut body = case["request"].clone();
        body["init_image"] = png(&init);
        let masked = golden.has(&format!("{key}.mask"));
        let weights = masked.then(|| picture(&golden, &format!("{key}.weights")));
        if masked {
            body["mask_image"] = png(&picture(&golden, &format!("{key}.mask")));
        }
        let ours = draw(&client, &body).0.remove(0);
        let ratio = psnr(ours.as_raw(), &wanted(&picture(&golden, &format!("{key}.result")), &init, weights.as_ref()));
        if ratio < LEAST_DB {
            faults.push(format!("{key}: {ratio:.1} dB"));
        }
        let mut kept = weights.iter().flat_map(|w| w.as_raw().iter().zip(ours.as_raw().iter().zip(init.as_raw())));
        if kept.any(|(weight, (now, before))| *weight == 0 && now != before) {
            faults.push(format!("{key}: a kept pixel changed"));
        }
        let named =
            ["strength", "mask_invert", "mask_blur", "inpaint_fill", "only_masked_padding", "image_guidance_scale"];
        let special: Vec<String> =
            named.iter().filter_map(|name| case["request"].get(*name).map(|value| format!("{name} {value}"))).collect();
        let shown = if ratio >= 50.0 { "≥ 50".to_owned() } else { format!("≥ {:.0}", (ratio / 5.0).floor() * 5.0) };
        let _ = writeln!(table, "| {key} | {} | {shown} |", special.join(", "));
    }
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), cases.len(), faults.join("\n"));
    let file = root().join("docs/PARITY-edits.md");
    if std::env::var_os("SD_UPDATE_DOCS").is_some() {
        std::fs::write(&file, &table).unwrap();
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(written, table, "docs/PARITY-edits.md is out of date: run with SD_UPDATE_DOCS=1");
}

#[test]
fn the_fill_is_that_of_a1111_to_the_bit() {
    let golden = Golden::read("edits");
    let (picture, mask) = (picture(&golden, "fill.picture"), golden.bytes("fill.mask").1);
    let (width, height) = picture.dimensions();
    let mask = sd_images::Mask::new(width, height, mask).unwrap();
    let source = sd_images::Picture::new(width, height, picture.into_raw(), None).unwrap();
    let ours = sd_images::fill_masked(&source, &mask).unwrap();
    assert_eq!(ours.rgb, self::picture(&golden, "fill.result").into_raw());
}

#[test]
fn both_meanings_of_a_mask_and_the_edges_of_strength() {
    let models = root().join("tests/fixtures/models");
    let worker = Worker::start(&WorkerOptions::args(&[
        "--log",
        "warn",
        "--models-dir",
        models.to_str().unwrap(),
        "--model",
        "sd15",
    ]));
    let client = worker.client();
    let golden = Golden::read("edits");
    let (init, mask) = (picture(&golden, "image"), picture(&golden, "sd15.inpaint_whole.mask"));
    // Transparent where the other mask is white.
    let clear = image::RgbaImage::from_fn(mask.width(), mask.height(), |x, y| {
        image::Rgba([90, 10, 200, 255 - mask.get_pixel(x, y).0[0]])
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    clear.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    let clear = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes.into_inner());
    let job = |mask: Value, mode: &str| json!({ "prompt": "a red apple", "steps": 4, "seed": 3, "strength": 0.7, "init_image": png(&init), "mask_image": mask, "mask_mode": mode });
    let white = draw(&client, &job(png(&mask), "white")).0.remove(0);
    assert_eq!(white, draw(&client, &job(clear.clone().into(), "alpha")).0[0]);
    assert_ne!(white, init);
    // OpenAI's route means the transparent part, ours the white one.
    let body = json!({ "prompt": "a red apple", "steps": 4, "seed": 3, "strength": 0.7, "image": png(&init), "mask": clear, "size": "64x48" });
    let answer = client.post("/v1/images/edits", &body);
    assert_eq!(answer.status, 200, "{}", answer.json());
    let file = base64::Engine::decode(
        &base64::engine::general_purpose::STANDARD,
        answer.json()["data"][0]["b64_json"].as_str().unwrap(),
    );
    assert_eq!(crate::pictures::decoded(&file.unwrap()), white);
    // Nothing is redone at strength 0: the very picture comes back, whatever the mask.
    for mask in [Value::Null, png(&mask)] {
        let still = json!({ "prompt": "x", "steps": 4, "strength": 0, "init_image": png(&init), "mask_image": mask });
        assert_eq!(draw(&client, &still).0[0], init);
    }
    // At strength 1 without a mask every step is run.
    let job = client.submit(&json!({ "prompt": "x", "steps": 4, "strength": 1, "init_image": png(&init) }));
    let steps = client.events(&job, 0).rest().iter().filter(|e| e["event"] == "progress").count();
    assert_eq!(steps, 4);
}
