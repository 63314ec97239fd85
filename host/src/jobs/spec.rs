//! What a job is asked to do, checked and complete: every default is filled in, every picture decoded.

use super::{EditSpec, SizeIds};
use sd_images::{Mask, Picture};
use std::{sync::Arc, time::Duration};

/// The kind of work. The text forms are the hive's operation names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Operation {
    /// Text to picture.
    #[default]
    Generation,
    /// Picture and text to picture.
    Transform,
    /// Picture, mask and text to picture.
    Inpaint,
    /// Picture to a larger picture, without a model for drawing.
    Upscale,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 4] = [Self::Generation, Self::Transform, Self::Inpaint, Self::Upscale];

    /// The operation of a wire name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|o| o.as_str() == text)
    }

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Generation => "image_generation",
            Operation::Transform => "image_transform",
            Operation::Inpaint => "image_inpaint",
            Operation::Upscale => "image_upscale",
        }
    }
}

impl From<Operation> for crate::telemetry::Kind {
    fn from(operation: Operation) -> Self {
        match operation {
            Operation::Generation => Self::Generation,
            Operation::Transform => Self::Transform,
            Operation::Inpaint => Self::Inpaint,
            Operation::Upscale => Self::Other,
        }
    }
}

/// What happens to a job when the last reader of its stream goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDisconnect {
    /// It runs on; the result can be fetched later.
    #[default]
    Keep,
    /// It is cancelled.
    Cancel,
}

/// The file format of the results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OutputFormat {
    /// Lossless, with the recipe in a text chunk.
    #[default]
    Png,
    /// With a quality of 1–100.
    Jpeg(u8),
    /// WebP with a quality of 1–100; 100 is lossless.
    Webp(u8),
}

impl OutputFormat {
    /// The media type.
    pub fn media_type(self) -> &'static str {
        match self {
            OutputFormat::Png => "image/png",
            OutputFormat::Jpeg(_) => "image/jpeg",
            OutputFormat::Webp(_) => "image/webp",
        }
    }

    /// The file name extension.
    pub fn extension(self) -> &'static str {
        match self {
            OutputFormat::Png => "png",
            OutputFormat::Jpeg(_) => "jpeg",
            OutputFormat::Webp(_) => "webp",
        }
    }
}

/// How a picture of another size is brought to the job's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResizeMode {
    /// Scaled in each direction on its own.
    #[default]
    Stretch,
    /// Scaled to cover, the rest cut away.
    Crop,
    /// Scaled to fit, the rest filled from the edge.
    Fill,
    /// Stretched as latents, after encoding.
    Latent,
}

/// What stands under the mask before the work begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InpaintFill {
    /// The colours around it, blurred inwards.
    Fill,
    /// The picture as it is.
    #[default]
    Original,
    /// Noise in latent space.
    LatentNoise,
    /// Zeros in latent space.
    LatentNothing,
}

/// A mask and how it is used. White (255) = repaint.
#[derive(Debug, Clone)]
pub struct MaskSpec {
    /// The job's size; 255 = repaint.
    pub mask: Arc<Mask>,
    /// What stands under it at first.
    pub fill: InpaintFill,
    /// Work on the mask's surroundings only, with this padding in pixels.
    pub only_masked: Option<u32>,
    /// By how many pixels the mask's edge was softened: told in the recipe.
    pub blur: u32,
    /// Whether the mask came the other way round: told in the recipe.
    pub inverted: bool,
    /// A latent cell is repainted as soon as one of its pixels is; else its upper left pixel decides, as in diffusers.
    pub whole_cells: bool,
}

/// Another model that finishes the pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct Refiner {
    /// Its catalogue name.
    pub model: String,
    /// The part of the training schedule after which it takes over, above 0 and below 1.
    pub switch_at: f64,
}

/// A job's request.
#[derive(Debug, Clone, Default)]
pub struct JobSpec {
    /// The kind of work.
    pub operation: Operation,
    /// The model's catalogue name.
    pub model: String,
    /// What to paint.
    pub prompt: String,
    /// What not to paint.
    pub negative_prompt: String,
    /// Width in pixels, a multiple of 8.
    pub width: u32,
    /// Height in pixels, a multiple of 8.
    pub height: u32,
    /// Denoising steps.
    pub steps: u32,
    /// Classifier-free guidance; 1 = without.
    pub guidance_scale: f32,
    /// How far the guided prediction's deviation is brought back, 0–1.
    pub guidance_rescale: f32,
    /// The part of the steps, as fractions, in which guidance applies.
    pub guidance_interval: (f32, f32),
    /// Guidance towards the picture, for models that edit by instruction.
    pub image_guidance_scale: f32,
    /// The first picture's seed; the others follow.
    pub seed: u64,
    /// Pictures to make.
    pub n: u32,
    /// The sampler's canonical name.
    pub sampler: String,
    /// The schedule's canonical name.
    pub schedule: String,
    /// The sampler's numbers: stochasticity and churn.
    pub sampling: sd_sampling::Options,
    /// The noise levels themselves, in place of schedule and steps; falling, the last one included.
    pub sigmas: Option<Vec<f64>>,
    /// Where noise comes from: `cpu` as PyTorch draws on the CPU, `philox` as on a GPU.
    pub rng: sd_sampling::noise::Rng,
    /// Text encoder layers to skip, in A1111's count (1 = none); `None` = the model's own.
    pub clip_skip: Option<u32>,
    /// How emphasis is applied: `a1111`, `no_norm`, `comfy`, `none`.
    pub emphasis: &'static str,
    /// What happens to prompts over one chunk.
    pub overflow: sd_prompt::Overflow,
    /// How much of the picture is redone, 0–1. Double precision: it decides how many steps are run.
    pub strength: f64,
    /// Another model that finishes the pictures.
    pub refiner: Option<Refiner>,
    /// What SDXL is told of sizes: with the prompt and with the negative prompt.
    pub sizes: SizeIds,
    /// The picture to start from, already in the job's size unless [`EditSpec::latent_resize`].
    pub init: Option<Arc<Picture>>,
    /// Where to paint.
    pub mask: Option<MaskSpec>,
    /// The results' file format.
    pub format: OutputFormat,
    /// Whether the files carry their recipe.
    pub metadata: bool,
    /// Send a preview every so many steps; 0 = never.
    pub preview_every: u32,
    /// What a lost reader means.
    pub on_disconnect: OnDisconnect,
    /// The longest run time.
    pub timeout: Duration,
    /// Higher runs earlier, −10 to 10.
    pub priority: i8,
    /// What goes beyond one plain run.
    pub edit: EditSpec,
    /// Where the end is told, checked against the operator's rules.
    pub webhook: Option<String>,
}

impl JobSpec {
    /// The models that the job has in memory while it runs, its own last.
    pub fn models(&self) -> impl Iterator<Item = &str> {
        let own = match &self.edit.upscale {
            Some(upscale) => upscale.upscaler.model(),
            None => Some(self.model.as_str()),
        };
        let refiner = self.refiner.as_ref().map(|r| r.model.as_str());
        let between = self.edit.hires.as_ref().and_then(|hires| hires.upscaler.model());
        [refiner, between, own].into_iter().flatten()
    }

    /// Whether the job starts from a picture.
    pub fn has_picture(&self) -> bool {
        self.init.is_some()
    }
}
