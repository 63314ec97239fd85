//! Previews: by the family's factors, by a decoder of the model's own, by one that several models share.

use sd_tests::{Client, Worker, WorkerOptions, copy_folder, root};
use serde_json::{Value, json};
use std::fs;

/// The previews of one job, and its picture.
fn draw(client: &Client, model: &str) -> (Vec<image::RgbImage>, image::RgbImage) {
    let events = client.run(
        &json!({ "model": model, "prompt": "x", "seed": 5, "steps": 5, "width": 64, "height": 64, "preview_every": 2 }),
    );
    let last = events.last().unwrap();
    assert_eq!(last["event"], "complete", "{last}");
    let decode = |event: &Value, format| {
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::STANDARD.decode(event["image_base64"].as_str().unwrap()).unwrap();
        image::ImageReader::with_format(std::io::Cursor::new(bytes), format).decode().unwrap().to_rgb8()
    };
    let previews = events.iter().filter(|e| e["event"] == "preview").map(|e| decode(e, image::ImageFormat::Jpeg));
    (previews.collect(), decode(last, image::ImageFormat::Png))
}

#[test]
fn a_preview_decoder_is_used_where_there_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let fixtures = root().join("tests/fixtures/models");
    let at = |name: &str| dir.path().join(name);
    for name in ["plain", "own", "broken"] {
        copy_folder(&fixtures.join("sd15"), &at(name));
    }
    let taesd = fixtures.join("parts/taesd");
    copy_folder(&taesd, &at("own/taesd"));
    copy_folder(&taesd, &at("broken/taesd"));
    fs::write(at("broken/taesd/diffusion_pytorch_model.safetensors"), b"cut").unwrap();
    let models = dir.path().to_str().unwrap();
    let start = || Worker::start(&WorkerOptions::args(&["--log", "warn", "--models-dir", models, "--model", "plain"]));

    let worker = start();
    let client = worker.client();
    let (factors, picture) = draw(&client, "plain");
    let (own, same) = draw(&client, "own");
    assert_eq!((factors.len(), own.len()), (2, 2));
    assert!(own != factors, "the decoder's picture is not that of the factors");
    assert!(same == picture, "previews change nothing in the picture");
    let (without, same) = draw(&client, "broken");
    assert!((without, same) == (factors, picture), "a broken decoder costs nothing");
    drop(worker);

    copy_folder(&taesd, &at("previews/taesd"));
    let worker = start();
    let client = worker.client();
    assert!(draw(&client, "plain").0 == own, "the family's decoder");
    let listed = client.get("/v1/models").json();
    assert!(!listed.to_string().contains("previews"), "a folder of decoders is no model: {listed}");
}
