//! What a job starts from: nothing, a picture, or a picture and a mask; and what must stay of it.
//!
//! The order in which noise is drawn is that of the diffusers pipelines, so that a seed gives the same picture: the
//! encoded picture's own noise first, then the initial noise, then the masked picture's.

use super::{
    run::Run,
    tensor::{Extra, Latents},
};
use crate::{
    fault::{Fault, FaultCode},
    jobs::InpaintFill,
};
use backend_api::extra;
use sd_images::{
    CropRegion, Filter, ImageError, LatentMask, Mask, Picture, ResizeMode, crop_region, fill_masked, resize,
};
use sd_sampling::{Plan, noise::BatchNoise};
use std::sync::Arc;

/// The picture as it came, and the part of it that is worked on.
pub(super) struct Source {
    /// As it came, in the job's size.
    pub(super) whole: Arc<Picture>,
    /// Where the work goes, if it is only a part.
    pub(super) region: Option<CropRegion>,
    /// What the VAE sees: the region brought to the job's size, in its own proportions.
    work: Picture,
    /// The mask over the whole picture, 255 = repaint.
    pub(super) mask: Option<Arc<Mask>>,
    /// The mask over the work.
    work_mask: Option<Mask>,
}

impl Source {
    fn new(run: &Run<'_>, init: &Arc<Picture>) -> Result<Source, Fault> {
        let (spec, (width, height)) = (run.spec, (run.spec.width, run.spec.height));
        let mask = spec.mask.as_ref().map(|m| m.mask.clone());
        let region = spec.mask.as_ref().and_then(|m| crop_region(&m.mask, m.only_masked?, width, height));
        let (mut work, work_mask) = match region {
            None => (init.as_ref().clone(), mask.as_deref().cloned()),
            Some(r) => {
                // A region of whole pixels hardly ever has the job's proportions: as in A1111 and diffusers it keeps its
                // own, and the few columns or rows that are missing repeat its edge.
                let part = resize(&init.crop(r.x, r.y, r.width, r.height), width, height, ResizeMode::Fill)?;
                let cut = mask.as_deref().map(|m| region_mask(m, r, width, height));
                (part, cut.transpose()?)
            }
        };
        let cell = run.loaded.desc.vae_factor;
        let whole_cells = spec.mask.as_ref().is_some_and(|m| m.whole_cells);
        let work_mask = work_mask.map(|m| if whole_cells { m.whole_cells(cell) } else { m });
        if let (Some(InpaintFill::Fill), Some(mask)) = (spec.mask.as_ref().map(|m| m.fill), &work_mask) {
            work = fill_masked(&work, mask)?;
        }
        Ok(Source { whole: init.clone(), region, work, mask, work_mask })
    }
}

/// The mask over a region, brought to the job's size as the region is. One without shades stays so: a resized edge would
/// leave a few cells half repainted, where diffusers decides by the half.
fn region_mask(mask: &Mask, r: CropRegion, width: u32, height: u32) -> Result<Mask, ImageError> {
    let part = mask.crop(r.x, r.y, r.width, r.height);
    let resized = part.resize(width, height, ResizeMode::Fill, Filter::Lanczos)?;
    let hard = part.data.iter().all(|value| matches!(value, 0 | 255));
    Ok(if hard { resized.binarize(128) } else { resized })
}

/// The starting point.
pub(super) struct Canvas {
    pub(super) source: Option<Source>,
    fill: InpaintFill,
    /// The encoded picture for the whole batch, in sampler space.
    clean: Vec<f32>,
    /// The initial noise for the whole batch.
    noise: Vec<f32>,
    /// The mask in latent size, 1 = repaint.
    latent_mask: Option<Vec<f32>>,
    /// Whether the network itself takes the mask: then nothing is blended.
    network_masks: bool,
    /// Extras of each picture of the batch.
    extras: Vec<Vec<Extra>>,
    /// Those with an empty picture, for the unguided part of an edit.
    blank: Vec<Vec<Extra>>,
    cells: usize,
}

impl Canvas {
    pub(super) fn new(run: &Run<'_>) -> Result<Canvas, Fault> {
        let spec = run.spec;
        let source = spec.init.as_ref().map(|init| Source::new(run, init)).transpose()?;
        let [_, _, h, w] = run.shape(1);
        Ok(Canvas {
            source,
            fill: spec.mask.as_ref().map_or(InpaintFill::Original, |m| m.fill),
            clean: Vec::new(),
            noise: Vec::new(),
            latent_mask: None,
            network_masks: false,
            extras: vec![Vec::new(); run.n()],
            blank: vec![Vec::new(); run.n()],
            cells: h * w,
        })
    }

    /// The latents that the run begins with.
    pub(super) fn begin(&mut self, run: &Run<'_>, plan: &Plan, noise: &mut BatchNoise) -> Result<Vec<f32>, Fault> {
        let inputs: Vec<&str> = run.loaded.desc.inputs.iter().map(|i| i.as_str()).collect();
        let takes = |name: &str| inputs.contains(&name);
        let Some(source) = &self.source else {
            if takes(extra::MASK) || takes(extra::IMAGE_LATENTS) {
                return Err(Fault::new(FaultCode::Unsupported, "this model works on a picture: send init_image")
                    .about("init_image"));
            }
            return Ok(plan.begin(&noise.initial(), None));
        };
        let [_, channels, height, width] = run.shape(1);
        let n = run.n();
        if takes(extra::IMAGE_LATENTS) {
            // An instruct model starts from noise and sees the picture beside it: its mode, unscaled.
            let start = plan.begin(&noise.initial(), None);
            let (mean, _) = encode(run, &source.work, true)?;
            let item = |data: Vec<f32>| Extra {
                name: extra::IMAGE_LATENTS,
                shape: vec![channels as u64, height as u64, width as u64],
                data: Arc::new(data),
            };
            let (seen, none) = (item(mean.clone()), item(vec![0.0; mean.len()]));
            self.extras.iter_mut().for_each(|e| e.push(seen.clone()));
            self.blank.iter_mut().for_each(|e| e.push(none.clone()));
            return Ok(start);
        }
        self.network_masks = takes(extra::MASK);
        self.latent_mask =
            source.work_mask.as_ref().map(|m| m.latent(width as u32, height as u32, LatentMask::Nearest));
        if self.network_masks && self.latent_mask.is_none() {
            // Without a mask such a model repaints everything.
            self.latent_mask = Some(vec![1.0; height * width]);
        }
        // At full strength a model that takes the mask never sees the picture itself.
        let from_noise = run.spec.strength >= 1.0 && source.mask.is_some();
        // A variation or another size's noise must be the first draw of all.
        let special = run.spec.edit.noise.is_special().then(|| noise.initial());
        if !(self.network_masks && from_noise) {
            let (mean, deviation) = encode(run, &source.work, false)?;
            let drawn = noise.fresh();
            self.clean = (0..n).flat_map(|i| sample(&mean, &deviation, &drawn[i * mean.len()..])).collect();
        }
        self.noise = special.unwrap_or_else(|| noise.fresh());
        if let (Some(mask), false) = (&self.latent_mask, self.network_masks) {
            refill(&mut self.clean, mask, channels, self.fill, &self.noise);
        }
        if self.network_masks {
            let mask = self.latent_mask.clone().unwrap_or_default();
            let everything = Mask::filled(source.work.width, source.work.height, 255);
            let hidden = source.work_mask.as_ref().unwrap_or(&everything).masked_pixels(&source.work)?;
            let (mean, deviation) = encode_pixels(run, hidden, &source.work, false)?;
            let drawn = noise.fresh();
            let mask = Extra { name: extra::MASK, shape: vec![1, height as u64, width as u64], data: Arc::new(mask) };
            for (i, extras) in self.extras.iter_mut().enumerate() {
                let data = sample(&mean, &deviation, &drawn[i * mean.len()..]);
                let shape = vec![channels as u64, height as u64, width as u64];
                extras.extend([mask.clone(), Extra { name: extra::MASKED_LATENTS, shape, data: Arc::new(data) }]);
            }
            self.blank.clone_from(&self.extras);
        }
        let pure = from_noise && self.fill != InpaintFill::LatentNothing;
        Ok(plan.begin(&self.noise, (!pure && !self.clean.is_empty()).then_some(&self.clean)))
    }

    /// Forgets the network's inputs: the next model has none of its own.
    pub(super) fn forget_inputs(&mut self) {
        self.extras.iter_mut().chain(&mut self.blank).for_each(Vec::clear);
    }

    /// After a step: where the mask keeps, the picture comes back at the step's noise level.
    pub(super) fn keep(&self, x: &mut [f32], signal: f32, noise: f32) {
        let (Some(mask), false) = (&self.latent_mask, self.network_masks) else { return };
        if self.clean.len() != x.len() {
            return;
        }
        for (i, value) in x.iter_mut().enumerate() {
            let repaint = mask[i % self.cells];
            let kept = signal * self.clean[i] + noise * self.noise[i];
            *value = repaint * *value + (1.0 - repaint) * kept;
        }
    }

    /// The extras of one picture of the batch.
    pub(super) fn extras(&self, shared: &Arc<Vec<Extra>>, image: usize, blank: bool) -> Arc<Vec<Extra>> {
        let own = if blank { &self.blank[image] } else { &self.extras[image] };
        if own.is_empty() {
            return shared.clone();
        }
        Arc::new(shared.iter().chain(own).cloned().collect())
    }
}

/// Mean and deviation of one encoded picture, in the run's latent size.
pub(super) fn encode(run: &Run<'_>, picture: &Picture, raw: bool) -> Result<(Vec<f32>, Vec<f32>), Fault> {
    let pixels = picture.rgb.iter().map(|v| f32::from(*v) / 255.0).collect();
    encode_pixels(run, pixels, picture, raw)
}

/// The same for values of the picture's size.
fn encode_pixels(run: &Run<'_>, pixels: Vec<f32>, picture: &Picture, raw: bool) -> Result<(Vec<f32>, Vec<f32>), Fault> {
    let (height, width) = (picture.height as usize, picture.width as usize);
    let moments: Latents = run.device.encode(pixels, 1, height, width, raw, &run.until.stop)?;
    run.check()?;
    let [_, planes, h, w] = moments.shape;
    let [_, _, to_h, to_w] = run.shape(1);
    let data = if (h, w) == (to_h, to_w) {
        moments.data
    } else {
        sd_images::resize_latents(&moments.data, planes, (h, w), (to_h, to_w), sd_images::LatentResize::Bilinear)?
    };
    let half = data.len() / 2;
    Ok((data[..half].to_vec(), data[half..].to_vec()))
}

/// Draws from what the VAE says a picture's latents are.
pub(super) fn sample(mean: &[f32], deviation: &[f32], noise: &[f32]) -> Vec<f32> {
    mean.iter().zip(deviation).zip(noise).map(|((m, d), n)| m + d * n).collect()
}

/// Puts noise or nothing under the mask.
fn refill(clean: &mut [f32], mask: &[f32], channels: usize, fill: InpaintFill, noise: &[f32]) {
    if !matches!(fill, InpaintFill::LatentNoise | InpaintFill::LatentNothing) {
        return;
    }
    debug_assert_eq!(clean.len() % (mask.len() * channels), 0);
    for (i, value) in clean.iter_mut().enumerate() {
        let repaint = mask[i % mask.len()];
        let under = if fill == InpaintFill::LatentNoise { noise[i] } else { 0.0 };
        *value = repaint * under + (1.0 - repaint) * *value;
    }
}
