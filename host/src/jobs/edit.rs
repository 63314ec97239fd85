//! What goes beyond one plain run: the noise of a second seed, a canvas that was made larger, a second pass.

use super::{JobSpec, OnDisconnect, Operation, OutputFormat, SizeIds};
use crate::upscalers::Upscaler;
use sd_sampling::noise::{ImageSeed, Rng};
use std::{sync::Arc, time::Duration};

/// Wishes that most jobs do not have.
#[derive(Debug, Clone, Default)]
pub struct EditSpec {
    /// Where the noise comes from besides the seed.
    pub noise: NoiseSpec,
    /// The picture is brought to the job's size as latents: it comes in a size of its own.
    pub latent_resize: bool,
    /// Width and height of the finished pictures where the canvas had to be rounded up to whole cells on its right and
    /// lower side.
    pub trim: Option<(u32, u32)>,
    /// A second pass in a larger size.
    pub hires: Option<Arc<Hires>>,
    /// What enlarges the picture of an [`Operation::Upscale`], and what is known of how that picture was made.
    pub upscale: Option<Upscale>,
}

/// How a picture is enlarged.
#[derive(Debug, Clone)]
pub struct Upscale {
    /// The means.
    pub upscaler: Upscaler,
    /// The recipe inside the picture that came.
    pub recipe: Option<String>,
}

/// The second pass of a job: the first one's pictures are enlarged and redone in part (A1111's "hires. fix").
#[derive(Debug, Clone)]
pub struct Hires {
    /// Width of the finished pictures in pixels.
    pub width: u32,
    /// Their height.
    pub height: u32,
    /// How the first pass's result is enlarged.
    pub upscaler: Upscaler,
    /// Steps of the second pass's schedule, of which `strength` says how many are run.
    pub steps: u32,
    /// How much is redone, 0–1.
    pub strength: f64,
    /// The sampler's canonical name.
    pub sampler: String,
    /// The schedule's canonical name.
    pub schedule: String,
    /// The sampler's numbers.
    pub sampling: sd_sampling::Options,
    /// What to paint.
    pub prompt: String,
    /// What not to paint.
    pub negative_prompt: String,
    /// Classifier-free guidance.
    pub guidance_scale: f32,
}

impl Hires {
    /// The job that the second pass of `first` is.
    pub fn pass(&self, first: &JobSpec) -> JobSpec {
        JobSpec {
            operation: Operation::Transform,
            width: self.width,
            height: self.height,
            steps: self.steps,
            strength: self.strength,
            sampler: self.sampler.clone(),
            schedule: self.schedule.clone(),
            sampling: self.sampling.clone(),
            sigmas: None,
            prompt: self.prompt.clone(),
            negative_prompt: self.negative_prompt.clone(),
            guidance_scale: self.guidance_scale,
            edit: EditSpec { hires: None, ..first.edit.clone() },
            ..first.clone()
        }
    }
}

/// Where the noise of a job comes from besides its seed, in A1111's terms.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoiseSpec {
    /// The first picture's variation seed; the others follow.
    pub variation_seed: u64,
    /// How much of the variation is mixed in, 0–1.
    pub variation_strength: f64,
    /// Width and height in pixels of the picture whose composition the seed is to keep.
    pub resize_from: Option<(u32, u32)>,
}

impl NoiseSpec {
    /// Whether the noise is anything but that of the plain seeds.
    pub fn is_special(&self) -> bool {
        self.variation_strength > 0.0 || self.resize_from.is_some()
    }
}

impl JobSpec {
    /// A job that draws nothing: its picture is brought to a size. `model` names what does it.
    pub fn without_drawing(
        operation: Operation,
        model: String,
        picture: Arc<sd_images::Picture>,
        (width, height): (u32, u32),
    ) -> JobSpec {
        JobSpec {
            operation,
            model,
            prompt: String::new(),
            negative_prompt: String::new(),
            width,
            height,
            steps: 1,
            guidance_scale: 1.0,
            guidance_rescale: 0.0,
            guidance_interval: (0.0, 1.0),
            image_guidance_scale: 1.0,
            seed: 0,
            n: 1,
            sampler: String::new(),
            schedule: String::new(),
            sampling: sd_sampling::Options::default(),
            sigmas: None,
            refiner: None,
            rng: Rng::default(),
            clip_skip: None,
            emphasis: "none",
            overflow: sd_prompt::Overflow::Chunk,
            strength: 0.0,
            sizes: SizeIds::plain(height, width),
            init: Some(picture),
            mask: None,
            format: OutputFormat::default(),
            metadata: true,
            preview_every: 0,
            on_disconnect: OnDisconnect::default(),
            timeout: Duration::ZERO,
            priority: 0,
            webhook: None,
            edit: EditSpec::default(),
        }
    }

    /// The seed of a picture. With a variation all pictures share the job's own, as in A1111.
    pub fn picture_seed(&self, index: usize) -> u64 {
        if self.edit.noise.variation_strength > 0.0 { self.seed } else { self.seed.wrapping_add(index as u64) }
    }

    /// The variation seed of a picture, if a variation was asked for.
    pub fn variation_seed(&self, index: usize) -> Option<u64> {
        let noise = &self.edit.noise;
        (noise.variation_strength > 0.0).then(|| noise.variation_seed.wrapping_add(index as u64))
    }

    /// Where the noise of each picture comes from. `factor`: pixels per latent cell.
    pub fn image_seeds(&self, factor: u32) -> Vec<ImageSeed> {
        let noise = &self.edit.noise;
        let count = self.n as usize;
        let mut seeds = ImageSeed::variations(self.seed, noise.variation_seed, noise.variation_strength, count);
        let cells = |pixels: u32| (pixels / factor.max(1)) as usize;
        seeds.iter_mut().for_each(|s| s.resize_from = noise.resize_from.map(|(w, h)| (cells(h), cells(w))));
        seeds
    }

    /// Width and height of the finished pictures.
    pub fn finished_size(&self) -> (u32, u32) {
        let second = self.edit.hires.as_ref().map(|h| (h.width, h.height));
        self.edit.trim.or(second).unwrap_or((self.width, self.height))
    }
}
