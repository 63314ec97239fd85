//! Whole pictures over HTTP against diffusers: same weights, same noise, at least 40 dB.

use base64::Engine as _;
use sd_tests::{Worker, WorkerOptions, root};
use serde_json::{Value, json};

/// One tensor of a golden file, read by hand: the header is JSON behind its length.
fn golden(file: &[u8], name: &str) -> (Vec<usize>, Vec<f32>) {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    let entry = &header[name];
    assert_eq!(entry["dtype"], "F32", "{name}");
    let shape = entry["shape"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect();
    let [from, to] = [0, 1].map(|i| 8 + length + entry["data_offsets"][i].as_u64().unwrap() as usize);
    (shape, file[from..to].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect())
}

/// Peak signal-to-noise ratio in dB of an 8-bit RGB picture against `[1, 3, h, w]` in 0–1.
fn psnr(rgb: &[u8], wanted: &[f32], side: usize) -> f64 {
    let mut sum = 0.0;
    for (i, value) in rgb.iter().enumerate() {
        let (pixel, channel) = (i / 3, i % 3);
        sum += (f64::from(*value) / 255.0 - f64::from(wanted[channel * side * side + pixel])).powi(2);
    }
    -10.0 * (sum / rgb.len() as f64).log10()
}

#[test]
fn the_bundled_model_draws_what_diffusers_draws() {
    let folder = root().join("tests/fixtures/goldens");
    let facts: Value = serde_json::from_slice(&std::fs::read(folder.join("emoji-sd.json")).unwrap()).unwrap();
    let tensors = std::fs::read(folder.join("emoji-sd.safetensors")).unwrap();
    let worker = Worker::start(&WorkerOptions::default());
    let client = worker.client();
    let mut compared = 0;
    for (name, picture) in facts["pictures"].as_object().unwrap() {
        let sampler = match picture["scheduler"]["_class_name"].as_str().unwrap() {
            "DDIMScheduler" => "ddim",
            "EulerDiscreteScheduler" => "euler",
            other => panic!("no name for {other}"),
        };
        let events = client.run(&json!({
            "prompt": picture["prompt"], "negative_prompt": picture["negative"], "seed": picture["seed"], "steps": picture["steps"],
            "guidance_scale": picture["guidance"], "width": picture["width"], "height": picture["height"], "sampler": sampler,
        }));
        let png = base64::engine::general_purpose::STANDARD
            .decode(events.last().unwrap()["image_base64"].as_str().unwrap())
            .unwrap();
        let ours = image::ImageReader::with_format(std::io::Cursor::new(png), image::ImageFormat::Png)
            .decode()
            .unwrap()
            .to_rgb8();
        let (shape, wanted) = golden(&tensors, &format!("{name}.image"));
        assert_eq!(shape, [1, 3, 64, 64]);
        let ratio = psnr(ours.as_raw(), &wanted, 64);
        assert!(ratio >= 40.0, "{name}: {ratio:.1} dB");
        compared += 1;
    }
    assert!(compared >= 4, "{compared} pictures compared");
}
