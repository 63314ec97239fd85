//! Enlarging pictures: jobs of their own, and the step between the two passes of a picture.
//!
//! A network enlarges by its own factor, tile by tile; a picture that is still too small goes through it again, and the
//! last bit in either direction is resampled.

use super::{
    Engine,
    device::{LoadProgress, Task},
    mount::{Mount, Want},
    pictures,
    session::{Enlarger, Session},
    shelf::Source,
    until::Until,
};
use crate::{
    fault::{Fault, FaultCode},
    jobs::Job,
    upscalers::Upscaler,
};
use backend_api::{ModelSource, Param, role};
use sd_images::{Blend, Filter, Picture, Tile, resample, tiles};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

/// The smallest tile: the description comes from a plugin.
const LEAST_TILE: usize = 32;
/// How often a network is applied at most, as in A1111.
const MOST_ROUNDS: usize = 3;

impl Engine {
    /// A model and, if a job needs one, an upscaler beside it, both held from the same moment on.
    pub(super) fn hold_with_upscaler(
        &self,
        mount: &Arc<Mount>,
        model: &str,
        upscaler: Option<&str>,
        until: &Until,
        progress: &LoadProgress,
    ) -> Result<(Session, Option<Enlarger>), Fault> {
        let (find_model, find_upscaler) =
            (|| self.source(model), || self.upscaler_source(upscaler.unwrap_or_default()));
        let mut wants = vec![Want { key: model, task: Task::Diffusion, find: &find_model }];
        wants.extend(upscaler.map(|key| Want { key, task: Task::Upscaling, find: &find_upscaler }));
        let mut leases = mount.hold(&wants, until, progress)?;
        let enlarger = if upscaler.is_some() { leases.pop().map(Enlarger::new).transpose()? } else { None };
        let lease = leases.pop().ok_or_else(|| Fault::internal("no model came"))?;
        Ok((Session::new(lease)?, enlarger))
    }

    fn hold_upscaler(
        &self,
        mount: &Arc<Mount>,
        name: &str,
        until: &Until,
        progress: &LoadProgress,
    ) -> Result<Enlarger, Fault> {
        let find = || self.upscaler_source(name);
        let mut leases = mount.hold(&[Want { key: name, task: Task::Upscaling, find: &find }], until, progress)?;
        Enlarger::new(leases.pop().ok_or_else(|| Fault::internal("no upscaler came"))?)
    }

    fn upscaler_source(&self, name: &str) -> Result<Source, Fault> {
        let found = self.library.upscalers().into_iter().find(|file| file.name == name);
        let gone = || Fault::new(FaultCode::ModelNotFound, "the upscaler is no longer here").about("upscaler");
        let upscaler = found.ok_or_else(gone)?.upscaler?;
        let files = ModelSource {
            name: name.into(),
            files: vec![Param::new(role::UPSCALER, upscaler.path.display())].into(),
            configs: Vec::new().into(),
            options: Vec::new().into(),
        };
        Ok(Source { files, fingerprint: upscaler.fingerprint })
    }
}

/// Runs a job that enlarges a picture.
pub(super) fn job(engine: &Engine, mount: &Arc<Mount>, job: &Arc<Job>, progress: &LoadProgress) -> Result<(), Fault> {
    let (spec, until, began) = (&job.spec, Until::of(job), Instant::now());
    let (Some(init), Some(upscale)) = (&spec.init, &spec.edit.upscale) else {
        return Err(Fault::internal("there is nothing to enlarge"));
    };
    let upscaler = &upscale.upscaler;
    let enlarger = match upscaler {
        Upscaler::Model { name, .. } => Some(engine.hold_upscaler(mount, name, &until, progress)?),
        _ => None,
    };
    job.time(|t| t.load = began.elapsed());
    let since = Instant::now();
    let means = Means { upscaler, enlarger: enlarger.as_ref(), stop: &until.stop };
    let whole = covering(init.size(), (spec.width, spec.height));
    job.set_total(means.calls(init.size(), whole) as u32);
    let mut told = |done, total| {
        job.progress(done, total);
        until.check()
    };
    let picture = means.cover(init, (spec.width, spec.height), &mut told)?;
    job.time(|t| t.denoise = since.elapsed());
    pictures::write_enlarged(job, picture)
}

/// Called after each tile with the number done and the number of all.
pub(super) type OnTile<'a> = dyn FnMut(u32, u32) -> Result<(), Fault> + 'a;

/// What enlarges.
pub(super) struct Means<'a> {
    pub(super) upscaler: &'a Upscaler,
    pub(super) enlarger: Option<&'a Enlarger>,
    pub(super) stop: &'a Arc<AtomicBool>,
}

/// The size in which `from` covers `to`, in its own proportions.
pub(super) fn covering(from: (u32, u32), to: (u32, u32)) -> (u32, u32) {
    let part = |a: u32, b: u32, c: u32| (u64::from(a) * u64::from(b) / u64::from(c.max(1))).min(1 << 20) as u32;
    if u64::from(from.0) * u64::from(to.1) < u64::from(from.1) * u64::from(to.0) {
        (to.0, part(to.0, from.1, from.0).max(to.1))
    } else {
        (part(to.1, from.0, from.1).max(to.0), to.1)
    }
}

impl Means<'_> {
    /// The picture enlarged in its own proportions until it covers the size; what sticks out is cut off on both sides.
    pub(super) fn cover(&self, picture: &Picture, size: (u32, u32), told: &mut OnTile<'_>) -> Result<Picture, Fault> {
        let (wide, high) = covering(picture.size(), size);
        let large = self.enlarge(picture, (wide, high), told)?;
        Ok(large.crop((wide - size.0) / 2, (high - size.1) / 2, size.0, size.1))
    }

    /// The picture in the wanted size.
    fn enlarge(&self, picture: &Picture, size: (u32, u32), told: &mut OnTile<'_>) -> Result<Picture, Fault> {
        let mut picture = picture.clone();
        let (total, mut done) = (self.calls(picture.size(), size) as u32, 0);
        if let Some(enlarger) = self.enlarger {
            for _ in 0..self.rounds(picture.size(), size) {
                picture = self.through(enlarger, &picture, &mut || {
                    done += 1;
                    told(done, total)
                })?;
            }
        }
        if picture.size() == size {
            return Ok(picture);
        }
        let filter = match self.upscaler {
            Upscaler::Pixels(filter) => *filter,
            Upscaler::Model { .. } | Upscaler::Latent(_) => Filter::Lanczos,
        };
        Ok(resample(&picture, size.0, size.1, filter)?)
    }

    /// How often the network is applied: once at least, and again while the picture has less than half of a side.
    fn rounds(&self, from: (u32, u32), to: (u32, u32)) -> usize {
        let Some(factor) = self.enlarger.map(|e| e.desc.factor.max(1)) else { return 0 };
        let (mut side, mut rounds) = (from, 1);
        loop {
            side = (side.0.saturating_mul(factor), side.1.saturating_mul(factor));
            let small = side.0.saturating_mul(2) <= to.0 && side.1.saturating_mul(2) <= to.1;
            if !small || factor == 1 || rounds == MOST_ROUNDS {
                return rounds;
            }
            rounds += 1;
        }
    }

    /// Calls of the network that it will take.
    fn calls(&self, from: (u32, u32), to: (u32, u32)) -> usize {
        let Some(enlarger) = self.enlarger else { return 0 };
        let factor = enlarger.desc.factor.max(1);
        let mut side = from;
        let mut calls = 0;
        for _ in 0..self.rounds(from, to) {
            calls += cut(enlarger, side).len();
            side = (side.0 * factor, side.1 * factor);
        }
        calls
    }

    /// One pass through the network, tile by tile.
    fn through(
        &self,
        enlarger: &Enlarger,
        picture: &Picture,
        told: &mut dyn FnMut() -> Result<(), Fault>,
    ) -> Result<Picture, Fault> {
        let factor = enlarger.desc.factor.max(1) as usize;
        let (width, height) = (picture.width as usize, picture.height as usize);
        let mut blend = Blend::new(width * factor, height * factor);
        for tile in cut(enlarger, picture.size()) {
            if self.stop.load(Ordering::Acquire) {
                return Err(Fault::cancelled());
            }
            let Tile { x, y, width, height } = tile;
            let part = picture.crop(x as u32, y as u32, width as u32, height as u32);
            let pixels = part.rgb.iter().map(|v| f32::from(*v) / 255.0).collect();
            let large = enlarger.upscale(pixels, height, width, self.stop)?;
            let place = Tile { x: x * factor, y: y * factor, width: width * factor, height: height * factor };
            blend.add(&large, place, 2 * overlap(enlarger) * factor);
            told()?;
        }
        Ok(Picture::from_unit((width * factor) as u32, (height * factor) as u32, &blend.finish()))
    }
}

/// Pixels around a tile on which its output depends: neighbours overlap by twice as many.
fn overlap(enlarger: &Enlarger) -> usize {
    (enlarger.desc.overlap as usize).min(side(enlarger) / 4)
}

fn side(enlarger: &Enlarger) -> usize {
    (enlarger.desc.tile as usize).max(LEAST_TILE)
}

fn cut(enlarger: &Enlarger, (width, height): (u32, u32)) -> Vec<Tile> {
    tiles(width as usize, height as usize, side(enlarger), 2 * overlap(enlarger))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_covered_in_its_own_proportions() {
        assert_eq!(covering((64, 64), (128, 128)), (128, 128));
        assert_eq!(covering((64, 32), (128, 128)), (256, 128));
        assert_eq!(covering((32, 64), (128, 128)), (128, 256));
        assert_eq!(covering((30, 70), (50, 90)), (50, 116));
        assert_eq!(covering((7, 9), (8, 8)), (8, 10));
    }
}
