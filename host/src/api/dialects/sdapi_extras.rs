//! A1111's extras: pictures made larger or smaller outside any job.

use super::sdapi_fields::{Type, forgive};
use crate::{
    api::{
        App, body,
        http::{ApiError, Request, Response, json_ok},
    },
    fault::{Fault, FaultCode},
    picture,
    upscalers::{self, Upscaler},
};
use base64::Engine as _;
use sd_images::{Embedded, Filter, OutputFormat, Picture};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Most pictures of one request.
const MAX_PICTURES: usize = 16;
/// Largest factor, as there.
const MAX_FACTOR: f64 = 8.0;

/// What is to be done to each picture.
#[derive(Debug, Clone, Copy)]
struct Work {
    upscaler: Option<Filter>,
    /// A second upscaler and its share of the result.
    second: Option<(Filter, f64)>,
    size: Size,
    /// Most pixels of a result.
    pixels: u64,
}

#[derive(Debug, Clone, Copy)]
enum Size {
    Factor(f64),
    Fixed { width: u32, height: u32, crop: bool },
}

/// `POST /sdapi/v1/extra-single-image`
pub(crate) async fn single(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let given = body::json_object(request, &app.config.limits).await?;
    let work = Work::read(&given, app.config.limits.pixels)?;
    let image = text(&given, "image").ok_or_else(|| Fault::field("image", "is required: a picture as base64"))?;
    let image = run(move || work.draw(&image).map_err(|f| f.about("image"))).await?;
    Ok(json_ok(&json!({ "html_info": "", "image": image })))
}

/// `POST /sdapi/v1/extra-batch-images`
pub(crate) async fn batch(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let given = body::json_object(request, &app.config.limits).await?;
    let work = Work::read(&given, app.config.limits.pixels)?;
    let list = given.get("imageList").and_then(Value::as_array).cloned().unwrap_or_default();
    if list.is_empty() || list.len() > MAX_PICTURES {
        return Err(
            Fault::field("imageList", format!("must hold 1 to {MAX_PICTURES} pictures as {{data, name}}")).into()
        );
    }
    let images = run(move || {
        list.iter()
            .map(|entry| {
                let data = entry["data"].as_str().ok_or_else(|| Fault::field("imageList", "data must be base64"))?;
                work.draw(data).map_err(|f| f.about("imageList"))
            })
            .collect::<Result<Vec<String>, Fault>>()
    })
    .await?;
    Ok(json_ok(&json!({ "html_info": "", "images": images })))
}

/// Pictures are worked on off the runtime.
async fn run<T: Send + 'static>(work: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(Fault::internal("the picture could not be made")))
}

fn text(given: &Map<String, Value>, name: &str) -> Option<String> {
    given.get(name).and_then(Value::as_str).filter(|t| !t.is_empty()).map(str::to_owned)
}

impl Work {
    fn read(given: &Map<String, Value>, pixels: u64) -> Result<Work, Fault> {
        let number = |name: &str, default: f64| match given.get(name).filter(|v| !v.is_null()) {
            None => Ok(default),
            Some(value) => forgive(Type::Number, value)
                .and_then(|v| v.as_f64())
                .ok_or_else(|| Fault::field(name, "must be a number")),
        };
        for name in ["gfpgan_visibility", "codeformer_visibility"] {
            if number(name, 0.0)? > 0.0 {
                return Err(Fault::new(FaultCode::Unsupported, "face restoration is not offered").about(name));
            }
        }
        // "None" leaves the picture as it is.
        let upscaler = |name: &str| match text(given, name).filter(|wanted| wanted != "None") {
            None => Ok(None),
            Some(wanted) => match upscalers::find(&wanted).map_err(|fault| fault.about(name))? {
                Upscaler::Pixels(filter) => Ok(Some(filter)),
                Upscaler::Latent(_) => Err(Fault::field(name, "works on latents; only a second pass has them")),
            },
        };
        let share = number("extras_upscaler_2_visibility", 0.0)?.clamp(0.0, 1.0);
        let second = upscaler("upscaler_2")?.filter(|_| share > 0.0).map(|filter| (filter, share));
        let side = |name: &str| {
            let value = number(name, 512.0)?;
            if (1.0..=16_384.0).contains(&value) {
                Ok(value as u32)
            } else {
                Err(Fault::field(name, "must be a whole number from 1 to 16384"))
            }
        };
        let size = if number("resize_mode", 0.0)? == 1.0 {
            let crop = given.get("upscaling_crop").and_then(|v| forgive(Type::Bool, v)) != Some(Value::Bool(false));
            Size::Fixed { width: side("upscaling_resize_w")?, height: side("upscaling_resize_h")?, crop }
        } else {
            let factor = number("upscaling_resize", 2.0)?;
            if factor <= 0.0 || factor > MAX_FACTOR {
                return Err(Fault::field("upscaling_resize", format!("must be more than 0 and at most {MAX_FACTOR}")));
            }
            Size::Factor(factor)
        };
        Ok(Work { upscaler: upscaler("upscaler_1")?, second, size, pixels })
    }

    /// The result as PNG in base64.
    fn draw(&self, image: &str) -> Result<String, Fault> {
        let source = picture::from_text(image, self.pixels)?.flatten([255; 3]);
        let result = match self.upscaler {
            None => source,
            Some(filter) => {
                let first = self.scaled(&source, filter)?;
                match self.second {
                    None => first,
                    Some((filter, share)) => blend(first, &self.scaled(&source, filter)?, share),
                }
            }
        };
        let bytes = sd_images::encode(&result, OutputFormat::Png, &Embedded::default())?;
        Ok(base64::engine::general_purpose::STANDARD.encode(bytes))
    }

    fn scaled(&self, source: &Picture, filter: Filter) -> Result<Picture, Fault> {
        let times = |side: u32, factor: f64| ((f64::from(side) * factor).round() as u32).max(1);
        let (width, height, crop) = match self.size {
            Size::Factor(factor) => (times(source.width, factor), times(source.height, factor), None),
            Size::Fixed { width, height, crop } => {
                // The picture covers the frame and is cut to it, or fits into it.
                let wide = f64::from(width) / f64::from(source.width);
                let high = f64::from(height) / f64::from(source.height);
                let factor = if crop { wide.max(high) } else { wide.min(high) };
                (times(source.width, factor), times(source.height, factor), crop.then_some((width, height)))
            }
        };
        let pixels = u64::from(width) * u64::from(height);
        if pixels > self.pixels.saturating_mul(4) {
            let message = format!("the result would have {pixels} pixels; at most {} are made", self.pixels * 4);
            return Err(Fault::new(FaultCode::InvalidImage, message));
        }
        let large = sd_images::resample(source, width, height, filter)?;
        Ok(match crop {
            Some((w, h)) => large.crop(width.saturating_sub(w) / 2, height.saturating_sub(h) / 2, w, h),
            None => large,
        })
    }
}

/// The second picture over the first with a share of 0–1.
fn blend(mut first: Picture, second: &Picture, share: f64) -> Picture {
    for (a, b) in first.rgb.iter_mut().zip(&second.rgb) {
        *a = (f64::from(*a) * (1.0 - share) + f64::from(*b) * share).round() as u8;
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(sent: Value) -> Result<Work, Fault> {
        Work::read(sent.as_object().unwrap(), 1 << 20)
    }

    fn png(width: u32, height: u32) -> String {
        let picture = Picture::filled(width, height, [10, 200, 30]);
        let bytes = sd_images::encode(&picture, OutputFormat::Png, &Embedded::default()).unwrap();
        base64::engine::general_purpose::STANDARD.encode(bytes)
    }

    #[test]
    fn sizes_as_there() {
        for (sent, size) in [
            (json!({ "upscaler_1": "Lanczos" }), (32, 16)),
            (json!({ "upscaler_1": "Nearest", "upscaling_resize": 1.5 }), (24, 12)),
            (json!({ "upscaler_1": "None" }), (16, 8)),
            (json!({}), (16, 8)),
            (
                json!({ "upscaler_1": "Lanczos", "upscaler_2": "Nearest", "extras_upscaler_2_visibility": 0.5 }),
                (32, 16),
            ),
            (
                json!({ "upscaler_1": "Lanczos", "resize_mode": 1, "upscaling_resize_w": 20, "upscaling_resize_h": 20 }),
                (20, 20),
            ),
            (
                json!({ "upscaler_1": "Lanczos", "resize_mode": 1, "upscaling_resize_w": 20, "upscaling_resize_h": 20, "upscaling_crop": false }),
                (20, 10),
            ),
        ] {
            let result = work(sent.clone()).unwrap().draw(&png(16, 8)).unwrap();
            let picture = picture::from_text(&result, 1 << 20).unwrap();
            assert_eq!(picture.size(), size, "{sent}");
            assert_eq!(picture.rgb[..3], [10, 200, 30], "{sent}");
        }
    }

    #[test]
    fn what_is_not_offered_is_said() {
        for (sent, field) in [
            (json!({ "upscaler_1": "R-ESRGAN 4x+" }), "upscaler_1"),
            (json!({ "upscaler_1": "Latent" }), "upscaler_1"),
            (json!({ "gfpgan_visibility": 0.5 }), "gfpgan_visibility"),
            (json!({ "upscaling_resize": 0 }), "upscaling_resize"),
            (json!({ "upscaling_resize": 9 }), "upscaling_resize"),
            (json!({ "resize_mode": 1, "upscaling_resize_w": 0 }), "upscaling_resize_w"),
        ] {
            assert_eq!(work(sent.clone()).unwrap_err().field.as_deref(), Some(field), "{sent}");
        }
        let huge = work(json!({ "upscaler_1": "Nearest", "upscaling_resize": 8 })).unwrap();
        assert_eq!(huge.draw(&png(1024, 1024)).unwrap_err().code, FaultCode::InvalidImage);
    }
}
