//! The recipe of a picture: everything needed to make it again, as A1111's infotext and as JSON.

use crate::Infotext;
use serde::{Deserialize, Serialize};

/// What a picture was made with. Fields that do not apply are absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Recipe {
    /// The prompt as written.
    pub prompt: String,
    /// The negative prompt.
    pub negative_prompt: String,
    /// Sampling steps.
    pub steps: u32,
    /// The sampler, by A1111's label.
    pub sampler: String,
    /// The schedule, by A1111's label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// Guidance scale.
    pub cfg_scale: f64,
    /// Seed of this picture.
    pub seed: u64,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The model's name.
    pub model: String,
    /// The first ten digits of the model file's SHA-256.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_hash: Option<String>,
    /// The VAE's name, where it is not the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vae: Option<String>,
    /// Strength of image-to-image, inpainting or hires fix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denoising_strength: Option<f64>,
    /// A1111's count: 1 = the model's own layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_skip: Option<u32>,
    /// Seed of the variation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variation_seed: Option<u64>,
    /// Strength of the variation, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variation_strength: Option<f64>,
    /// The noise source, where it is not A1111's default: `CPU` or `NV`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rng: Option<String>,
    /// Further pairs, in order: hires fix, masks, adapters …
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra: Vec<(String, String)>,
    /// The program and its version.
    pub version: String,
}

impl Recipe {
    /// A1111's text, in its order of fields.
    pub fn infotext(&self) -> String {
        let mut fields: Vec<(String, String)> = Vec::new();
        let mut put = |key: &str, value: Option<String>| {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                fields.push((key.to_owned(), value));
            }
        };
        let text = |value: &Option<String>| value.clone();
        put("Steps", Some(self.steps.to_string()));
        put("Sampler", Some(self.sampler.clone()));
        put("Schedule type", text(&self.schedule));
        put("CFG scale", Some(self.cfg_scale.to_string()));
        put("Seed", Some(self.seed.to_string()));
        put("Size", Some(format!("{}x{}", self.width, self.height)));
        put("Model hash", text(&self.model_hash));
        put("Model", Some(self.model.clone()));
        put("VAE", text(&self.vae));
        put("Variation seed", self.variation_seed.map(|seed| seed.to_string()));
        put("Variation seed strength", self.variation_strength.map(|strength| strength.to_string()));
        put("Denoising strength", self.denoising_strength.map(|strength| strength.to_string()));
        put("Clip skip", self.clip_skip.filter(|&skip| skip > 1).map(|skip| skip.to_string()));
        put("RNG", text(&self.rng));
        self.extra.iter().for_each(|(key, value)| put(key, Some(value.clone())));
        put("Version", Some(self.version.clone()));
        let (prompt, negative_prompt) = (self.prompt.clone(), self.negative_prompt.clone());
        Infotext { prompt, negative_prompt, fields }.to_string()
    }

    /// The JSON that goes into a picture beside the infotext.
    pub fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads an infotext, A1111's or ours. What is missing or no number stays at its default; unknown pairs go to
    /// `extra`.
    pub fn from_infotext(text: &str) -> Self {
        let info = Infotext::parse(text);
        let mut recipe = Self { prompt: info.prompt, negative_prompt: info.negative_prompt, ..Self::default() };
        // JSON has no word for what is not finite.
        let number = |value: &str| value.parse().ok().filter(|v: &f64| v.is_finite());
        for (key, value) in info.fields {
            match key.as_str() {
                "Steps" => recipe.steps = value.parse().unwrap_or_default(),
                "Sampler" => recipe.sampler = value,
                "Schedule type" => recipe.schedule = Some(value),
                "CFG scale" => recipe.cfg_scale = number(&value).unwrap_or_default(),
                "Seed" => recipe.seed = value.parse().unwrap_or_default(),
                "Size" => {
                    let (width, height) = value.split_once('x').unwrap_or_default();
                    recipe.width = width.parse().unwrap_or_default();
                    recipe.height = height.parse().unwrap_or_default();
                }
                "Model hash" => recipe.model_hash = Some(value),
                "Model" => recipe.model = value,
                "VAE" => recipe.vae = Some(value),
                "Variation seed" => recipe.variation_seed = value.parse().ok(),
                "Variation seed strength" => recipe.variation_strength = number(&value),
                "Denoising strength" => recipe.denoising_strength = number(&value),
                "Clip skip" => recipe.clip_skip = value.parse().ok(),
                "RNG" => recipe.rng = Some(value),
                "Version" => recipe.version = value,
                _ => recipe.extra.push((key, value)),
            }
        }
        recipe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Recipe {
        Recipe {
            prompt: "a cat, (hat:1.2)\nBREAK more".into(),
            negative_prompt: "ugly".into(),
            steps: 20,
            sampler: "DPM++ 2M".into(),
            schedule: Some("Karras".into()),
            cfg_scale: 7.5,
            seed: u64::MAX,
            width: 512,
            height: 768,
            model: "org/name: v1, final".into(),
            model_hash: Some("0123456789".into()),
            vae: Some("x.safetensors".into()),
            denoising_strength: Some(0.75),
            clip_skip: Some(2),
            variation_seed: Some(5),
            variation_strength: Some(0.1),
            rng: Some("CPU".into()),
            extra: vec![("Hires upscale".into(), "2".into()), ("Lora hashes".into(), "a: 1, b: 2".into())],
            version: "sd-worker 0.1.0".into(),
        }
    }

    #[test]
    fn both_forms_are_read_back() {
        for recipe in [full(), Recipe { steps: 1, sampler: "Euler".into(), ..Recipe::default() }] {
            assert_eq!(Recipe::from_infotext(&recipe.infotext()), recipe, "{}", recipe.infotext());
            assert_eq!(serde_json::from_str::<Recipe>(&recipe.json()).unwrap(), recipe);
        }
    }

    #[test]
    fn the_text_is_the_web_uis() {
        let expected = "a cat, (hat:1.2)\nBREAK more\nNegative prompt: ugly\nSteps: 20, Sampler: DPM++ 2M, Schedule type: Karras, \
CFG scale: 7.5, Seed: 18446744073709551615, Size: 512x768, Model hash: 0123456789, Model: \"org/name: v1, final\", \
VAE: x.safetensors, Variation seed: 5, Variation seed strength: 0.1, Denoising strength: 0.75, Clip skip: 2, RNG: CPU, \
Hires upscale: 2, Lora hashes: \"a: 1, b: 2\", Version: sd-worker 0.1.0";
        assert_eq!(full().infotext(), expected);
        let foreign = Recipe::from_infotext("x\nSteps: many, Size: 1, Seed: -1, ENSD: 31337");
        assert_eq!((foreign.steps, foreign.width, foreign.seed), (0, 0, 0));
        assert_eq!(foreign.extra, [("ENSD".to_owned(), "31337".to_owned())]);
    }
}
