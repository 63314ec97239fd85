//! A loaded upscaler and its session.

use crate::{
    Error, Result,
    models::{Builder, rrdb::Rrdb},
    ops::{Activation, Ops, cpu::GiveBack},
    weights::{Part, Progress, Vars},
};
use backend_api::{
    AbiError, Ctl, MemReport, ModelPlan, ModelSource, Param, StepStats, Task, TensorMut, TensorRef, UpscalerDesc,
    author::{self, system_memory},
    role,
};
use rayon::ThreadPool;
use std::{sync::Arc, time::Instant};

/// The side of a tile in input pixels: large enough that the overlap is little work, small enough for any machine.
const TILE: u32 = 128;
/// Input pixels around a tile from which practically all of an output pixel comes.
const OVERLAP: u32 = 16;

/// Whether a source is an upscaler's.
pub(crate) fn is_upscaler(source: &ModelSource) -> bool {
    source.files.iter().any(|f| f.key.as_str() == role::UPSCALER)
}

fn part(source: &ModelSource) -> Result<Part> {
    Part::open(source, role::UPSCALER)?
        .ok_or_else(|| Error::MissingPart { part: role::UPSCALER.to_owned(), what: "weights" })
}

/// What loading would need, from the header alone.
pub(crate) fn plan(source: &ModelSource) -> Result<ModelPlan> {
    let bytes = part(source)?.f32_bytes();
    Ok(ModelPlan {
        task: Task::UPSCALE,
        weight_bytes: bytes,
        peak_bytes: bytes + (256 << 20),
        params: vec![Param::new("precision", "f32")].into(),
    })
}

/// The network and what runs it.
pub(crate) struct Enlarger {
    ops: Arc<dyn Ops>,
    pool: Arc<ThreadPool>,
    net: Rrdb,
    weights: u64,
    /// Last: when it is dropped, all else has been.
    _memory: GiveBack,
}

impl Enlarger {
    pub(crate) fn load(source: &ModelSource, ops: Arc<dyn Ops>, pool: Arc<ThreadPool>, ctl: &Ctl) -> Result<Self> {
        let part = part(source)?;
        let weights = part.f32_bytes();
        let (_, free) = system_memory();
        if free > 0 && weights > free {
            return Err(Error::Memory { what: "loading the upscaler", needed: weights >> 20, free: free >> 20 });
        }
        let progress = Progress::new(ctl, weights);
        let net = Rrdb::new(&Builder::new(ops.as_ref(), Vars::new(&part, &progress)))?;
        part.check_unchanged()?;
        progress.finish();
        Ok(Enlarger { ops, pool: pool.clone(), net, weights, _memory: GiveBack(pool) })
    }

    /// `[h, w, 3]` in 0 … 1 to `[h·f, w·f, 3]`.
    fn upscale(&self, image: &TensorRef<'_>, out: [usize; 3], ctl: &Ctl) -> Result<Vec<f32>> {
        let ([h, w, colours], factor) = (image.dims::<3>()?, self.net.factor());
        if colours != 3 || h == 0 || w == 0 || out != [h * factor, w * factor, 3] {
            return Err(Error::invalid(format!("a picture {h} × {w} × {colours} becomes {factor} times as large")));
        }
        let (needed, (_, free)) = (self.net.scratch(h, w), system_memory());
        if free > 0 && needed > free {
            return Err(Error::Memory { what: "enlarging", needed: needed >> 20, free: free >> 20 });
        }
        let values = image.to_picture()?;
        let x = Activation::from_vec(values, [1, h, w, 3], self.ops.device())?;
        let mut picture = self.net.forward(self.ops.as_ref(), &x, ctl)?.to_vec()?;
        if picture.iter().any(|v| !v.is_finite()) {
            return Err(Error::Output("upscaler"));
        }
        picture.iter_mut().for_each(|v| *v = v.clamp(0.0, 1.0));
        Ok(picture)
    }
}

/// A loaded upscaler as the host holds it.
pub(crate) struct LoadedUpscaler(pub(crate) Arc<Enlarger>);

impl author::Model for LoadedUpscaler {
    fn memory(&self) -> MemReport {
        let (device_total, device_free) = system_memory();
        MemReport { device_total, device_free, weights: self.0.weights, scratch: 0 }
    }

    fn upscaler(&self, _options: &[Param]) -> Result<(UpscalerDesc, Box<dyn author::Upscaler>), AbiError> {
        let factor = self.0.net.factor() as u32;
        let desc = UpscalerDesc { factor, tile: TILE, overlap: OVERLAP, params: Vec::new().into() };
        Ok((desc, Box::new(Session(self.0.clone()))))
    }
}

struct Session(Arc<Enlarger>);

impl author::Upscaler for Session {
    fn upscale(&mut self, image: TensorRef<'_>, mut out: TensorMut<'_>, ctl: &Ctl) -> Result<StepStats, AbiError> {
        let (start, wanted) = (Instant::now(), out.dims::<3>()?);
        let values = self.0.pool.install(|| self.0.upscale(&image, wanted, ctl))?;
        out.write_picture(&values)?;
        Ok(StepStats::since(start))
    }
}
