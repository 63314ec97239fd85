//! A lane's hand on one model: it stays on its device while the handle lives.

use super::{
    device::{Call, Cond, Desc, LoadedModel, Predict, TextKey},
    mount::Lease,
    tensor::{Item, Latents},
};
use crate::fault::{Fault, FaultCode};
use backend_api::UpscalerDesc;
use std::sync::{Arc, atomic::AtomicBool};

type Stop = Arc<AtomicBool>;

fn other_kind() -> Fault {
    Fault::new(FaultCode::Unsupported, "this model is of another kind").about("model")
}

/// A model for denoising.
#[derive(Debug)]
pub struct Session {
    /// What it is.
    pub loaded: LoadedModel,
    lease: Lease,
}

impl Session {
    pub(super) fn new(lease: Lease) -> Result<Session, Fault> {
        let Desc::Diffusion(desc) = &lease.entry.desc else { return Err(other_kind()) };
        let loaded = LoadedModel {
            key: lease.entry.key.clone(),
            desc: desc.clone(),
            memory: lease.entry.memory,
            tokens: lease.entry.tokens.clone(),
        };
        Ok(Session { loaded, lease })
    }

    /// Encodes a text, or finds it encoded.
    pub fn text(&self, key: TextKey, stop: &Stop) -> Result<Cond, Fault> {
        self.lease.call(Some(stop), |reply| Call::Text { key, stop: stop.clone(), reply })
    }

    /// Runs the denoiser once for a batch.
    pub fn predict(&self, x: Latents, items: Vec<Item>, stop: &Stop) -> Result<Latents, Fault> {
        self.lease.call(Some(stop), |reply| Call::Predict(Predict { x, items, stop: stop.clone(), reply }))
    }

    /// Decodes latents to RGB `f32` 0–1, NHWC.
    pub fn decode(&self, latents: Latents, tile: Option<u32>, stop: &Stop) -> Result<Vec<f32>, Fault> {
        self.lease.call(Some(stop), |reply| Call::Decode { latents, tile, stop: stop.clone(), reply })
    }

    /// Encodes RGB `f32` 0–1, NHWC, to the latents' mean and standard deviation (channels doubled).
    pub fn encode(
        &self,
        pixels: Vec<f32>,
        n: usize,
        height: usize,
        width: usize,
        raw: bool,
        stop: &Stop,
    ) -> Result<Latents, Fault> {
        let size = [n, height, width];
        self.lease.call(Some(stop), |reply| Call::Encode { pixels, size, raw, stop: stop.clone(), reply })
    }

    /// Decodes latents with the preview network, enlarging by `factor`.
    pub fn preview(&self, latents: Latents, factor: usize, stop: &Stop) -> Result<Vec<f32>, Fault> {
        self.lease.call(Some(stop), |reply| Call::Preview { latents, factor, stop: stop.clone(), reply })
    }

    /// Adds token embeddings to one encoder; answers the first new id.
    pub fn add_tokens(&self, encoder: u32, vectors: Vec<f32>, count: usize) -> Result<u32, Fault> {
        self.lease.call(None, |reply| Call::AddTokens { encoder, vectors, count, reply })
    }
}

/// A model that enlarges pictures.
#[derive(Debug)]
pub struct Enlarger {
    /// What it takes.
    pub desc: Arc<UpscalerDesc>,
    lease: Lease,
}

impl Enlarger {
    pub(super) fn new(lease: Lease) -> Result<Enlarger, Fault> {
        let Desc::Upscaling(desc) = &lease.entry.desc else { return Err(other_kind()) };
        Ok(Enlarger { desc: desc.clone(), lease })
    }

    /// Enlarges one picture or tile in a single call: RGB `f32` 0–1, HWC, in and out.
    pub fn upscale(&self, pixels: Vec<f32>, height: usize, width: usize, stop: &Stop) -> Result<Vec<f32>, Fault> {
        let size = [height, width];
        self.lease.call(Some(stop), |reply| Call::Upscale { pixels, size, stop: stop.clone(), reply })
    }
}
