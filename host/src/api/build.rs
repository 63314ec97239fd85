//! From the fields of a request to a checked job.

use super::{
    App,
    fields::{JOB_FIELDS, Values, check},
    hires,
    outpaint::Outpaint,
    upscale,
};
use crate::{
    engine,
    fault::Fault,
    jobs::{EditSpec, InpaintFill, JobSpec, MaskSpec, NoiseSpec, OnDisconnect, Operation, OutputFormat, ResizeMode},
    library::Resolved,
    names,
    picture::MaskRules,
    pulls::Wanted,
};
use sd_images::{Mask, Picture};
use sd_prompt::{Overflow, Pass};
use sd_sampling::noise::Rng;
use serde_json::{Map, Value};
use std::{sync::Arc, time::Duration};

/// Checks everything that can be wrong before a job takes a place in the queue.
pub(crate) fn job_spec(app: &App, fields: &Map<String, Value>) -> Result<JobSpec, Vec<Fault>> {
    let values = check(JOB_FIELDS, fields)?;
    if values.text("operation") == Some(Operation::Upscale.as_str()) {
        return upscale::job(app, &values);
    }
    let Some(prompt) = values.text("prompt") else {
        return Err(vec![Fault::field("prompt", "is required: what to paint")]);
    };
    let name = values.text("model").map_or_else(|| app.default_model(), str::to_owned);
    let model = app.models.lookup(&name).map_err(one)?;
    Builder { app, values: &values, model: &model, pending: Pending::default(), faults: Vec::new() }.build(name, prompt)
}

/// A job with models that are fetched first: which, and the request as far as it can be checked before. `None` where all
/// are here, or may not be fetched.
pub(crate) fn pending_spec(
    app: &App,
    fields: &Map<String, Value>,
) -> Result<Option<(JobSpec, Vec<Wanted>)>, Vec<Fault>> {
    let text = |field| fields.get(field).and_then(Value::as_str);
    if text("operation") == Some(Operation::Upscale.as_str()) {
        return Ok(None);
    }
    let wants = |field: &'static str| Some(Wanted { field, id: app.pulls.wanted(text(field)?, &app.models)? });
    let wanted: Vec<Wanted> = ["model", "refiner"].into_iter().filter_map(wants).collect();
    if wanted.is_empty() {
        return Ok(None);
    }
    let wants = |field| wanted.iter().any(|w| w.field == field);
    let pending = Pending { model: wants("model"), refiner: wants("refiner") };
    let values = check(JOB_FIELDS, fields)?;
    let prompt = values.text("prompt").unwrap_or_default();
    if prompt.is_empty() && !values.has("prompt") {
        return Err(vec![Fault::field("prompt", "is required: what to paint")]);
    }
    let name = text("model").map_or_else(|| app.default_model(), str::to_owned);
    // The default model stands in for what only the model itself can tell.
    let here = if pending.model { &app.default_model() } else { &name };
    let here = app.models.lookup(here).map_err(one)?;
    let builder = Builder { app, values: &values, model: &here, pending, faults: Vec::new() };
    Ok(Some((builder.build(name, prompt)?, wanted)))
}

fn one(fault: Fault) -> Vec<Fault> {
    vec![fault]
}

pub(super) struct Builder<'a> {
    pub(super) app: &'a App,
    pub(super) values: &'a Values,
    pub(super) model: &'a Resolved,
    pub(super) pending: Pending,
    pub(super) faults: Vec<Fault>,
}

/// Which models of a request are not here yet. What depends on them is checked later.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pending {
    /// Another model stands in for the job's own.
    pub(super) model: bool,
    pub(super) refiner: bool,
}

impl Builder<'_> {
    /// Keeps a fault and goes on, so that all are told.
    pub(super) fn keep<T>(&mut self, outcome: Result<T, Fault>) -> Option<T> {
        outcome.map_err(|fault| self.faults.push(fault)).ok()
    }

    fn build(mut self, model: String, prompt: &str) -> Result<JobSpec, Vec<Fault>> {
        let values = self.values;
        let defaults = &self.model.model.defaults;
        let init = self.image("init_image");
        let mask = self.image("mask_image");
        let operation = self.operation(init.is_some(), mask.is_some());
        let (init, outpaint) = self.outpaint(init, operation);
        let resize = match values.text("resize_mode") {
            Some("crop") => ResizeMode::Crop,
            Some("fill") => ResizeMode::Fill,
            Some("latent") => ResizeMode::Latent,
            _ => ResizeMode::Stretch,
        };
        let (width, height) = self.size(init.as_ref(), outpaint.as_ref());
        let own_size = self.own_size(init.as_ref(), resize, operation);
        let steps = self.steps();
        let names = self.keep(names::resolve(values.text("sampler"), values.text("schedule"), &self.model.model));
        let overflow = match values.text("prompt_overflow") {
            Some("reject") => Overflow::Reject,
            Some("truncate") => Overflow::Truncate,
            _ => Overflow::Chunk,
        };
        let negative = values.text("negative_prompt").unwrap_or_default();
        let embeddings = self.app.models.embeddings(self.model);
        let texts = [("prompt", prompt), ("negative_prompt", negative)];
        let pending = self.pending.model;
        for (field, text) in texts.into_iter().filter(|_| !pending) {
            let outcome = engine::check_prompt(text, steps, Pass::First, overflow, self.model, &embeddings);
            let outcome = outcome.map_err(|f| f.about(field));
            self.keep(outcome);
        }
        let start = values.f32("guidance_start").unwrap_or(0.0);
        let end = values.f32("guidance_end").unwrap_or(1.0);
        if start > end {
            self.faults.push(Fault::field("guidance_start", "must not lie behind guidance_end"));
        }
        let (refiner, finisher) = self.refiner();
        let sizes = self.sizes(width, height, finisher.as_deref());
        let webhook = self.keep(webhook(self.app, values)).flatten();
        if !self.faults.is_empty() {
            return Err(self.faults);
        }
        let (init_width, init_height) = own_size.unwrap_or((width, height));
        let init = init
            .map(|p| crate::picture::fit(p, init_width, init_height, resize))
            .transpose()
            .map_err(|f| one(f.about("init_image")))?;
        let init = init.map(Arc::new);
        let masked = outpaint.as_ref().map_or((width, height), |o| o.inner);
        let mask = mask.map(|m| self.mask(&m, masked, resize)).transpose();
        let mask = mask.and_then(|m| match &outpaint {
            Some(outpaint) => outpaint.mask(m).map(Some),
            None => Ok(m),
        });
        let mask = mask.map_err(|f| one(f.about("mask_image")))?.map(|m| self.mask_spec(m));
        let strength = values.f64("strength").unwrap_or(if operation == Operation::Inpaint { 1.0 } else { 0.75 });
        let names = names.unwrap_or_default();
        let mut job = JobSpec {
            operation,
            model,
            prompt: prompt.to_owned(),
            negative_prompt: negative.to_owned(),
            width,
            height,
            steps,
            guidance_scale: values.f32("guidance_scale").unwrap_or(defaults.guidance),
            guidance_rescale: values.f32("guidance_rescale").unwrap_or(0.0),
            guidance_interval: (start, end),
            image_guidance_scale: values.f32("image_guidance_scale").or(defaults.image_guidance).unwrap_or(1.5),
            seed: seed(values.int("seed")),
            n: values.u32("n").unwrap_or(1),
            sampler: names.sampler,
            schedule: names.schedule,
            sampling: sampling(values, names.eta),
            sigmas: values.numbers("sigmas").map(<[f64]>::to_vec),
            rng: values.text("rng").and_then(Rng::parse).unwrap_or_default(),
            clip_skip: values.u32("clip_skip"),
            emphasis: emphasis(values.text("emphasis")),
            overflow,
            strength,
            refiner,
            sizes,
            init,
            mask,
            format: format(values),
            metadata: values.bool("metadata").unwrap_or(true) && self.app.config.metadata,
            preview_every: values.u32("preview_every").unwrap_or(0),
            on_disconnect: on_disconnect(values),
            timeout: timeout(self.app, values),
            priority: priority(values),
            webhook,
            edit: EditSpec {
                noise: noise(values),
                latent_resize: own_size.is_some(),
                trim: outpaint.map(|o| o.finished).filter(|size| *size != (width, height)),
                hires: None,
                upscale: None,
            },
        };
        job.edit.hires = hires::second_pass(self.app, values, &job, self.model, self.step())?;
        Ok(job)
    }

    /// As many as there are ways from one noise level to the next, if the levels themselves are sent.
    fn steps(&mut self) -> u32 {
        let sent = self.values.u32("steps");
        let Some(sigmas) = self.values.numbers("sigmas") else {
            return sent.unwrap_or(self.model.model.defaults.steps);
        };
        let count = sigmas.len() as u32 - 1;
        if sigmas.windows(2).any(|pair| pair[0] as f32 <= pair[1] as f32) {
            self.faults.push(Fault::field("sigmas", "must fall from each number to the next, in single precision"));
        }
        if sent.is_some_and(|steps| steps != count) {
            self.faults.push(Fault::field("steps", format!("these sigmas make {count} steps; leave `steps` out")));
        }
        count
    }

    fn image(&mut self, field: &str) -> Option<Picture> {
        let text = self.values.text(field)?;
        let outcome = crate::picture::from_text(text, self.app.config.limits.pixels).map_err(|f| f.about(field));
        self.keep(outcome)
    }

    fn operation(&mut self, init: bool, mask: bool) -> Operation {
        let sent = self.values.text("init_image").is_some();
        let masked = self.values.text("mask_image").is_some() || self.values.group("extend").is_some();
        let operation = match self.values.text("operation") {
            Some("image_inpaint") => Operation::Inpaint,
            Some("image_transform") => Operation::Transform,
            Some(_) => Operation::Generation,
            None if masked => Operation::Inpaint,
            None if sent => Operation::Transform,
            None => Operation::Generation,
        };
        if operation != Operation::Generation && !init && !sent {
            self.faults.push(Fault::field("init_image", format!("is required for {}", operation.as_str())));
        }
        if operation == Operation::Inpaint && !mask && !masked {
            self.faults.push(Fault::field("mask_image", "is required for image_inpaint: white = repaint"));
        }
        if operation == Operation::Generation && sent {
            self.faults.push(Fault::field("init_image", "has no place in image_generation; send image_transform"));
        }
        operation
    }

    /// The size: as sent, else the picture's brought to a whole number of latent cells, else the model's own.
    fn size(&mut self, init: Option<&Picture>, outpaint: Option<&Outpaint>) -> (u32, u32) {
        if let Some(outpaint) = outpaint {
            for (field, side) in [("width", outpaint.finished.0), ("height", outpaint.finished.1)] {
                if self.values.u32(field).is_some_and(|sent| sent != side) {
                    let message = format!("follows from the picture and extend: {side}; leave it out");
                    self.faults.push(Fault::field(field, message));
                }
            }
            return outpaint.picture.size();
        }
        let defaults = &self.model.model.defaults;
        let step = self.step();
        let own = init.map_or((defaults.width, defaults.height), |p| self.whole(p.size()));
        let (width, height) = (self.values.u32("width").unwrap_or(own.0), self.values.u32("height").unwrap_or(own.1));
        for (field, side) in [("width", width), ("height", height)] {
            if side % step != 0 {
                self.faults.push(Fault::field(field, format!("must be a multiple of {step} for this model")));
            }
        }
        let pixels = u64::from(width) * u64::from(height);
        let limit = self.app.config.limits.pixels;
        if pixels > limit {
            let message = format!("{width} × {height} are {pixels} pixels; this worker's limit is {limit}");
            self.faults.push(Fault::field("width", message));
        }
        (width, height)
    }

    /// What the sides of pictures are multiples of. As diffusers: whole latent cells, whatever the network halves; it
    /// fits its halves to each other.
    fn step(&self) -> u32 {
        self.model.model.defaults.vae_downscale.max(8)
    }

    /// The nearest size of whole steps.
    fn whole(&self, (width, height): (u32, u32)) -> (u32, u32) {
        let step = self.step();
        let near = |side: u32| ((side + step / 2) / step * step).clamp(step.max(16), 4096);
        (near(width), near(height))
    }

    /// The size in which the picture is encoded when its latents are resized afterwards.
    fn own_size(&mut self, init: Option<&Picture>, resize: ResizeMode, operation: Operation) -> Option<(u32, u32)> {
        let picture = init.filter(|_| resize == ResizeMode::Latent)?;
        if operation == Operation::Inpaint {
            self.faults
                .push(Fault::field("resize_mode", "latent has no place where a mask is; send stretch, crop or fill"));
        }
        let (width, height) = self.whole(picture.size());
        let limit = self.app.config.limits.pixels;
        if u64::from(width) * u64::from(height) > limit {
            let message = format!("latent works on the picture in its own size; this worker's limit is {limit} pixels");
            self.faults.push(Fault::field("resize_mode", message));
        }
        Some((width, height))
    }

    /// The picture on its larger canvas, if it is to grow.
    fn outpaint(&mut self, init: Option<Picture>, operation: Operation) -> (Option<Picture>, Option<Outpaint>) {
        let Some(values) = self.values.group("extend") else { return (init, None) };
        if operation != Operation::Inpaint {
            self.faults.push(Fault::field("extend", "has its place in image_inpaint"));
        }
        let Some(picture) = init else { return (None, None) };
        let made = Outpaint::new(values, picture, self.step(), self.app.config.limits.pixels);
        let outpaint = self.keep(made);
        (outpaint.as_ref().map(|o| o.picture.clone()), outpaint)
    }

    /// The request's mask in the given size.
    fn mask(&self, mask: &Picture, (width, height): (u32, u32), resize: ResizeMode) -> Result<Mask, Fault> {
        let rules = MaskRules {
            alpha: self.values.text("mask_mode") == Some("alpha"),
            invert: self.values.bool("mask_invert").unwrap_or(false),
            blur: self.values.u32("mask_blur").unwrap_or(0),
        };
        crate::picture::mask(mask, width, height, resize, &rules)
    }

    fn mask_spec(&self, mask: Mask) -> MaskSpec {
        let extends = self.values.group("extend").is_some();
        MaskSpec {
            mask: Arc::new(mask),
            fill: match self.values.text("inpaint_fill") {
                Some("fill") => InpaintFill::Fill,
                Some("latent_noise") => InpaintFill::LatentNoise,
                Some("latent_nothing") => InpaintFill::LatentNothing,
                None if extends => InpaintFill::Fill,
                _ => InpaintFill::Original,
            },
            whole_cells: extends,
            blur: self.values.u32("mask_blur").unwrap_or(0),
            inverted: self.values.bool("mask_invert").unwrap_or(false),
            only_masked: self
                .values
                .bool("only_masked")
                .unwrap_or(false)
                .then(|| self.values.u32("only_masked_padding").unwrap_or(32)),
        }
    }
}

/// Where the noise comes from besides the seed.
fn noise(values: &Values) -> NoiseSpec {
    let from = |name| values.u32(name).filter(|side| *side > 0);
    NoiseSpec {
        variation_seed: seed(values.int("variation_seed")),
        variation_strength: values.f64("variation_strength").unwrap_or(0.0),
        resize_from: from("seed_resize_from_w").zip(from("seed_resize_from_h")),
    }
}

/// The sampler's numbers; `eta` is what its name implies.
pub(super) fn sampling(values: &Values, eta: Option<f64>) -> sd_sampling::Options {
    let number = |name: &str| values.f64(name);
    let plain = sd_sampling::Options::default();
    sd_sampling::Options {
        eta: number("eta").or(eta),
        s_churn: number("s_churn").unwrap_or(plain.s_churn),
        s_tmin: number("s_tmin").unwrap_or(plain.s_tmin),
        s_tmax: number("s_tmax").unwrap_or(plain.s_tmax),
        s_noise: number("s_noise").unwrap_or(plain.s_noise),
    }
}

/// A seed as sent, or a fresh one. Fresh ones stay below 2⁵³, so that every client's JSON reader keeps them exact.
fn seed(sent: Option<i128>) -> u64 {
    sent.and_then(|s| u64::try_from(s).ok()).unwrap_or_else(|| {
        let bits = uuid::Uuid::new_v4().as_u128();
        (bits as u64) & ((1 << 32) - 1)
    })
}

fn emphasis(name: Option<&str>) -> &'static str {
    match name {
        Some("no_norm") => "no_norm",
        Some("comfy") => "comfy",
        Some("none") => "none",
        _ => "a1111",
    }
}

pub(super) fn timeout(app: &App, values: &Values) -> Duration {
    let limit = app.config.limits.job_timeout;
    values.u32("timeout_secs").map_or(limit, |s| Duration::from_secs(u64::from(s)).min(limit))
}

/// Where the end is told, if the operator allows that.
pub(super) fn webhook(app: &App, values: &Values) -> Result<Option<String>, Fault> {
    let Some(url) = values.text("webhook") else { return Ok(None) };
    app.check_webhook(url).map_err(|e| Fault::field("webhook", e.to_string()))?;
    Ok(Some(url.to_owned()))
}

pub(super) fn priority(values: &Values) -> i8 {
    values.int("priority").and_then(|p| i8::try_from(p).ok()).unwrap_or(0)
}

pub(super) fn on_disconnect(values: &Values) -> OnDisconnect {
    if values.text("on_disconnect") == Some("cancel") { OnDisconnect::Cancel } else { OnDisconnect::Keep }
}

pub(super) fn format(values: &Values) -> OutputFormat {
    match values.text("output_format") {
        Some("jpeg") => OutputFormat::Jpeg(quality(values)),
        Some("webp") => OutputFormat::Webp(quality(values)),
        _ => OutputFormat::Png,
    }
}

fn quality(values: &Values) -> u8 {
    values.u32("quality").and_then(|q| u8::try_from(q).ok()).unwrap_or(90)
}

/// The recipe inside a picture given as text.
pub(crate) fn recipe_of(text: &str) -> Result<Value, Fault> {
    let bytes = crate::picture::bytes_of(text).map_err(|f| f.about("image"))?;
    Ok(crate::recipe::read(&bytes).map_err(|f| f.about("image"))?.json())
}
