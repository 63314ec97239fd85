//! The recipe that goes into a picture, and the one that comes out of it.

use crate::{
    fault::Fault,
    jobs::{Hires, InpaintFill, JobSpec, MaskSpec, Operation, OutputFormat},
    library::Resolved,
    names, upscalers,
};
use sd_images::{Embedded, Infotext, Limits, Picture, Recipe};
use sd_sampling::noise::Rng;
use serde_json::{Map, Value, json};

/// The program and its version, as pictures carry them.
const VERSION: &str = concat!("sd-worker ", env!("CARGO_PKG_VERSION"));

/// What a picture of a job was made with.
pub(crate) fn of(spec: &JobSpec, model: &Resolved, index: usize) -> Recipe {
    let (sampler, schedule) = names::labels(&spec.sampler, &spec.schedule);
    let mut extra = Vec::new();
    if spec.emphasis != "a1111" {
        extra.push(("Emphasis".to_owned(), spec.emphasis.to_owned()));
    }
    if spec.guidance_rescale > 0.0 {
        extra.push(("CFG rescale phi".to_owned(), spec.guidance_rescale.to_string()));
    }
    if let Some((width, height)) = spec.edit.noise.resize_from {
        extra.push(("Seed resize from".to_owned(), format!("{width}x{height}")));
    }
    extra.extend(spec.mask.iter().flat_map(masked));
    let variation_seed = spec.variation_seed(index);
    let hires = spec.edit.hires.as_deref();
    if let Some(hires) = hires {
        extra.extend(second_pass(hires, spec));
    }
    // As in A1111 a job with a second pass is named by the size of its first.
    let (width, height) = spec.edit.trim.unwrap_or((spec.width, spec.height));
    let redone = (spec.operation != Operation::Generation).then_some(spec.strength).or(hires.map(|h| h.strength));
    let plain = sd_sampling::Options::default();
    let mut number = |name: &str, value: f64, plain: f64| {
        if value != plain {
            extra.push((name.to_owned(), value.to_string()));
        }
    };
    number("Eta", spec.sampling.eta.unwrap_or(-1.0), -1.0);
    number("Sigma churn", spec.sampling.s_churn, plain.s_churn);
    number("Sigma tmin", spec.sampling.s_tmin, plain.s_tmin);
    number("Sigma tmax", spec.sampling.s_tmax, plain.s_tmax);
    number("Sigma noise", spec.sampling.s_noise, plain.s_noise);
    if let Some(refiner) = &spec.refiner {
        extra.push(("Refiner".to_owned(), refiner.model.clone()));
        extra.push(("Refiner switch at".to_owned(), refiner.switch_at.to_string()));
    }
    if let Some(sigmas) = &spec.sigmas {
        let list: Vec<String> = sigmas.iter().map(f64::to_string).collect();
        extra.push(("Sigmas".to_owned(), list.join(" ")));
    }
    Recipe {
        prompt: spec.prompt.clone(),
        negative_prompt: spec.negative_prompt.clone(),
        steps: spec.steps,
        sampler,
        schedule,
        cfg_scale: rounded(spec.guidance_scale),
        seed: spec.picture_seed(index),
        width,
        height,
        model: spec.model.clone(),
        model_hash: Some(model.model.fingerprint.chars().take(10).collect()),
        denoising_strength: redone,
        clip_skip: spec.clip_skip,
        variation_seed,
        variation_strength: variation_seed.map(|_| spec.edit.noise.variation_strength),
        rng: Some(if spec.rng == Rng::Philox { "NV" } else { "CPU" }.to_owned()),
        extra,
        version: VERSION.to_owned(),
        ..Recipe::default()
    }
}

/// A1111's pairs of a mask.
fn masked(mask: &MaskSpec) -> Vec<(String, String)> {
    let content = match mask.fill {
        InpaintFill::Original => None,
        InpaintFill::Fill => Some("fill"),
        InpaintFill::LatentNoise => Some("latent noise"),
        InpaintFill::LatentNothing => Some("latent nothing"),
    };
    let pairs = [
        ("Mask mode", mask.inverted.then(|| "Inpaint not masked".to_owned())),
        ("Mask blur", (mask.blur > 0).then(|| mask.blur.to_string())),
        ("Masked content", content.map(str::to_owned)),
        ("Inpaint area", mask.only_masked.map(|_| "Only masked".to_owned())),
        ("Masked area padding", mask.only_masked.map(|padding| padding.to_string())),
    ];
    pairs.into_iter().filter_map(|(key, value)| value.map(|v| (key.to_owned(), v))).collect()
}

/// A1111's pairs of a second pass; what it shares with the first one is left out.
fn second_pass(hires: &Hires, first: &JobSpec) -> Vec<(String, String)> {
    let (sampler, schedule) = names::labels(&hires.sampler, &hires.schedule);
    let differs = |theirs: &str, ours: &str| (theirs != ours).then(|| ours.to_owned());
    let pairs = [
        ("Hires resize", Some(format!("{}x{}", hires.width, hires.height))),
        ("Hires steps", Some(hires.steps.to_string())),
        ("Hires upscaler", Some(upscalers::label(&hires.upscaler))),
        ("Hires sampler", differs(&first.sampler, &hires.sampler).map(|_| sampler)),
        ("Hires schedule type", differs(&first.schedule, &hires.schedule).and(schedule)),
        ("Hires prompt", differs(&first.prompt, &hires.prompt)),
        ("Hires negative prompt", differs(&first.negative_prompt, &hires.negative_prompt)),
        (
            "Hires CFG Scale",
            (first.guidance_scale != hires.guidance_scale).then(|| rounded(hires.guidance_scale).to_string()),
        ),
    ];
    pairs.into_iter().filter_map(|(key, value)| value.map(|v| (key.to_owned(), v))).collect()
}

/// What an enlarged picture was made with: what is known of it, and A1111's pairs of the enlarging.
pub(crate) fn enlarged(spec: &JobSpec) -> (Recipe, String) {
    let upscale = spec.edit.upscale.as_ref();
    let mut text = Infotext::parse(upscale.and_then(|u| u.recipe.as_deref()).unwrap_or_default());
    let upscaler = upscale.map_or_else(String::new, |u| upscalers::label(&u.upscaler));
    let size = format!("{}x{}", spec.width, spec.height);
    let pairs =
        [("Postprocess upscale to", size), ("Postprocess upscaler", upscaler), ("Postprocess by", VERSION.into())];
    text.fields.extend(pairs.map(|(key, value)| (key.to_owned(), value)));
    let text = text.to_string();
    (Recipe::from_infotext(&text), text)
}

/// The shortest decimal that means the same `f32`.
pub(crate) fn rounded(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// Writes a picture in the job's format, with its recipe unless the job asked for none.
pub(crate) fn encode(picture: &Picture, spec: &JobSpec, recipe: &Recipe, infotext: &str) -> Result<Vec<u8>, Fault> {
    let json = recipe.json();
    let embedded =
        if spec.metadata { Embedded { parameters: Some(infotext), recipe: Some(&json) } } else { Embedded::default() };
    let format = match spec.format {
        OutputFormat::Png => sd_images::OutputFormat::Png,
        OutputFormat::Jpeg(quality) => sd_images::OutputFormat::Jpeg { quality },
        OutputFormat::Webp(100) => sd_images::OutputFormat::WebpLossless,
        OutputFormat::Webp(quality) => sd_images::OutputFormat::Webp { quality },
    };
    Ok(sd_images::encode(picture, format, &embedded)?)
}

/// What a picture file tells about itself.
#[derive(Debug)]
pub(crate) struct Told(sd_images::Inspection);

/// Reads what a picture file tells. Its pixels are not decoded, so their number does not matter.
pub(crate) fn read(bytes: &[u8]) -> Result<Told, Fault> {
    let limits = Limits { max_bytes: 256 << 20, max_side: u32::MAX, max_pixels: u64::MAX };
    Ok(Told(sd_images::inspect(bytes, &limits)?))
}

impl Told {
    /// A1111's text.
    pub(crate) fn parameters(&self) -> Option<&str> {
        self.0.parameters.as_deref()
    }

    /// Texts that other programs left, such as ComfyUI's `prompt` and `workflow`.
    pub(crate) fn others(&self) -> impl Iterator<Item = &(String, String)> {
        self.0.texts.iter().filter(|(key, _)| key != "parameters" && key != "sd-worker")
    }

    /// Everything, as `POST /v1/png-info` answers.
    pub(crate) fn json(&self) -> Value {
        let recipe: Option<Value> = self.0.recipe.as_deref().and_then(|text| serde_json::from_str(text).ok());
        let others: Map<String, Value> = self.others().map(|(key, text)| (key.clone(), text.as_str().into())).collect();
        json!({
            "parameters": self.parameters(), "items": self.parameters().map_or_else(|| json!({}), items),
            "recipe": recipe, "texts": others, "format": self.0.format.media_type(),
            "width": self.0.width, "height": self.0.height,
        })
    }
}

/// The text taken apart: its pairs by key.
fn items(text: &str) -> Value {
    let info = Infotext::parse(text);
    let mut items = Map::new();
    items.insert("Prompt".to_owned(), info.prompt.into());
    items.insert("Negative prompt".to_owned(), info.negative_prompt.into());
    items.extend(info.fields.into_iter().map(|(key, value)| (key, value.into())));
    items.into()
}
