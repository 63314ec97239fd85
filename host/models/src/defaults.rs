//! What a request gets when it does not say: by family, by the model's own scheduler, and by its `sd-worker.json`.

use crate::{config::Fields, error::Result, family::Family, files::Json};

/// What the network predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Prediction {
    /// The noise.
    Epsilon,
    /// The velocity.
    V,
    /// The picture itself.
    Sample,
}

impl Prediction {
    /// diffusers' name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Epsilon => "epsilon",
            Self::V => "v_prediction",
            Self::Sample => "sample",
        }
    }
}

/// The scheduler's facts that decide family and defaults. The sampling code reads the whole text itself.
#[derive(Debug, Clone, PartialEq)]
pub struct SchedulerFacts {
    /// diffusers' class name; empty if the file does not say.
    pub class: String,
    /// What the network predicts.
    pub prediction: Prediction,
    /// `leading`, `trailing` or `linspace`.
    pub spacing: String,
    /// The last training step is pure noise (`rescale_betas_zero_snr`).
    pub zero_terminal_snr: bool,
    /// The solver adds noise in every step (`algorithm_type` of the DPM solvers).
    pub stochastic: bool,
}

impl SchedulerFacts {
    pub(crate) fn parse(json: &Json) -> Result<Self> {
        let fields = Fields::new(json);
        let prediction = match fields.text("prediction_type")?.unwrap_or("epsilon") {
            "epsilon" => Prediction::Epsilon,
            "v_prediction" => Prediction::V,
            "sample" => Prediction::Sample,
            other => {
                return Err(fields
                    .bad("prediction_type", format!("is `{other:.32}`; epsilon, v_prediction or sample are known")));
            }
        };
        let betas = fields.text("beta_schedule")?.unwrap_or("scaled_linear");
        if !matches!(betas, "linear" | "scaled_linear" | "squaredcos_cap_v2") {
            return Err(fields.bad(
                "beta_schedule",
                format!("is `{betas:.32}`; linear, scaled_linear or squaredcos_cap_v2 are known"),
            ));
        }
        for field in ["beta_start", "beta_end"] {
            let value = fields.float(field, 0.01)?;
            if !(0.0..1.0).contains(&value) || value == 0.0 {
                return Err(fields.bad(field, "must be above 0 and below 1"));
            }
        }
        let steps = fields.uint("num_train_timesteps", 1_000)?;
        if !(2..=100_000).contains(&steps) {
            return Err(fields.bad("num_train_timesteps", "must be from 2 to 100000"));
        }
        let class = fields.text("_class_name")?.unwrap_or_default().to_owned();
        if class.starts_with("Flow") {
            return Err(crate::ModelError::UnsupportedModel { what: "a flow-matching model".into() });
        }
        Ok(Self {
            class,
            prediction,
            spacing: fields.text("timestep_spacing")?.unwrap_or("leading").to_owned(),
            zero_terminal_snr: fields.bool("rescale_betas_zero_snr", false)?,
            stochastic: fields.text("algorithm_type")?.is_some_and(|kind| kind.starts_with("sde")),
        })
    }

    /// The sampler that the model's makers chose, by its name in the table of samplers.
    #[must_use]
    pub fn sampler(&self) -> &'static str {
        match self.class.as_str() {
            "PNDMScheduler" => "plms",
            "EulerDiscreteScheduler" => "euler",
            "EulerAncestralDiscreteScheduler" => "euler_a",
            "HeunDiscreteScheduler" => "heun",
            "KDPM2DiscreteScheduler" => "dpm2",
            "KDPM2AncestralDiscreteScheduler" => "dpm2_a",
            "LMSDiscreteScheduler" => "lms",
            "DPMSolverMultistepScheduler" if self.stochastic => "dpmpp_2m_sde",
            "DPMSolverMultistepScheduler" => "dpmpp_2m",
            "DPMSolverSinglestepScheduler" => "dpmpp_2s",
            "IPNDMScheduler" => "ipndm",
            "DPMSolverSDEScheduler" => "dpmpp_sde",
            "UniPCMultistepScheduler" => "unipc",
            "DEISMultistepScheduler" => "deis",
            "DDPMScheduler" => "ddpm",
            "LCMScheduler" => "lcm",
            "TCDScheduler" => "tcd",
            _ => "ddim",
        }
    }
}

/// Defaults and needs of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct FamilyDefaults {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Widths and heights must be multiples of this.
    pub multiple_of: u32,
    /// Steps.
    pub steps: u32,
    /// More steps than this bring nothing (distilled models); `None` where more are better.
    pub most_useful_steps: Option<u32>,
    /// Guidance scale (for latent consistency models with a guidance embedding: its input).
    pub guidance: f32,
    /// Guidance towards the given picture (InstructPix2Pix).
    pub image_guidance: Option<f32>,
    /// The sampler of the model's own scheduler.
    pub sampler: String,
    /// Layers of the text encoder to leave out, counted as diffusers does: 0 is the model's own choice.
    pub clip_skip: u32,
    /// Text comes from the layer before the last, without the final norm (SDXL).
    pub penultimate_text: bool,
    /// What the network predicts.
    pub prediction: Prediction,
    /// The model's scheduler starts at pure noise.
    pub zero_terminal_snr: bool,
    /// An absent negative prompt is zeros, not an encoded empty text.
    pub zero_empty_negative: bool,
    /// The time ids hold an aesthetic score in place of the target size (refiner).
    pub aesthetic_score: bool,
    /// Guidance goes in as an embedding, so that a step is one evaluation (`time_cond_proj_dim` of the UNet).
    pub guidance_embedding: Option<u32>,
    /// Pixels of a picture per latent pixel.
    pub vae_downscale: u32,
    /// Channels of the latents.
    pub latent_channels: u32,
    /// Prompts that show what the model knows, from its `sd-worker.json`.
    pub examples: Vec<String>,
    /// The colours of previews, from its `sd-worker.json`: red, green, blue (−1 to 1) for each of four latent channels, and
    /// what is added. Absent = the family's.
    pub preview_factors: Option<[[f32; 3]; 5]>,
}

/// What [`FamilyDefaults::new`] starts from.
pub(crate) struct Seed<'a> {
    pub(crate) family: Family,
    pub(crate) scheduler: &'a SchedulerFacts,
    /// The UNet's own latent size.
    pub(crate) sample_size: u64,
    pub(crate) vae_downscale: u64,
    /// How often the UNet halves its input.
    pub(crate) unet_halvings: usize,
    pub(crate) latent_channels: u64,
    pub(crate) time_cond: Option<u64>,
    /// `force_zeros_for_empty_prompt` of the model index, if it says.
    pub(crate) force_zeros: Option<bool>,
    /// `requires_aesthetics_score` of the model index, if it says.
    pub(crate) aesthetic_score: Option<bool>,
}

impl FamilyDefaults {
    pub(crate) fn new(seed: &Seed<'_>) -> Self {
        let family = seed.family;
        let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        // SDXL-Turbo keeps SDXL's sample_size of 64, which is its true size; the others say theirs.
        let side = narrow(seed.sample_size.saturating_mul(seed.vae_downscale).clamp(8, 4_096));
        // The UNet must be able to halve the latents; 8 is diffusers' own demand.
        let multiple_of = narrow(seed.vae_downscale << seed.unet_halvings.min(4)).max(8);
        let (steps, most_useful_steps, guidance) = match family {
            Family::SdTurbo | Family::SdxlTurbo => (4, Some(4), 0.0),
            // Without an embedding the distilled model takes no guidance at all.
            Family::Lcm | Family::LcmXl => (4, Some(8), if seed.time_cond.is_some() { 8.5 } else { 1.0 }),
            Family::Sdxl | Family::SdxlInpaint | Family::SdxlRefiner | Family::SdxlPix2Pix => (30, None, 5.0),
            Family::Ssd1b => (30, None, 7.5),
            _ => (20, None, 7.5),
        };
        let image_guidance = match family {
            Family::Pix2Pix | Family::SdxlPix2Pix => Some(1.5),
            _ => None,
        };
        Self {
            width: side,
            height: side,
            multiple_of,
            steps,
            most_useful_steps,
            guidance,
            image_guidance,
            sampler: if family.is_lcm() { "lcm".into() } else { seed.scheduler.sampler().into() },
            clip_skip: 0,
            penultimate_text: family.is_xl(),
            prediction: seed.scheduler.prediction,
            zero_terminal_snr: seed.scheduler.zero_terminal_snr,
            zero_empty_negative: seed.force_zeros.unwrap_or(family.is_xl() && family != Family::SdxlRefiner),
            aesthetic_score: seed.aesthetic_score.unwrap_or(family == Family::SdxlRefiner),
            guidance_embedding: seed.time_cond.map(narrow),
            vae_downscale: narrow(seed.vae_downscale),
            latent_channels: narrow(seed.latent_channels),
            examples: Vec::new(),
            preview_factors: None,
        }
    }

    /// Applies a model's own wishes from the `sd-worker.json` in its folder.
    pub(crate) fn apply(&mut self, json: &Json) -> Result<()> {
        let fields = Fields::new(json);
        for (field, slot) in [("width", &mut self.width), ("height", &mut self.height)] {
            if let Some(size) = fields.uint_opt(field)? {
                let size = u32::try_from(size).unwrap_or(u32::MAX);
                if size > 4_096 || size % self.multiple_of != 0 {
                    return Err(
                        fields.bad(field, format!("must be a multiple of {} and at most 4096", self.multiple_of))
                    );
                }
                *slot = size;
            }
        }
        match fields.uint_opt("steps")? {
            Some(steps @ 1..=1_000) => self.steps = u32::try_from(steps).unwrap_or(self.steps),
            Some(_) => return Err(fields.bad("steps", "must be from 1 to 1000")),
            None => {}
        }
        let guidance = fields.float("guidance_scale", f64::from(self.guidance))?;
        if !(0.0..=100.0).contains(&guidance) {
            return Err(fields.bad("guidance_scale", "must be from 0 to 100"));
        }
        #[allow(clippy::cast_possible_truncation, reason = "from 0 to 100")]
        {
            self.guidance = guidance as f32;
        }
        if let Some(sampler) = fields.text("sampler")? {
            self.sampler = sampler.chars().take(64).collect();
        }
        self.examples =
            fields.texts("examples", &[])?.into_iter().map(|text| text.chars().take(500).collect()).collect();
        self.preview_factors = fields.table("preview_factors")?;
        Ok(())
    }
}
