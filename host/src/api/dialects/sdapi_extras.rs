//! A1111's extras: pictures made larger or smaller. What a network enlarges becomes a job; the rest is done at once.

use super::{
    sdapi_fields::{Type, forgive},
    submit,
};
use crate::{
    api::{
        App, body,
        http::{ApiError, Request, Response, json_ok},
    },
    fault::{Fault, FaultCode},
    jobs::Origin,
    library::Library,
    picture,
    upscalers::{self, Upscaler},
};
use base64::Engine as _;
use sd_images::{Embedded, Filter, Limits, OutputFormat, Picture};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Most pictures of one request.
const MAX_PICTURES: usize = 16;
/// Largest factor, as there.
const MAX_FACTOR: f64 = 8.0;

/// What is to be done to each picture.
#[derive(Debug, Clone)]
struct Work {
    upscaler: Option<Upscaler>,
    /// A second upscaler and its share of the result.
    second: Option<(Upscaler, f64)>,
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
    let asker = Asker { app: app.clone(), caller: request.caller.clone(), id: request.id.clone() };
    let given = body::json_object(request, &app.config.limits).await?;
    let work = read(&app, &given).await?;
    let image = text(&given, "image").ok_or_else(|| Fault::field("image", "is required: a picture as base64"))?;
    let image = work.draw(&asker, image, "image").await?;
    Ok(json_ok(&json!({ "html_info": "", "image": image })))
}

/// `POST /sdapi/v1/extra-batch-images`
pub(crate) async fn batch(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let asker = Asker { app: app.clone(), caller: request.caller.clone(), id: request.id.clone() };
    let given = body::json_object(request, &app.config.limits).await?;
    let work = read(&app, &given).await?;
    let list = given.get("imageList").and_then(Value::as_array).cloned().unwrap_or_default();
    if list.is_empty() || list.len() > MAX_PICTURES {
        return Err(
            Fault::field("imageList", format!("must hold 1 to {MAX_PICTURES} pictures as {{data, name}}")).into()
        );
    }
    let mut images = Vec::with_capacity(list.len());
    for entry in list {
        let data = entry["data"].as_str().ok_or_else(|| Fault::field("imageList", "data must be base64"))?;
        images.push(work.draw(&asker, data.to_owned(), "imageList").await?);
    }
    Ok(json_ok(&json!({ "html_info": "", "images": images })))
}

/// Who asks.
struct Asker {
    app: Arc<App>,
    caller: String,
    id: Origin,
}

/// Upscalers are looked up on disk.
async fn read(app: &Arc<App>, given: &Map<String, Value>) -> Result<Work, Fault> {
    let (app, given) = (app.clone(), given.clone());
    run(move || Work::read(&given, app.config.limits.pixels, &app.models)).await
}

/// Pictures are worked on off the runtime.
async fn run<T: Send + 'static>(work: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(Fault::internal("the picture could not be made")))
}

fn text(given: &Map<String, Value>, name: &str) -> Option<String> {
    given.get(name).and_then(Value::as_str).filter(|t| !t.is_empty()).map(str::to_owned)
}

impl Work {
    fn read(given: &Map<String, Value>, pixels: u64, library: &Library) -> Result<Work, Fault> {
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
            Some(wanted) => match upscalers::find(&wanted, library).map_err(|fault| fault.about(name))? {
                Upscaler::Latent(_) => Err(Fault::field(name, "works on latents; only a second pass has them")),
                upscaler => Ok(Some(upscaler)),
            },
        };
        let share = number("extras_upscaler_2_visibility", 0.0)?.clamp(0.0, 1.0);
        let second = upscaler("upscaler_2")?.filter(|_| share > 0.0).map(|upscaler| (upscaler, share));
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

    /// The result as PNG in base64. `field`: where the picture came from.
    async fn draw(&self, asker: &Asker, image: String, field: &str) -> Result<String, ApiError> {
        let pixels = self.pixels;
        let read = run(move || Ok(picture::from_text(&image, pixels)?.flatten([255; 3])));
        let source = Arc::new(read.await.map_err(|f| f.about(field))?);
        let result = match &self.upscaler {
            None => source.as_ref().clone(),
            Some(upscaler) => {
                let first = self.scaled(asker, &source, upscaler, field).await?;
                match &self.second {
                    None => first,
                    Some((upscaler, share)) => {
                        blend(first, &self.scaled(asker, &source, upscaler, field).await?, *share)
                    }
                }
            }
        };
        Ok(run(move || base64_png(&result)).await?)
    }

    async fn scaled(
        &self,
        asker: &Asker,
        source: &Arc<Picture>,
        upscaler: &Upscaler,
        field: &str,
    ) -> Result<Picture, ApiError> {
        let Scaled { factor, width, height, crop } = self.size.of(source, self.pixels).map_err(|f| f.about(field))?;
        let (filter, source) = match upscaler {
            Upscaler::Model { name, .. } => (Filter::Lanczos, Arc::new(enlarged(asker, source, name, factor).await?)),
            Upscaler::Pixels(filter) => (*filter, source.clone()),
            Upscaler::Latent(_) => (Filter::Lanczos, source.clone()),
        };
        let large = run(move || Ok(sd_images::resample(&source, width, height, filter)?)).await?;
        Ok(match crop {
            Some((w, h)) => large.crop(width.saturating_sub(w) / 2, height.saturating_sub(h) / 2, w, h),
            None => large,
        })
    }
}

/// What a network makes of a picture: a job like any other.
async fn enlarged(asker: &Asker, source: &Arc<Picture>, upscaler: &str, factor: f64) -> Result<Picture, ApiError> {
    let source = source.clone();
    let image = run(move || base64_png(&source)).await?;
    let fields = json!({
        "operation": "image_upscale", "init_image": image, "upscaler": upscaler, "scale": factor, "metadata": false,
    });
    let fields = fields.as_object().cloned().unwrap_or_default();
    let mut reading = submit(&asker.app, fields, asker.caller.clone(), None, &asker.id).await?;
    let done = reading.outcome(|_| ()).await?;
    let made = done.pictures.into_iter().next().ok_or_else(|| Fault::internal("the picture was not made"))?;
    Ok(run(move || Ok(sd_images::decode(&made.bytes, &Limits::default())?)).await?)
}

fn base64_png(picture: &Picture) -> Result<String, Fault> {
    let bytes = sd_images::encode(picture, OutputFormat::Png, &Embedded::default())?;
    Ok(base64::engine::general_purpose::STANDARD.encode(bytes))
}

/// A size worked out for one picture.
#[derive(Debug)]
struct Scaled {
    factor: f64,
    width: u32,
    height: u32,
    crop: Option<(u32, u32)>,
}

impl Size {
    /// Errors where the result would have more than four times as many pixels as a request may.
    fn of(self, source: &Picture, most: u64) -> Result<Scaled, Fault> {
        let (factor, crop) = match self {
            Size::Factor(factor) => (factor, None),
            Size::Fixed { width, height, crop } => {
                // The picture covers the frame and is cut to it, or fits into it.
                let wide = f64::from(width) / f64::from(source.width);
                let high = f64::from(height) / f64::from(source.height);
                (if crop { wide.max(high) } else { wide.min(high) }, crop.then_some((width, height)))
            }
        };
        let times = |side: u32| ((f64::from(side) * factor).round() as u32).max(1);
        let (width, height) = (times(source.width), times(source.height));
        let pixels = u64::from(width) * u64::from(height);
        if pixels > most.saturating_mul(4) {
            let message = format!("the result would have {pixels} pixels; at most {} are made", most * 4);
            return Err(Fault::new(FaultCode::InvalidImage, message));
        }
        Ok(Scaled { factor, width, height, crop })
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
        let (library, _) = Library::new(sd_models::Library::new(Vec::new(), None), None).unwrap();
        Work::read(sent.as_object().unwrap(), 1 << 20, &library)
    }

    #[test]
    fn sizes_as_there() {
        for (sent, size) in [
            (json!({ "upscaler_1": "Lanczos" }), (32, 16)),
            (json!({ "upscaler_1": "Nearest", "upscaling_resize": 1.5 }), (24, 12)),
            (json!({}), (32, 16)),
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
            let work = work(sent.clone()).unwrap();
            let scaled = work.size.of(&Picture::filled(16, 8, [0; 3]), work.pixels).unwrap();
            assert_eq!(scaled.crop.unwrap_or((scaled.width, scaled.height)), size, "{sent}");
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
        let picture = Picture::filled(1024, 1024, [0; 3]);
        assert_eq!(huge.size.of(&picture, huge.pixels).unwrap_err().code, FaultCode::InvalidImage);
    }
}
