//! A1111's extras: pictures made larger or smaller. What a network enlarges becomes a job; the rest is done at once.

use super::{
    sdapi_fields::{Type, forgive},
    submit,
};
use crate::{
    api::{
        App, body,
        http::{ApiError, Request, Response, json_ok},
        rooms::off_runtime,
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
    let body::Sent { object: given, share: _share } = body::json_object(request, &app.config.limits).await?;
    let (given, work) = read(&app, given).await?;
    let image = text(&given, "image").ok_or_else(|| Fault::field("image", "is required: a picture as base64"))?;
    let image = work.draw(&asker, image, "image").await?;
    Ok(json_ok(&json!({ "html_info": "", "image": image })))
}

/// `POST /sdapi/v1/extra-batch-images`
pub(crate) async fn batch(app: Arc<App>, request: Request) -> Result<Response, ApiError> {
    let asker = Asker { app: app.clone(), caller: request.caller.clone(), id: request.id.clone() };
    let body::Sent { object: given, share: _share } = body::json_object(request, &app.config.limits).await?;
    let (mut given, work) = read(&app, given).await?;
    let list = match given.remove("imageList") {
        Some(Value::Array(list)) if (1..=MAX_PICTURES).contains(&list.len()) => list,
        _ => {
            let message = format!("must hold 1 to {MAX_PICTURES} pictures as {{data, name}}");
            return Err(Fault::field("imageList", message).into());
        }
    };
    let mut images = Vec::with_capacity(list.len());
    for mut entry in list {
        let Some(Value::String(data)) = entry.get_mut("data").map(Value::take) else {
            return Err(Fault::field("imageList", "data must be base64").into());
        };
        images.push(work.draw(&asker, data, "imageList").await?);
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
async fn read(app: &Arc<App>, given: Map<String, Value>) -> Result<(Map<String, Value>, Work), Fault> {
    off_runtime(app, move |app| {
        let work = Work::read(&given, app.config.limits.pixels, &app.models)?;
        Ok((given, work))
    })
    .await?
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
    ///
    /// What networks make of it comes first, as jobs. The rest is one piece of work, so that no decoded picture waits in
    /// memory for the next one.
    async fn draw(&self, asker: &Asker, image: String, field: &'static str) -> Result<String, ApiError> {
        let mut made = Vec::new();
        if self.ways().any(|(upscaler, _)| matches!(upscaler, Upscaler::Model { .. })) {
            let (work, text) = (self.clone(), image.clone());
            let scaled = off_runtime(&asker.app, move |_| work.size.of(&work.source(&text)?, work.pixels)).await?;
            let factor = scaled.map_err(|f| f.about(field))?.factor;
            for (upscaler, _) in self.ways() {
                made.push(match upscaler {
                    Upscaler::Model { name, .. } => Some(enlarged(asker, &image, name, factor).await?),
                    Upscaler::Pixels(_) | Upscaler::Latent(_) => None,
                });
            }
        }
        let work = self.clone();
        Ok(off_runtime(&asker.app, move |_| work.finish(&image, &made, field)).await??)
    }

    /// The upscalers, each with its share of the result over the one before.
    fn ways(&self) -> impl Iterator<Item = (&Upscaler, f64)> {
        let second = self.second.as_ref().map(|(upscaler, share)| (upscaler, *share));
        self.upscaler.iter().map(|first| (first, 1.0)).chain(second.filter(|_| self.upscaler.is_some()))
    }

    fn source(&self, image: &str) -> Result<Picture, Fault> {
        Ok(picture::from_text(image, self.pixels)?.flatten([255; 3]))
    }

    /// `made`: the files that networks made, one for each of [`Work::ways`]; empty without networks.
    fn finish(&self, image: &str, made: &[Option<File>], field: &str) -> Result<String, Fault> {
        let source = self.source(image).map_err(|f| f.about(field))?;
        let scaled = self.size.of(&source, self.pixels).map_err(|f| f.about(field))?;
        let mut result = None;
        for (index, (upscaler, share)) in self.ways().enumerate() {
            let next = match (made.get(index), upscaler) {
                (Some(Some(file)), _) => scaled.fit(&sd_images::decode(file, &Limits::default())?, Filter::Lanczos)?,
                (_, Upscaler::Pixels(filter)) => scaled.fit(&source, *filter)?,
                (_, Upscaler::Model { .. } | Upscaler::Latent(_)) => scaled.fit(&source, Filter::Lanczos)?,
            };
            result = Some(match result {
                None => next,
                Some(before) => blend(before, &next, share),
            });
        }
        base64_png(&result.unwrap_or(source))
    }
}

/// A picture's file.
type File = Arc<Vec<u8>>;

/// What a network makes of a picture: a job like any other.
async fn enlarged(asker: &Asker, image: &str, upscaler: &str, factor: f64) -> Result<File, ApiError> {
    let fields = json!({
        "operation": "image_upscale", "init_image": image, "upscaler": upscaler, "scale": factor, "metadata": false,
    });
    let fields = fields.as_object().cloned().unwrap_or_default();
    let mut reading = submit(&asker.app, fields, asker.caller.clone(), None, &asker.id).await?;
    let done = reading.outcome(|_| ()).await?;
    let made = done.pictures.into_iter().next().ok_or_else(|| Fault::internal("the picture was not made"))?;
    Ok(made.bytes)
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

impl Scaled {
    fn fit(&self, source: &Picture, filter: Filter) -> Result<Picture, Fault> {
        let large = sd_images::resample(source, self.width, self.height, filter)?;
        Ok(match self.crop {
            Some((w, h)) => large.crop(self.width.saturating_sub(w) / 2, self.height.saturating_sub(h) / 2, w, h),
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
