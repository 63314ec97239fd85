//! One opened device: a thread of its own that makes every call into the plugin, and its drops too.
//!
//! Lanes (the threads that run jobs) send commands and wait for the answers. `predict` commands that wait at the same
//! time and have the same latent size ride in one call, whatever their jobs and timesteps.

use super::{
    tensor::{Item, Latents},
    tokens::AddedTokens,
};
use crate::fault::{Fault, FaultCode};
use abi_stable::{
    sabi_trait::prelude::TD_Opaque,
    std_types::{RArc, RResult},
};
use backend_api::{
    BackendBox, Control, Control_TO, Ctl, DiffusionBox, DiffusionDesc, EncoderInput, MemReport, ModelBox, ModelSource,
    Param, PredictItem, Stage, TensorMut, TensorRef, TextRequest,
};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

/// Encoded texts kept on the device for repeated prompts.
const MAX_CACHED_TEXTS: usize = 32;
/// Commands that may wait for one device. Lanes wait for each answer, so more than their number never stand here.
const MAX_COMMANDS: usize = 256;

/// Receives load progress: bytes done and in all.
pub type LoadProgress = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// Ids and weights for one encoder.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EncoderTokens {
    /// Tokens in a chunk.
    pub chunk_length: u32,
    /// Token ids of all chunks.
    pub tokens: Vec<u32>,
    /// Bits of the weights: comparable, unlike floats.
    pub weights: Vec<u32>,
    /// One chunk of the empty text.
    pub empty: Vec<u32>,
}

/// A text to encode; equal texts are encoded once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TextKey {
    /// One entry per encoder.
    pub encoders: Vec<EncoderTokens>,
    /// Parameters of the call, as pairs.
    pub params: Vec<(String, String)>,
}

/// An encoded text. While a handle lives the device keeps the states.
#[derive(Debug, Clone)]
pub struct Cond {
    /// The backend's id.
    pub id: u64,
    /// Length of the states in tokens.
    pub tokens: u32,
    lease: Arc<()>,
}

/// What is on the device.
#[derive(Debug, Clone)]
pub struct LoadedModel {
    /// The catalogue key.
    pub key: String,
    /// What the model takes.
    pub desc: Arc<DiffusionDesc>,
    /// What it holds.
    pub memory: MemReport,
    /// Tokens that were added to it.
    pub(super) tokens: Arc<AddedTokens>,
}

enum Command {
    Load {
        key: String,
        source: Box<ModelSource>,
        progress: LoadProgress,
        stop: Arc<AtomicBool>,
        reply: Reply<LoadedModel>,
    },
    Unload {
        reply: Reply<()>,
    },
    Text {
        key: TextKey,
        stop: Arc<AtomicBool>,
        reply: Reply<Cond>,
    },
    Predict(Predict),
    Decode {
        latents: Latents,
        tile: Option<u32>,
        stop: Arc<AtomicBool>,
        reply: Reply<Vec<f32>>,
    },
    Encode {
        pixels: Vec<f32>,
        n: usize,
        height: usize,
        width: usize,
        raw: bool,
        stop: Arc<AtomicBool>,
        reply: Reply<Latents>,
    },
    Preview {
        latents: Latents,
        factor: usize,
        stop: Arc<AtomicBool>,
        reply: Reply<Vec<f32>>,
    },
    AddTokens {
        encoder: u32,
        vectors: Vec<f32>,
        count: usize,
        reply: Reply<u32>,
    },
    Memory {
        reply: Reply<MemReport>,
    },
}

struct Predict {
    x: Latents,
    items: Vec<Item>,
    stop: Arc<AtomicBool>,
    reply: Reply<Latents>,
}

type Reply<T> = mpsc::SyncSender<Result<T, Fault>>;

/// The lanes' hand on a device.
#[derive(Debug, Clone)]
pub struct Device {
    /// A label such as `cpu:0`.
    pub label: Arc<str>,
    /// The plugin's id.
    pub backend: Arc<str>,
    commands: mpsc::SyncSender<Command>,
    current: Arc<Mutex<Option<LoadedModel>>>,
    stuck: Arc<AtomicBool>,
    call_limit: Duration,
}

impl Device {
    /// Starts the device's thread, which opens the backend itself and answers one fact about it. `call_limit` is the
    /// longest a single call may take before the device counts as hung.
    pub fn start<E, T>(
        call_limit: Duration,
        open: impl FnOnce() -> Result<(BackendBox, String, String, T), E> + Send + 'static,
    ) -> Result<(Device, T), Fault>
    where
        E: Send + 'static,
        Fault: From<E>,
        T: Send + 'static,
    {
        let (commands, inbox) = mpsc::sync_channel(MAX_COMMANDS);
        let current = Arc::new(Mutex::new(None));
        let (opened, answer) = mpsc::sync_channel(1);
        let shared = current.clone();
        std::thread::Builder::new()
            .name("device".to_owned())
            .spawn(move || {
                let (backend, id, label, fact) = match open() {
                    Ok(parts) => parts,
                    Err(error) => {
                        // Whoever asked waits for exactly this answer.
                        let _ = opened.send(Err(error));
                        return;
                    }
                };
                let worker = Worker { backend, loaded: None, texts: VecDeque::new(), current: shared };
                if opened.send(Ok((id, label, fact))).is_ok() {
                    worker.run(&inbox);
                }
            })
            .map_err(|e| Fault::internal(format!("a thread could not be started: {e}")))?;
        let (id, label, fact) =
            answer.recv().map_err(|_| Fault::internal("the device's thread ended while opening"))??;
        let device =
            Device { label: label.into(), backend: id.into(), commands, current, stuck: Arc::default(), call_limit };
        Ok((device, fact))
    }

    /// What is loaded.
    pub fn loaded(&self) -> Option<LoadedModel> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a call outlived its limit and has not come back.
    pub fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Acquire)
    }

    fn ask<T>(&self, stop: Option<&AtomicBool>, make: impl FnOnce(Reply<T>) -> Command) -> Result<T, Fault> {
        let gone = || Fault::new(FaultCode::BackendDied, "the device's thread has ended; restart the worker");
        let hung = || Fault::new(FaultCode::BackendHung, "the backend does not answer");
        if self.is_stuck() {
            return Err(hung());
        }
        let (reply, answer) = mpsc::sync_channel(1);
        self.commands.send(make(reply)).map_err(|_| gone())?;
        let mut since = Instant::now();
        let mut stopping = false;
        loop {
            match answer.recv_timeout(Duration::from_millis(250)) {
                Ok(result) => return result,
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(gone()),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    if !stopping && stop.is_some_and(|s| s.load(Ordering::Acquire)) {
                        // A call that polls its control comes back soon; one that does not gets the limit from here on.
                        stopping = true;
                        since = Instant::now();
                    }
                    if since.elapsed() > self.call_limit {
                        self.stuck.store(true, Ordering::Release);
                        return Err(hung());
                    }
                }
            }
        }
    }

    /// Loads a model in place of the present one. When loading fails nothing is loaded.
    pub fn load(
        &self,
        key: &str,
        source: ModelSource,
        progress: LoadProgress,
        stop: &Arc<AtomicBool>,
    ) -> Result<LoadedModel, Fault> {
        self.ask(Some(stop), |reply| Command::Load {
            key: key.to_owned(),
            source: Box::new(source),
            progress,
            stop: stop.clone(),
            reply,
        })
    }

    /// Drops the model.
    pub fn unload(&self) -> Result<(), Fault> {
        self.ask(None, |reply| Command::Unload { reply })
    }

    /// Encodes a text, or finds it encoded.
    pub fn text(&self, key: TextKey, stop: &Arc<AtomicBool>) -> Result<Cond, Fault> {
        self.ask(Some(stop), |reply| Command::Text { key, stop: stop.clone(), reply })
    }

    /// Runs the denoiser once for a batch.
    pub fn predict(&self, x: Latents, items: Vec<Item>, stop: &Arc<AtomicBool>) -> Result<Latents, Fault> {
        self.ask(Some(stop), |reply| Command::Predict(Predict { x, items, stop: stop.clone(), reply }))
    }

    /// Decodes latents to RGB `f32` 0–1, NHWC.
    pub fn decode(&self, latents: Latents, tile: Option<u32>, stop: &Arc<AtomicBool>) -> Result<Vec<f32>, Fault> {
        self.ask(Some(stop), |reply| Command::Decode { latents, tile, stop: stop.clone(), reply })
    }

    /// Encodes RGB `f32` 0–1, NHWC, to the latents' mean and standard deviation (channels doubled).
    pub fn encode(
        &self,
        pixels: Vec<f32>,
        n: usize,
        height: usize,
        width: usize,
        raw: bool,
        stop: &Arc<AtomicBool>,
    ) -> Result<Latents, Fault> {
        self.ask(Some(stop), |reply| Command::Encode { pixels, n, height, width, raw, stop: stop.clone(), reply })
    }

    /// Decodes latents with the preview network, enlarging by `factor`.
    pub fn preview(&self, latents: Latents, factor: usize, stop: &Arc<AtomicBool>) -> Result<Vec<f32>, Fault> {
        self.ask(Some(stop), |reply| Command::Preview { latents, factor, stop: stop.clone(), reply })
    }

    /// Adds token embeddings to one encoder; answers the first new id.
    pub fn add_tokens(&self, encoder: u32, vectors: Vec<f32>, count: usize) -> Result<u32, Fault> {
        self.ask(None, |reply| Command::AddTokens { encoder, vectors, count, reply })
    }

    /// The device's memory.
    pub fn memory(&self) -> Result<MemReport, Fault> {
        self.ask(None, |reply| Command::Memory { reply })
    }
}

struct Loaded {
    // Field order is drop order: the session before the weights it shares.
    session: DiffusionBox,
    _model: ModelBox,
    desc: Arc<DiffusionDesc>,
}

struct CachedText {
    key: TextKey,
    cond: Cond,
}

struct Worker {
    // Drop order again: the model before the backend.
    loaded: Option<Loaded>,
    texts: VecDeque<CachedText>,
    backend: BackendBox,
    current: Arc<Mutex<Option<LoadedModel>>>,
}

/// The control that a call receives: a flag, and where load progress goes.
struct CallControl {
    stop: Arc<AtomicBool>,
    progress: Option<LoadProgress>,
}

impl Control for CallControl {
    fn cancelled(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
    fn progress(&self, stage: Stage, done: u64, total: u64) {
        if stage == Stage::LOAD
            && let Some(progress) = &self.progress
        {
            progress(done, total);
        }
    }
}

fn control(stop: &Arc<AtomicBool>, progress: Option<LoadProgress>) -> Ctl {
    Control_TO::from_ptr(RArc::new(CallControl { stop: stop.clone(), progress }), TD_Opaque)
}

fn abi<T>(result: RResult<T, backend_api::AbiError>) -> Result<T, Fault> {
    result.into_result().map_err(Fault::from)
}

fn no_model() -> Fault {
    Fault::new(FaultCode::NotReady, "no model is loaded on this device")
}

impl Worker {
    fn run(mut self, inbox: &mpsc::Receiver<Command>) {
        let mut backlog = VecDeque::new();
        while let Some(command) = backlog.pop_front().or_else(|| inbox.recv().ok()) {
            match command {
                Command::Predict(first) => {
                    let riders = self.gather(first, inbox, &mut backlog);
                    self.predict(riders);
                }
                other => self.obey(other),
            }
        }
        self.forget_model();
    }

    // A lane that gave up waiting no longer takes its answer; that is no fault of this thread.
    fn obey(&mut self, command: Command) {
        match command {
            Command::Load { key, source, progress, stop, reply } => {
                let _ = reply.send(self.load(key, &source, progress, &stop));
            }
            Command::Unload { reply } => {
                self.forget_model();
                let _ = reply.send(Ok(()));
            }
            Command::Text { key, stop, reply } => {
                let _ = reply.send(self.text(key, &stop));
            }
            Command::Predict(one) => self.predict(vec![one]),
            Command::Decode { latents, tile, stop, reply } => {
                let _ = reply.send(self.decode(&latents, tile, &stop));
            }
            Command::Encode { pixels, n, height, width, raw, stop, reply } => {
                let _ = reply.send(self.encode(&pixels, [n, height, width], raw, &stop));
            }
            Command::Preview { latents, factor, stop, reply } => {
                let _ = reply.send(self.preview(&latents, factor, &stop));
            }
            Command::AddTokens { encoder, vectors, count, reply } => {
                let _ = reply.send(self.add_tokens(encoder, &vectors, count));
            }
            Command::Memory { reply } => {
                let _ = reply.send(Ok(self.backend.memory()));
            }
        }
    }

    fn forget_model(&mut self) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.texts.clear();
        self.loaded = None;
    }

    fn load(
        &mut self,
        key: String,
        source: &ModelSource,
        progress: LoadProgress,
        stop: &Arc<AtomicBool>,
    ) -> Result<LoadedModel, Fault> {
        self.forget_model();
        let ctl = control(stop, Some(progress));
        let model = abi(self.backend.load(source, &ctl))?;
        let open = abi(model.diffusion((&[] as &[Param]).into()))?;
        let desc = Arc::new(open.desc);
        let loaded = LoadedModel { key, desc: desc.clone(), memory: model.memory(), tokens: Arc::default() };
        self.loaded = Some(Loaded { session: open.session, _model: model, desc });
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(loaded.clone());
        Ok(loaded)
    }

    fn session(&mut self) -> Result<&mut Loaded, Fault> {
        self.loaded.as_mut().ok_or_else(no_model)
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
        let ctl = control(stop, None);
        let request = TextRequest { inputs: inputs.as_slice().into(), params: params.as_slice().into() };
        let encoded = abi(self.session()?.session.encode_text(request, &ctl))?;
        let cond = Cond { id: encoded.cond, tokens: encoded.tokens, lease: Arc::new(()) };
        self.texts.push_back(CachedText { key, cond: cond.clone() });
        self.evict_texts();
        Ok(cond)
    }

    /// Frees the texts unused for longest; those that a lane still holds stay.
    fn evict_texts(&mut self) {
        while self.texts.len() > MAX_CACHED_TEXTS {
            let Some(at) = self.texts.iter().position(|t| Arc::strong_count(&t.cond.lease) == 1) else { return };
            if let (Some(old), Some(loaded)) = (self.texts.remove(at), self.loaded.as_mut()) {
                loaded.session.free_cond(old.cond.id);
            }
        }
    }

    /// Takes further waiting predictions of the same latent size, as many as one call may hold.
    fn gather(&self, first: Predict, inbox: &mpsc::Receiver<Command>, backlog: &mut VecDeque<Command>) -> Vec<Predict> {
        let room = self.loaded.as_ref().map_or(1, |l| l.desc.max_batch.max(1) as usize);
        let mut count = first.items.len();
        let mut riders = vec![first];
        while count < room {
            match inbox.try_recv() {
                Ok(Command::Predict(next)) if count + next.items.len() <= room && next.x.same_size(&riders[0].x) => {
                    count += next.items.len();
                    riders.push(next);
                }
                Ok(other) => {
                    backlog.push_back(other);
                    break;
                }
                Err(_) => break,
            }
        }
        riders
    }

    fn predict(&mut self, riders: Vec<Predict>) {
        let room = self.loaded.as_ref().map_or(1, |l| l.desc.max_batch.max(1) as usize);
        if riders.len() == 1 {
            for one in riders {
                let result = self.predict_split(&one.x, &one.items, room, &one.stop);
                let _ = one.reply.send(result);
            }
            return;
        }
        // Riders of several jobs share one call, which therefore none of them may stop.
        let joined = Latents::concat(riders.iter().map(|r| &r.x));
        let items: Vec<Item> = riders.iter().flat_map(|r| r.items.iter().cloned()).collect();
        let result = self.predict_split(&joined, &items, room, &Arc::default());
        let mut at = 0;
        for rider in riders {
            let n = rider.items.len();
            let part = result.as_ref().map(|out| out.slice(at, n)).map_err(Clone::clone);
            at += n;
            let _ = rider.reply.send(part);
        }
    }

    fn predict_split(
        &mut self,
        x: &Latents,
        items: &[Item],
        room: usize,
        stop: &Arc<AtomicBool>,
    ) -> Result<Latents, Fault> {
        let ctl = control(stop, None);
        let loaded = self.loaded.as_mut().ok_or_else(no_model)?;
        let mut out = Latents::zeros(x.shape);
        let per_item = x.per_item();
        for (chunk, part) in items.chunks(room).enumerate() {
            let (from, to) = (chunk * room * per_item, (chunk * room + part.len()) * per_item);
            let [_, c, h, w] = x.shape_u64();
            let shape = [part.len() as u64, c, h, w];
            let extras: Vec<Vec<TensorRef<'_>>> = part
                .iter()
                .map(|i| i.extras.iter().map(|e| e.view()).collect::<Result<_, _>>())
                .collect::<Result<_, _>>()?;
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
            abi(loaded.session.predict(input, views.as_slice().into(), output, &ctl))?;
        }
        if out.data.iter().any(|v| !v.is_finite()) {
            return Err(Fault::new(FaultCode::InvalidOutput, "the denoiser's output holds values that are no numbers"));
        }
        Ok(out)
    }

    fn decode(&mut self, latents: &Latents, tile: Option<u32>, stop: &Arc<AtomicBool>) -> Result<Vec<f32>, Fault> {
        let ctl = control(stop, None);
        let loaded = self.session()?;
        let factor = loaded.desc.vae_factor as usize;
        let options: Vec<Param> = tile.map(|t| Param::new("tile", t)).into_iter().collect();
        let (shape, mut pixels) = picture_room(latents, factor);
        let input_shape = latents.shape_u64();
        let input = TensorRef::f32("latents", &input_shape, &latents.data)?;
        abi(loaded.session.decode(input, options.as_slice().into(), TensorMut::f32(&shape, &mut pixels)?, &ctl))?;
        if pixels.iter().any(|v| !v.is_finite()) {
            return Err(Fault::new(FaultCode::InvalidOutput, "the decoded picture holds values that are no numbers"));
        }
        Ok(pixels)
    }

    fn encode(
        &mut self,
        pixels: &[f32],
        [n, height, width]: [usize; 3],
        raw: bool,
        stop: &Arc<AtomicBool>,
    ) -> Result<Latents, Fault> {
        let ctl = control(stop, None);
        let loaded = self.session()?;
        let factor = loaded.desc.vae_factor.max(1) as usize;
        let channels = loaded.desc.latent_channels as usize;
        let options: Vec<Param> = raw.then(|| Param::new("raw", 1)).into_iter().collect();
        let shape = [n as u64, height as u64, width as u64, 3];
        let mut out = Latents::zeros([n, 2 * channels, height / factor, width / factor]);
        let out_shape = out.shape_u64();
        let image = TensorRef::f32("image", &shape, pixels)?;
        abi(loaded.session.encode(image, options.as_slice().into(), TensorMut::f32(&out_shape, &mut out.data)?, &ctl))?;
        Ok(out)
    }

    fn preview(&mut self, latents: &Latents, factor: usize, stop: &Arc<AtomicBool>) -> Result<Vec<f32>, Fault> {
        let ctl = control(stop, None);
        let (shape, mut pixels) = picture_room(latents, factor);
        let input_shape = latents.shape_u64();
        let input = TensorRef::f32("latents", &input_shape, &latents.data)?;
        abi(self.session()?.session.preview(input, TensorMut::f32(&shape, &mut pixels)?, &ctl))?;
        Ok(pixels)
    }

    fn add_tokens(&mut self, encoder: u32, vectors: &[f32], count: usize) -> Result<u32, Fault> {
        let shape = [count as u64, (vectors.len() / count.max(1)) as u64];
        let vectors = TensorRef::f32("vectors", &shape, vectors)?;
        abi(self.session()?.session.add_tokens(encoder, vectors))
    }
}

fn picture_room(latents: &Latents, factor: usize) -> ([u64; 4], Vec<f32>) {
    let [n, _, h, w] = latents.shape;
    let shape = [n, h * factor, w * factor, 3];
    (shape.map(|e| e as u64), vec![0.0; shape.iter().product()])
}
