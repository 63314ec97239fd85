//! What tests of pictures share: workers, jobs and their pictures, random input.

use base64::Engine as _;
use image::RgbImage;
use sd_tests::{Client, Worker, WorkerOptions};
use serde_json::Value;

/// A worker on the weightless backend, whose arithmetic is exact and whose steps cost nothing.
pub(crate) fn weightless(more: &[&str]) -> Worker {
    Worker::start(&WorkerOptions::args(
        &[&["--backend", "gauss", "--isolate", "never", "--log", "warn"], more].concat(),
    ))
}

/// Numbers that look random and are the same in every run.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % u64::from(sides)) as u32
    }

    pub(crate) fn picture(&mut self, width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |_, _| image::Rgb([0; 3].map(|_: u8| self.roll(256) as u8)))
    }

    /// Some rectangles on black, white or grey.
    pub(crate) fn mask(&mut self, width: u32, height: u32) -> RgbImage {
        let mut mask = RgbImage::new(width, height);
        for _ in 0..1 + self.roll(3) {
            let (x, y) = (self.roll(width), self.roll(height));
            let (w, h) = (1 + self.roll(width - x), 1 + self.roll(height - y));
            let value = if self.roll(4) == 0 { 1 + self.roll(255) as u8 } else { 255 };
            (y..y + h).for_each(|y| (x..x + w).for_each(|x| mask.put_pixel(x, y, image::Rgb([value; 3]))));
        }
        mask
    }
}

/// A picture as base64 of a PNG.
pub(crate) fn png(picture: &RgbImage) -> Value {
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    base64::engine::general_purpose::STANDARD.encode(bytes.into_inner()).into()
}

/// The picture in a PNG.
pub(crate) fn decoded(bytes: &[u8]) -> RgbImage {
    let reader = image::ImageReader::with_format(std::io::Cursor::new(bytes), image::ImageFormat::Png);
    reader.decode().unwrap().to_rgb8()
}

/// All pictures of a job, and its last event.
pub(crate) fn draw(client: &Client, body: &Value) -> (Vec<RgbImage>, Value) {
    let events = client.run(body);
    let last = events.last().unwrap().clone();
    assert_eq!(last["event"], "complete", "{last} for {body}");
    let urls = last["images"].as_array().unwrap().iter().map(|i| i["url"].as_str().unwrap());
    (urls.map(|url| decoded(&client.get(url).body)).collect(), last)
}

/// Status and field of a refusal.
pub(crate) fn fault(client: &Client, body: &Value) -> (u16, String) {
    let answer = client.post("/v1/jobs", body);
    (answer.status, answer.json()["error"]["field"].as_str().unwrap_or_default().to_owned())
}
