//! Whole pictures over HTTP against diffusers: every family, same weights, same noise, at least 50 dB.
//!
//! The figures go to `docs/PARITY-pictures.md`; with `SD_UPDATE_DOCS=1` the file is written anew.

use base64::Engine as _;
use sd_tests::{Client, Worker, WorkerOptions, root};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// The least signal-to-noise ratio of a picture.
const LEAST_DB: f64 = 50.0;

/// A golden file: JSON header behind its length, then the numbers.
pub(crate) struct Golden(Vec<u8>);

impl Golden {
    pub(crate) fn read(family: &str) -> Golden {
        Golden(std::fs::read(root().join(format!("tests/fixtures/goldens/{family}.safetensors"))).unwrap())
    }

    fn entry(&self, name: &str) -> (Value, &[u8]) {
        let length = u64::from_le_bytes(self.0[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&self.0[8..8 + length]).unwrap();
        let entry = &header[name];
        let [from, to] = [0, 1].map(|i| 8 + length + entry["data_offsets"][i].as_u64().unwrap() as usize);
        (entry.clone(), &self.0[from..to])
    }

    pub(crate) fn get(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let (entry, data) = self.entry(name);
        assert_eq!(entry["dtype"], "F32", "{name}");
        (shape(&entry), data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect())
    }

    /// Whether there is a tensor of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        let length = u64::from_le_bytes(self.0[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&self.0[8..8 + length]).unwrap();
        header.get(name).is_some()
    }

    /// A tensor of bytes.
    pub(crate) fn bytes(&self, name: &str) -> (Vec<usize>, Vec<u8>) {
        let (entry, data) = self.entry(name);
        assert_eq!(entry["dtype"], "U8", "{name}");
        (shape(&entry), data.to_vec())
    }

    /// `[1, c, h, w]` in 0–1 as a PNG in base64; one channel becomes grey.
    pub(crate) fn png(&self, name: &str) -> Value {
        let (shape, values) = self.get(name);
        let [c, h, w] = [shape[1], shape[2], shape[3]];
        let byte = |channel: usize, at: usize| (values[channel.min(c - 1) * h * w + at] * 255.0).round() as u8;
        let rgb: Vec<u8> = (0..h * w).flat_map(|at| [byte(0, at), byte(1, at), byte(2, at)]).collect();
        let mut png = std::io::Cursor::new(Vec::new());
        image::RgbImage::from_raw(w as u32, h as u32, rgb)
            .unwrap()
            .write_to(&mut png, image::ImageFormat::Png)
            .unwrap();
        base64::engine::general_purpose::STANDARD.encode(png.into_inner()).into()
    }
}

fn shape(entry: &Value) -> Vec<usize> {
    entry["shape"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect()
}

/// Peak signal-to-noise ratio in dB of an 8-bit RGB picture against `[1, 3, h, w]` in 0–1.
pub(crate) fn psnr(rgb: &[u8], wanted: &[f32]) -> f64 {
    let pixels = wanted.len() / 3;
    let mut sum = 0.0;
    for (i, value) in rgb.iter().enumerate() {
        let (pixel, channel) = (i / 3, i % 3);
        sum += (f64::from(*value) / 255.0 - f64::from(wanted[channel * pixels + pixel])).powi(2);
    }
    -10.0 * (sum / rgb.len() as f64).log10()
}

/// What a picture asks for that a request cannot say; the crates' own tests hold these.
fn beyond_requests(picture: &Value) -> Option<&'static str> {
    let options = &picture["options"];
    let has = |name: &str| options.get(name).is_some();
    let scheduler = &picture["scheduler"];
    if has("denoising_end") {
        return Some("the first part of the refiner's `refine80`, which is");
    }
    if has("clip_skip") {
        return Some("diffusers skips layers for the prompt alone, A1111 and we for the negative prompt too");
    }
    if scheduler["rescale_betas_zero_snr"] == true {
        return Some("a scheduler config of its own, not the model's");
    }
    if scheduler["use_karras_sigmas"] == true {
        return Some("diffusers rounds the timesteps of Karras sigmas; `karras` here is k-diffusion's");
    }
    None
}

/// The request that says the same as a golden picture.
fn request(family: &str, name: &str, picture: &Value, golden: &Golden) -> Value {
    let sampler = picture["scheduler"]["_class_name"].as_str().unwrap();
    let mut body = json!({
        "model": family, "prompt": picture["prompt"], "negative_prompt": picture["negative"], "seed": picture["seed"],
        "steps": picture["steps"], "guidance_scale": picture["guidance"], "width": picture["width"], "height": picture["height"],
        "sampler": sampler,
    });
    let options = &picture["options"];
    // Fields that carry diffusers' own names.
    for name in [
        "strength",
        "guidance_rescale",
        "image_guidance_scale",
        "original_size",
        "crops_coords_top_left",
        "target_size",
        "negative_original_size",
        "negative_crops_coords_top_left",
        "negative_target_size",
        "aesthetic_score",
        "negative_aesthetic_score",
    ] {
        if let Some(value) = options.get(name) {
            body[name] = value.clone();
        }
    }
    let kind = picture["kind"].as_str().unwrap();
    if kind == "refine" {
        // The base model's part had the same prompt, steps and seed.
        body["model"] = "sdxl".into();
        body["refiner"] = family.into();
        body["refiner_switch_at"] = options["denoising_start"].clone();
    } else if kind != "txt2img" {
        body["init_image"] = golden.png(&format!("{name}.init_image"));
    }
    if kind.starts_with("inpaint") {
        body["mask_image"] = golden.png(&format!("{name}.mask"));
    }
    if kind == "pix2pix" {
        body["strength"] = json!(1.0);
    }
    body
}

pub(crate) fn draw(client: &Client, body: &Value) -> Result<image::RgbImage, String> {
    let answer = client.post("/v1/jobs", body);
    if answer.status != 200 {
        return Err(answer.json()["error"]["message"].to_string());
    }
    let events = client.events(answer.json()["job_id"].as_str().unwrap(), 0).rest();
    let last = events.last().unwrap();
    let Some(text) = last["image_base64"].as_str() else { return Err(last["message"].to_string()) };
    let png = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
    Ok(image::ImageReader::with_format(std::io::Cursor::new(png), image::ImageFormat::Png).decode().unwrap().to_rgb8())
}

#[test]
fn every_family_draws_what_diffusers_draws() {
    let goldens = root().join("tests/fixtures/goldens");
    let fixtures = root().join("tests/fixtures/models");
    let mut families: Vec<String> = std::fs::read_dir(&fixtures)
        .unwrap()
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|f| goldens.join(format!("{f}.json")).exists())
        .collect();
    families.sort();
    families.insert(0, "emoji-sd".to_owned());
    let dirs = format!("{}:{}", sd_tests::bundled_models().display(), fixtures.display());
    let worker = Worker::start(&WorkerOptions::args(&["--log", "warn", "--models-dir", &dirs]));
    let client = worker.client();
    let mut table = String::from(
        "# Whole pictures against diffusers\n\nEach picture is drawn over HTTP from a request, with the weights and the noise that diffusers had, and compared pixel by \
         pixel.\nBelow 50 dB a test fails: settings that matter may change a picture by as little as 40 dB. 8-bit rounding alone allows some 59 dB, so \"≥ 50\" is as good as equal.\nThe families are tiny models of the true architectures with random \
         weights; `emoji-sd` is the bundled, trained one.\n\n| family | picture | pipeline | scheduler | dB |\n|---|---|---|---|---|\n",
    );
    let (mut compared, mut faults) = (0, Vec::new());
    for family in &families {
        // Python writes infinity into JSON, which has no word for it.
        let text = std::fs::read_to_string(goldens.join(format!("{family}.json"))).unwrap();
        let facts: Value =
            serde_json::from_str(&text.replace("-Infinity", "null").replace("Infinity", "null")).unwrap();
        let golden = Golden::read(family);
        for (name, picture) in facts["pictures"].as_object().unwrap() {
            let (pipeline, scheduler) =
                (picture["pipeline"].as_str().unwrap(), picture["scheduler"]["_class_name"].as_str().unwrap());
            let mut row = |text: &str| {
                let _ = writeln!(table, "| {family} | {name} | {pipeline} | {scheduler} | {text} |");
            };
            if let Some(why) = beyond_requests(picture) {
                row(&format!("not over HTTP: {why}"));
                continue;
            }
            match draw(&client, &request(family, name, picture, &golden)) {
                Err(message) => faults.push(format!("{family} {name}: {message}")),
                Ok(ours) => {
                    let (shape, mut wanted) = golden.get(&format!("{name}.image"));
                    assert_eq!((shape[3] as u32, shape[2] as u32), ours.dimensions(), "{family} {name}");
                    if picture["kind"].as_str().unwrap().starts_with("inpaint") {
                        keep(&golden, name, &mut wanted);
                    }
                    let ratio = psnr(ours.as_raw(), &wanted);
                    if ratio < LEAST_DB {
                        faults.push(format!("{family} {name}: {ratio:.1} dB"));
                    }
                    // Coarse on purpose: the last bits differ between processors.
                    row(&if ratio >= 50.0 {
                        "≥ 50".to_owned()
                    } else {
                        format!("≥ {:.0}", (ratio / 5.0).floor() * 5.0)
                    });
                    compared += 1;
                }
            }
        }
    }
    assert!(faults.is_empty(), "{} of {compared}:\n{}", faults.len(), faults.join("\n"));
    assert!(compared >= 45, "{compared} pictures compared");
    let file = root().join("docs/PARITY-pictures.md");
    if std::env::var_os("SD_UPDATE_DOCS").is_some() {
        std::fs::write(&file, &table).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(&file).unwrap_or_default(),
        table,
        "docs/PARITY-pictures.md is out of date: run with SD_UPDATE_DOCS=1"
    );
}

/// We give kept pixels back to the bit, the pipelines give back what the VAE made of them: compare with the picture there.
fn keep(golden: &Golden, name: &str, wanted: &mut [f32]) {
    let (_, init) = golden.get(&format!("{name}.init_image"));
    let (_, mask) = golden.get(&format!("{name}.mask"));
    let pixels = wanted.len() / 3;
    for (i, value) in wanted.iter_mut().enumerate() {
        if mask[i % pixels] < 0.5 {
            *value = init[i];
        }
    }
}
