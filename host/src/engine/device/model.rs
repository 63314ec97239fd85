//! One model on the device's thread: its session, the texts that it has encoded, and the calls into it.

use super::{
    Call, Cond, Desc, Predict, Task, TextKey,
    thread::{abi, control},
};
use crate::{
    engine::tensor::{Item, Latents},
    fault::{Fault, FaultCode},
};
use backend_api::{
    DiffusionBox, DiffusionDesc, EncoderInput, MemReport, ModelBox, Param, PredictItem, TensorMut, TensorRef,
    TextRequest, UpscalerBox, UpscalerDesc,
};
use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    sync::{Arc, atomic::AtomicBool},
};

/// Encoded texts kept on the device for repeated prompts, for each model.
const MAX_CACHED_TEXTS: usize = 32;
/// Latent sizes for which the fitting number of items is remembered.
const MAX_FITTING: usize = 64;

/// A loaded model, opened for its task.
pub(super) struct Loaded {
    // Field order is drop order: the session before the weights it shares.
    session: Session,
    model: ModelBox,
}

enum Session {
    Diffusion(Denoiser),
    Upscaling { session: UpscalerBox, desc: Arc<UpscalerDesc> },
}

struct Denoiser {
    texts: VecDeque<CachedText>,
    session: DiffusionBox,
    desc: Arc<DiffusionDesc>,
    /// The most items that fitted into the memory, by height and width, where it was less than the most of a call.
    fitting: HashMap<[usize; 2], usize>,
}

struct CachedText {
    key: TextKey,
    cond: Cond,
}

fn not_for_this() -> Fault {
    Fault::new(FaultCode::Unsupported, "this model was opened for something else")
}

impl Loaded {
    /// Opens a model that was just loaded.
    pub(super) fn open(model: ModelBox, task: Task) -> Result<Self, Fault> {
        let none: &[Param] = &[];
        let session = match task {
            Task::Diffusion => {
                let open = abi(model.diffusion(none.into()))?;
                Session::Diffusion(Denoiser {
                    texts: VecDeque::new(),
                    session: open.session,
                    desc: Arc::new(open.desc),
                    fitting: HashMap::new(),
                })
            }
            Task::Upscaling => {
                let open = abi(model.upscaler(none.into()))?;
                Session::Upscaling { session: open.session, desc: Arc::new(open.desc) }
            }
        };
        Ok(Loaded { session, model })
    }

    /// What it takes.
    pub(super) fn desc(&self) -> Desc {
        match &self.session {
            Session::Diffusion(d) => Desc::Diffusion(d.desc.clone()),
            Session::Upscaling { desc, .. } => Desc::Upscaling(desc.clone()),
        }
    }

    /// What it holds.
    pub(super) fn memory(&self) -> MemReport {
        self.model.memory()
    }

    /// Most items of one prediction.
    pub(super) fn room(&self) -> usize {
        match &self.session {
            Session::Diffusion(d) => d.room(),
            Session::Upscaling { .. } => 1,
        }
    }

    fn denoiser(&mut self) -> Result<&mut Denoiser, Fault> {
        match &mut self.session {
            Session::Diffusion(d) => Ok(d),
            Session::Upscaling { .. } => Err(not_for_this()),
        }
    }

    // A lane that gave up waiting no longer takes its answer; that is no fault of this thread.
    pub(super) fn obey(&mut self, call: Call) {
        match call {
            Call::Text { key, stop, reply } => {
                let _ = reply.send(self.denoiser().and_then(|d| d.text(key, &stop)));
            }
            Call::Predict(one) => self.predict(vec![one]),
            Call::Decode { latents, tile, stop, reply } => {
                let _ = reply.send(self.denoiser().and_then(|d| d.decode(&latents, tile, &stop)));
            }
            Call::Encode { pixels, size, raw, stop, reply } => {
                let _ = reply.send(self.denoiser().and_then(|d| d.encode(&pixels, size, raw, &stop)));
            }
            Call::Preview { latents, factor, stop, reply } => {
                let _ = reply.send(self.denoiser().and_then(|d| d.preview(&latents, factor, &stop)));
            }
            Call::AddTokens { encoder, vectors, count, reply } => {
                let _ = reply.send(self.denoiser().and_then(|d| d.add_tokens(encoder, &vectors, count)));
            }
            Call::Upscale { pixels, size, stop, reply } => {
                let _ = reply.send(self.upscale(&pixels, size, &stop));
            }
        }
    }

    /// One call for all riders, which have latents of the same size.
    pub(super) fn predict(&mut self, riders: Vec<Predict>) {
        let denoiser = match self.denoiser() {
            Ok(denoiser) => denoiser,
            Err(fault) => {
                riders.into_iter().for_each(|r| {
                    let _ = r.reply.send(Err(fault.clone()));
                });
                return;
            }
        };
        if riders.len() == 1 {
            for one in riders {
                let result = denoiser.predict(&one.x, &one.items, &one.stop).and_then(denoised);
                let _ = one.reply.send(result);
            }
            return;
        }
        // Riders of several jobs share one call, which therefore none of them may stop.
        let joined = Latents::concat(riders.iter().map(|r| &r.x));
        let items: Vec<Item> = riders.iter().flat_map(|r| r.items.iter().cloned()).collect();
        let result = denoiser.predict(&joined, &items, &Arc::default());
        let mut at = 0;
        for rider in riders {
            let n = rider.items.len();
            // One job's numbers are not another one's fault.
            let part = result.as_ref().map_err(Clone::clone).and_then(|out| denoised(out.slice(at, n)));
            at += n;
            let _ = rider.reply.send(part);
        }
    }

    fn upscale(
        &mut self,
        pixels: &[f32],
        [height, width]: [usize; 2],
        stop: &Arc<AtomicBool>,
    ) -> Result<Vec<f32>, Fault> {
        let Session::Upscaling { session, desc } = &mut self.session else { return Err(not_for_this()) };
        let factor = desc.factor as usize;
        let (from, to) = ([height, width, 3], [height * factor, width * factor, 3]);
        let mut out = vec![0.0; to.iter().product()];
        let (from, to) = (from.map(|e| e as u64), to.map(|e| e as u64));
        let image = TensorRef::f32("image", &from, pixels)?;
        abi(session.upscale(image, TensorMut::f32(&to, &mut out)?, &control(stop, None)))?;
        finite(out, "the enlarged picture")
    }
}

impl Denoiser {
    fn room(&self) -> usize {
        self.desc.max_batch.max(1) as usize
    }

    fn text(&mut self, key: TextKey, stop: &Arc<AtomicBool>) -> Result<Cond, Fault> {
        if let Some(at) = self.texts.iter().position(|t| t.key == key)
            && let Some(hit) = self.texts.remove(at)
        {
            let cond = hit.cond.clone();
            self.texts.push_back(hit);
            return Ok(cond);
        }
        let weights: Vec<Vec<f32>> =
            key.encoders.iter().map(|e| e.weights.iter().map(|w| f32::from_bits(*w)).collect()).collect();
        let inputs: Vec<EncoderInput<'_>> = key
            .encoders
            .iter()
            .zip(&weights)
            .enumerate()
            .map(|(i, (e, weights))| EncoderInput {
                encoder: i as u32,
                chunk_length: e.chunk_length,
                tokens: e.tokens.as_slice().into(),
                weights: weights.as_slice().into(),
                empty: e.empty.as_slice().into(),
                params: (&[] as &[Param]).into(),
            })
            .collect();
        let params: Vec<Param> = key.params.iter().map(|(k, v)| Param::new(k, v)).collect();
        let request = TextRequest { inputs: inputs.as_slice().into(), params: params.as_slice().into() };
        let encoded = abi(self.session.encode_text(request, &control(stop, None)))?;
        let cond = Cond { id: encoded.cond, tokens: encoded.tokens, lease: Arc::new(()) };
        self.texts.push_back(CachedText { key, cond: cond.clone() });
        self.evict_texts();
        Ok(cond)
    }

    /// Frees the texts unused for longest; those that a lane still holds stay.
    fn evict_texts(&mut self) {
        while self.texts.len() > MAX_CACHED_TEXTS {
            let Some(at) = self.texts.iter().position(|t| Arc::strong_count(&t.cond.lease) == 1) else { return };
            if let Some(old) = self.texts.remove(at) {
                self.session.free_cond(old.cond.id);
            }
        }
    }

    /// The items in as few calls as the backend's limit and the memory allow. What does not fit is tried in halves; how
    /// many fitted is remembered, so that later steps begin with it.
    fn predict(&mut self, x: &Latents, items: &[Item], stop: &Arc<AtomicBool>) -> Result<Latents, Fault> {
        let [_, _, h, w] = x.shape;
        let mut room = self.fitting.get(&[h, w]).copied().unwrap_or(usize::MAX).min(self.room());
        let mut out = Latents::zeros(x.shape);
        let mut done = 0;
        while done < items.len() {
            let n = room.min(items.len() - done);
            match self.predict_once(x, items, done..done + n, &mut out, stop) {
                Ok(()) => done += n,
                Err(fault) if fault.code == FaultCode::OutOfMemory && n > 1 => {
                    room = n / 2;
                    tracing::warn!(items = n, next = room, "not enough memory for the batch; trying smaller ones");
                    if self.fitting.len() >= MAX_FITTING {
                        self.fitting.clear();
                    }
                    self.fitting.insert([h, w], room);
                }
                Err(fault) if fault.code == FaultCode::OutOfMemory => {
                    let message = format!("{}. A single picture does not fit: ask for a smaller one", fault.message);
                    return Err(Fault { message, ..fault });
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(out)
    }

    /// One call for some of the items.
    fn predict_once(
        &mut self,
        x: &Latents,
        items: &[Item],
        which: Range<usize>,
        out: &mut Latents,
        stop: &Arc<AtomicBool>,
    ) -> Result<(), Fault> {
        let (part, per_item) = (&items[which.clone()], x.per_item());
        let (from, to) = (which.start * per_item, which.end * per_item);
        let [_, c, h, w] = x.shape_u64();
        let shape = [part.len() as u64, c, h, w];
        let extras: Vec<Vec<TensorRef<'_>>> =
            part.iter().map(|i| i.extras.iter().map(|e| e.view()).collect()).collect::<Result<_, _>>()?;
        let views: Vec<PredictItem<'_>> = part
            .iter()
            .zip(&extras)
            .map(|(item, extra)| PredictItem {
                cond: item.cond.id,
                timestep: item.timestep,
                sigma: item.sigma,
                extra: extra.as_slice().into(),
                params: (&[] as &[Param]).into(),
            })
            .collect();
        let input = TensorRef::f32("x", &shape, &x.data[from..to])?;
        let output = TensorMut::f32(&shape, &mut out.data[from..to])?;
        abi(self.session.predict(input, views.as_slice().into(), output, &control(stop, None)))?;
        Ok(())
    }

    fn decode(&mut self, latents: &Latents, tile: Option<u32>, stop: &Arc<AtomicBool>) -> Result<Vec<f32>, Fault> {
        let ctl = control(stop, None);
        let options: Vec<Param> = tile.map(|t| Param::new("tile", t)).into_iter().collect();
        let (shape, mut pixels) = picture_room(latents, self.desc.vae_factor as usize);
        let input_shape = latents.shape_u64();
        let input = TensorRef::f32("latents", &input_shape, &latents.data)?;
        abi(self.session.decode(input, options.as_slice().into(), TensorMut::f32(&shape, &mut pixels)?, &ctl))?;
        finite(pixels, "the decoded picture")
    }

    fn encode(
        &mut self,
        pixels: &[f32],
        [n, height, width]: [usize; 3],
        raw: bool,
        stop: &Arc<AtomicBool>,
    ) -> Result<Latents, Fault> {
        let ctl = control(stop, None);
        let factor = self.desc.vae_factor.max(1) as usize;
        let channels = self.desc.latent_channels as usize;
        let options: Vec<Param> = raw.then(|| Param::new("raw", 1)).into_iter().collect();
        let shape = [n as u64, height as u64, width as u64, 3];
        let mut out = Latents::zeros([n, 2 * channels, height / factor, width / factor]);
        let out_shape = out.shape_u64();
        let image = TensorRef::f32("image", &shape, pixels)?;
        abi(self.session.encode(image, options.as_slice().into(), TensorMut::f32(&out_shape, &mut out.data)?, &ctl))?;
        if out.data.iter().any(|v| !v.is_finite()) {
            return Err(Fault::new(FaultCode::InvalidOutput, "the encoded picture holds values that are no numbers"));
        }
        Ok(out)
    }

    fn preview(&mut self, latents: &Latents, factor: usize, stop: &Arc<AtomicBool>) -> Result<Vec<f32>, Fault> {
        let ctl = control(stop, None);
        let (shape, mut pixels) = picture_room(latents, factor);
        let input_shape = latents.shape_u64();
        let input = TensorRef::f32("latents", &input_shape, &latents.data)?;
        abi(self.session.preview(input, TensorMut::f32(&shape, &mut pixels)?, &ctl))?;
        Ok(pixels)
    }

    fn add_tokens(&mut self, encoder: u32, vectors: &[f32], count: usize) -> Result<u32, Fault> {
        let shape = [count as u64, (vectors.len() / count.max(1)) as u64];
        abi(self.session.add_tokens(encoder, TensorRef::f32("vectors", &shape, vectors)?))
    }
}

/// A denoiser's answer to one rider, if all of it is numbers.
fn denoised(mut out: Latents) -> Result<Latents, Fault> {
    out.data = finite(out.data, "the denoiser's output")?;
    Ok(out)
}

/// The values, if all of them are numbers.
fn finite(values: Vec<f32>, what: &str) -> Result<Vec<f32>, Fault> {
    if values.iter().all(|v| v.is_finite()) {
        return Ok(values);
    }
    Err(Fault::new(FaultCode::InvalidOutput, format!("{what} holds values that are no numbers")))
}

fn picture_room(latents: &Latents, factor: usize) -> ([u64; 4], Vec<f32>) {
    let [n, _, h, w] = latents.shape;
    let shape = [n, h * factor, w * factor, 3];
    (shape.map(|e| e as u64), vec![0.0; shape.iter().product()])
}
