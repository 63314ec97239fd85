//! The noise of a batch: one generator per image, in the order in which A1111 and diffusers draw.

use super::brownian::BrownianTree;
use super::{Generator, Rng, slerp};
use crate::NoiseRequest;

/// Shape of one image's latents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoiseShape {
    /// Latent channels, 4 for Stable Diffusion.
    pub channels: usize,
    /// Height in latent cells, an eighth of the picture's for Stable Diffusion.
    pub height: usize,
    /// Width in latent cells.
    pub width: usize,
}

impl NoiseShape {
    /// Number of values of one image.
    #[must_use]
    pub fn len(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Whether there is nothing to fill.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where the noise of one image comes from.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ImageSeed {
    /// Seed of the image.
    pub seed: u64,
    /// Seed of the variation that is mixed in.
    pub subseed: u64,
    /// How much of the variation, 0 (none) to 1 (all).
    pub subseed_strength: f64,
    /// Height and width (in latent cells) of the picture whose composition is to be kept when another size is made
    /// from the same seed (A1111's "resize seed from").
    pub resize_from: Option<(usize, usize)>,
}

impl ImageSeed {
    /// The plain seeds of a batch: `seed`, `seed + 1`, … (modulo 2⁶⁴).
    #[must_use]
    pub fn batch(seed: u64, count: usize) -> Vec<Self> {
        (0..count).map(|i| Self { seed: seed.wrapping_add(i as u64), ..Self::default() }).collect()
    }

    /// Seeds of a batch with a variation. As in A1111 the main seed stays the same for all images when a variation is
    /// asked for, and the subseed counts up instead.
    #[must_use]
    pub fn variations(seed: u64, subseed: u64, subseed_strength: f64, count: usize) -> Vec<Self> {
        let varied = subseed_strength != 0.0;
        (0..count as u64)
            .map(|i| Self {
                seed: if varied { seed } else { seed.wrapping_add(i) },
                subseed: subseed.wrapping_add(i),
                subseed_strength,
                resize_from: None,
            })
            .collect()
    }
}

/// One generator per image of a batch.
pub struct BatchNoise {
    rng: Rng,
    shape: NoiseShape,
    images: Vec<(ImageSeed, Generator)>,
    /// One path per image, made when a sampler first asks for one.
    paths: Vec<BrownianTree>,
}

impl BatchNoise {
    /// Generators for the images of a batch, as `manual_seed` leaves them.
    #[must_use]
    pub fn new(rng: Rng, shape: NoiseShape, seeds: &[ImageSeed]) -> Self {
        let images = seeds.iter().map(|image| (*image, rng.seeded(image.seed))).collect();
        Self { rng, shape, images, paths: Vec::new() }
    }

    /// The noise the batch starts from, `[images · channels · height · width]`. Call it once, before any other draw.
    pub fn initial(&mut self) -> Vec<f32> {
        let (rng, shape) = (self.rng, self.shape);
        self.images.iter_mut().flat_map(|(seed, generator)| first(rng, shape, seed, generator)).collect()
    }

    /// Fresh noise for the whole batch: the next draw of every image's generator.
    pub fn fresh(&mut self) -> Vec<f32> {
        let len = self.shape.len();
        self.images.iter_mut().flat_map(|(_, generator)| generator.randn(len)).collect()
    }

    /// What a sampler asks for.
    pub fn sample(&mut self, request: NoiseRequest) -> Vec<f32> {
        match request {
            NoiseRequest::Fresh { .. } => self.fresh(),
            NoiseRequest::Path { from, to, lowest, highest, .. } => {
                if self.paths.is_empty() {
                    let (rng, len) = (self.rng, self.shape.len());
                    let path =
                        |(image, _): &(ImageSeed, Generator)| BrownianTree::new(rng, image.seed, len, lowest, highest);
                    self.paths = self.images.iter().map(path).collect();
                }
                self.paths.iter_mut().flat_map(|path| path.increment(from, to)).collect()
            }
        }
    }
}

/// The first draw of an image: A1111's `ImageRNG.first`.
fn first(rng: Rng, shape: NoiseShape, seed: &ImageSeed, generator: &mut Generator) -> Vec<f32> {
    let small = match seed.resize_from {
        Some((height, width)) if height > 0 && width > 0 => NoiseShape { height, width, ..shape },
        _ => shape,
    };
    let resized = small != shape;
    let mut noise = if resized { rng.seeded(seed.seed).randn(small.len()) } else { generator.randn(shape.len()) };
    if seed.subseed_strength != 0.0 {
        let variation = rng.seeded(seed.subseed).randn(small.len());
        noise = slerp(seed.subseed_strength, &noise, &variation, small);
    }
    if resized {
        let mut whole = generator.randn(shape.len());
        paste_centred(&noise, small, &mut whole, shape);
        noise = whole;
    }
    noise
}

/// Puts the middle of `from` onto the middle of `to`.
fn paste_centred(from: &[f32], small: NoiseShape, to: &mut [f32], shape: NoiseShape) {
    // Along one axis: where to read, where to write, how many. Halves round down as Python's `//` does.
    let overlap = |from: usize, to: usize| {
        if to >= from {
            (0, (to - from) / 2, from)
        } else {
            ((from - to).div_ceil(2), 0, from - 2 * (from - to).div_ceil(2))
        }
    };
    let (from_y, to_y, height) = overlap(small.height, shape.height);
    let (from_x, to_x, width) = overlap(small.width, shape.width);
    for c in 0..shape.channels.min(small.channels) {
        for y in 0..height {
            let source = (c * small.height + from_y + y) * small.width + from_x;
            let target = (c * shape.height + to_y + y) * shape.width + to_x;
            to[target..target + width].copy_from_slice(&from[source..source + width]);
        }
    }
}
