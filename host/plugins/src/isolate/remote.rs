//! The interface's traits over a child process: callers cannot tell it from a plugin in this process.

use super::{
    Limits,
    process::{Layout, Patience, Process, locked},
    wire::{self, Input, Item, Reply, Request, Tensor},
};
use crate::pinned::Pinned;
use backend_api::{
    AbiError, Backend, Backend_TO, BackendBox, Code, Ctl, Diffusion, Diffusion_TO, DiffusionOpen, HostRef, HwDevice,
    LlmOpen, MemReport, Model, Model_TO, ModelBox, ModelPlan, ModelSource, Param, PredictItem, Res, StepStats,
    TensorMut, TensorRef, TextEncoded, TextRequest, UpscaleOpen, Upscaler, Upscaler_TO,
    abi_stable::{
        sabi_trait::prelude::TD_Opaque,
        std_types::{RErr, RResult, RSlice},
    },
};
use std::{
    ffi::OsString,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

/// What it takes to start a child for a device again and again.
pub(crate) struct Spec {
    pub(crate) command: Vec<OsString>,
    pub(crate) library: Arc<Pinned>,
    pub(crate) device: HwDevice,
    pub(crate) options: Vec<Param>,
    pub(crate) host: HostRef,
    pub(crate) limits: Limits,
}

/// Starts a child and opens the device in it.
pub(crate) fn open(spec: Spec) -> Result<BackendBox, AbiError> {
    let backend = RemoteBackend {
        spec,
        running: Mutex::new(Running { process: None, number: 0 }),
        failures: Arc::new(AtomicU32::new(0)),
    };
    backend.revived(None)?;
    Ok(Backend_TO::from_value(backend, TD_Opaque))
}

struct Running {
    process: Option<Arc<Process>>,
    /// How many processes there have been.
    number: u64,
}

struct RemoteBackend {
    spec: Spec,
    running: Mutex<Running>,
    /// Processes in a row that died before they did a step.
    failures: Arc<AtomicU32>,
}

impl RemoteBackend {
    fn current(&self) -> Result<Arc<Process>, AbiError> {
        let running = locked(&self.running);
        running.process.clone().ok_or_else(|| AbiError::new(Code::WORKER_DIED, "the backend has no process"))
    }

    /// The living process, or a new one with the device open. Pauses longer after every failure in a row: 0, 0.1, 0.2,
    /// 0.4 … 10 seconds.
    fn revived(&self, ctl: Option<&Ctl>) -> Result<Arc<Process>, AbiError> {
        let mut running = locked(&self.running);
        if let Some(process) = running.process.as_ref().filter(|p| p.alive()) {
            return Ok(Arc::clone(process));
        }
        let failures = self.failures.fetch_add(1, Ordering::AcqRel);
        if failures > 1 {
            let pause = Duration::from_millis(100 << (failures - 2).min(7)).min(Duration::from_secs(10));
            let until = Instant::now() + pause;
            while Instant::now() < until {
                if ctl.is_some_and(Ctl::cancelled) {
                    self.failures.fetch_sub(1, Ordering::AcqRel);
                    return Err(AbiError::cancelled());
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        running.number += 1;
        let Spec { command, library, device, options, host, limits } = &self.spec;
        let process = Process::spawn(command, library, running.number, *limits, host.clone()).map_err(|e| {
            AbiError::new(Code::WORKER_DIED, format!("the backend's process does not start: {}", e.kind()))
        })?;
        let request = Request::Open { device: device.into(), options: wire::pairs(options) };
        match process.call(&request, ctl, Patience::Progress(limits.first))? {
            Reply::Done => {}
            _ => return Err(process.nonsense()),
        }
        running.process = Some(Arc::clone(&process));
        Ok(process)
    }
}

/// The report in an answer on the side socket.
fn memory(answer: Result<Reply, AbiError>) -> MemReport {
    match answer {
        Ok(Reply::Memory { device_total, device_free, weights, scratch }) => {
            MemReport { device_total, device_free, weights, scratch }
        }
        _ => MemReport::default(),
    }
}

impl Backend for RemoteBackend {
    fn memory(&self) -> MemReport {
        memory(self.current().and_then(|p| p.ask(&Request::Memory)))
    }

    fn inspect(&self, source: &ModelSource) -> Res<ModelPlan> {
        let inspect = || {
            let process = self.revived(None)?;
            match process.ask(&Request::Inspect { source: source.into() })? {
                Reply::Plan { task, weight_bytes, peak_bytes, params } => {
                    Ok(wire::model_plan(task, weight_bytes, peak_bytes, &params))
                }
                _ => Err(process.nonsense()),
            }
        };
        inspect().into()
    }

    fn load(&self, source: &ModelSource, ctl: &Ctl) -> Res<ModelBox> {
        let load = || {
            let process = self.revived(Some(ctl))?;
            let patience = Patience::Progress(self.spec.limits.first);
            match process.call(&Request::Load { source: source.into() }, Some(ctl), patience)? {
                Reply::Model { id } => {
                    let model = RemoteModel(Arc::new(Loaded {
                        process,
                        id,
                        limits: self.spec.limits,
                        failures: Arc::clone(&self.failures),
                    }));
                    Ok(Model_TO::from_value(model, TD_Opaque))
                }
                _ => Err(process.nonsense()),
            }
        };
        load().into()
    }
}

/// A model in a child; freed there when its last session here is gone.
struct Loaded {
    process: Arc<Process>,
    id: u64,
    limits: Limits,
    failures: Arc<AtomicU32>,
}

impl Loaded {
    fn patience(&self) -> Patience {
        Patience::Progress(self.limits.first)
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if self.process.alive() {
            // A failure has nobody to be told to; the next call tells.
            let _ = self.process.call(&Request::DropModel { model: self.id }, None, self.patience());
        }
    }
}

struct RemoteModel(Arc<Loaded>);

impl Model for RemoteModel {
    fn memory(&self) -> MemReport {
        memory(self.0.process.ask(&Request::ModelMemory { model: self.0.id }))
    }

    fn diffusion(&self, options: RSlice<'_, Param>) -> Res<DiffusionOpen> {
        let open = || {
            let request = Request::Diffusion { model: self.0.id, options: wire::pairs(&options) };
            match self.0.process.call(&request, None, self.0.patience())? {
                Reply::Diffusion { id, desc } => {
                    let session = Session { model: Arc::clone(&self.0), id };
                    Ok(DiffusionOpen { desc: (&desc).into(), session: Diffusion_TO::from_value(session, TD_Opaque) })
                }
                _ => Err(self.0.process.nonsense()),
            }
        };
        open().into()
    }

    fn upscaler(&self, options: RSlice<'_, Param>) -> Res<UpscaleOpen> {
        let open = || {
            let request = Request::Upscaler { model: self.0.id, options: wire::pairs(&options) };
            match self.0.process.call(&request, None, self.0.patience())? {
                Reply::Upscaler { id, factor, tile, overlap, params } => {
                    let session = Session { model: Arc::clone(&self.0), id };
                    Ok(UpscaleOpen {
                        desc: wire::upscaler(factor, tile, overlap, &params),
                        session: Upscaler_TO::from_value(session, TD_Opaque),
                    })
                }
                _ => Err(self.0.process.nonsense()),
            }
        };
        open().into()
    }

    fn llm(&self, _: RSlice<'_, Param>) -> Res<LlmOpen> {
        RErr(AbiError::unsupported("text generation in a process of its own; see --isolate never"))
    }
}

/// A session in a child: of a diffusion model or an upscaler.
struct Session {
    model: Arc<Loaded>,
    id: u64,
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.model.process.alive() {
            // As for models.
            let _ = self.model.process.call(&Request::DropSession { session: self.id }, None, self.model.patience());
        }
    }
}

impl Session {
    fn call(&self, request: &Request, ctl: Option<&Ctl>, patience: Patience) -> Result<Reply, AbiError> {
        let reply = self.model.process.call(request, ctl, patience)?;
        // It works: what goes wrong later is a new story.
        self.model.failures.store(0, Ordering::Release);
        Ok(reply)
    }

    /// A call with one output: `request` is made of the places of `inputs` and of the output.
    fn filling(
        &self,
        inputs: &[TensorRef<'_>],
        out: &mut TensorMut<'_>,
        ctl: &Ctl,
        patience: Patience,
        request: impl FnOnce(&mut Layout<'_>, Vec<Tensor>, Tensor) -> Result<Request, AbiError>,
    ) -> Result<StepStats, AbiError> {
        let shared = &self.model.process.shared;
        let mut layout = Layout::new(shared);
        let inputs = inputs.iter().map(|t| layout.input(t)).collect::<Result<_, _>>()?;
        let place = layout.output(out)?;
        let (offset, request) = (place.offset, request(&mut layout, inputs, place)?);
        match self.call(&request, Some(ctl), patience)? {
            Reply::Stats { device_ns } if shared.read(offset, &mut out.bytes) => Ok(StepStats { device_ns }),
            _ => Err(self.model.process.nonsense()),
        }
    }

    /// As above, with one input.
    fn one(
        &self,
        input: TensorRef<'_>,
        mut out: TensorMut<'_>,
        ctl: &Ctl,
        request: impl FnOnce(Tensor, Tensor) -> Request,
    ) -> Res<StepStats> {
        let patience = self.model.patience();
        let made = |_: &mut Layout<'_>, inputs: Vec<Tensor>, out: Tensor| {
            let input = inputs.into_iter().next().ok_or_else(|| AbiError::internal("a tensor is missing"))?;
            Ok(request(input, out))
        };
        self.filling(&[input], &mut out, ctl, patience, made).into()
    }
}

impl Diffusion for Session {
    fn encode_text(&mut self, request: TextRequest<'_>, ctl: &Ctl) -> Res<TextEncoded> {
        let input = |i: &backend_api::EncoderInput<'_>| Input {
            encoder: i.encoder,
            chunk_length: i.chunk_length,
            tokens: i.tokens.to_vec(),
            weights: i.weights.to_vec(),
            empty: i.empty.to_vec(),
            params: wire::pairs(&i.params),
        };
        let request = Request::EncodeText {
            session: self.id,
            inputs: request.inputs.iter().map(input).collect(),
            params: wire::pairs(&request.params),
        };
        match self.model.process.call(&request, Some(ctl), self.model.patience()) {
            Ok(Reply::Encoded { cond, tokens, bytes, params }) => {
                RResult::ROk(TextEncoded { cond, tokens, bytes, params: wire::params(&params).into() })
            }
            Ok(_) => RErr(self.model.process.nonsense()),
            Err(e) => RErr(e),
        }
    }

    fn free_cond(&mut self, cond: u64) {
        if self.model.process.alive() {
            let request = Request::FreeCond { session: self.id, cond };
            let _ = self.model.process.call(&request, None, self.model.patience());
        }
    }

    fn predict(
        &mut self,
        x: TensorRef<'_>,
        items: RSlice<'_, PredictItem<'_>>,
        mut out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Res<StepStats> {
        let session = self.id;
        let patience = Patience::Step(x.bytes.len());
        let request = |layout: &mut Layout<'_>, inputs: Vec<Tensor>, out: Tensor| {
            let x = inputs.into_iter().next().ok_or_else(|| AbiError::internal("a tensor is missing"))?;
            let mut item = |i: &PredictItem<'_>| {
                Ok(Item {
                    cond: i.cond,
                    timestep: i.timestep,
                    sigma: i.sigma,
                    extra: i.extra.iter().map(|t| layout.input(t)).collect::<Result<_, AbiError>>()?,
                    params: wire::pairs(&i.params),
                })
            };
            let items = items.iter().map(&mut item).collect::<Result<_, AbiError>>()?;
            Ok(Request::Predict { session, x, items, out })
        };
        self.filling(&[x], &mut out, ctl, patience, request).into()
    }

    fn decode(
        &mut self,
        latents: TensorRef<'_>,
        options: RSlice<'_, Param>,
        out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Res<StepStats> {
        let (session, options) = (self.id, wire::pairs(&options));
        self.one(latents, out, ctl, |latents, out| Request::Decode { session, latents, options, out })
    }

    fn encode(
        &mut self,
        image: TensorRef<'_>,
        options: RSlice<'_, Param>,
        out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Res<StepStats> {
        let (session, options) = (self.id, wire::pairs(&options));
        self.one(image, out, ctl, |image, out| Request::Encode { session, image, options, out })
    }

    fn preview(&mut self, latents: TensorRef<'_>, out: TensorMut<'_>, ctl: &Ctl) -> Res<StepStats> {
        let session = self.id;
        self.one(latents, out, ctl, |latents, out| Request::Preview { session, latents, out })
    }

    fn add_tokens(&mut self, encoder: u32, vectors: TensorRef<'_>) -> Res<u32> {
        let add = || {
            let vectors = Layout::new(&self.model.process.shared).input(&vectors)?;
            let request = Request::AddTokens { session: self.id, encoder, vectors };
            match self.model.process.call(&request, None, self.model.patience())? {
                Reply::Token { first } => Ok(first),
                _ => Err(self.model.process.nonsense()),
            }
        };
        add().into()
    }
}

impl Upscaler for Session {
    fn upscale(&mut self, image: TensorRef<'_>, out: TensorMut<'_>, ctl: &Ctl) -> Res<StepStats> {
        let session = self.id;
        self.one(image, out, ctl, |image, out| Request::Upscale { session, image, out })
    }
}
