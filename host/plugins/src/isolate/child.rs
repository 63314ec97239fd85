//! The child's side: opens one library and does what the host asks.

use super::{
    shared::Shared,
    wire::{self, FROM_HOST, Pairs, Reply, Request, Tensor, receive, send},
};
use crate::{PluginError, load};
use backend_api::{
    AbiError, BackendBox, Control, Control_TO, Ctl, DiffusionBox, EncoderInput, HwDevice, LogLevel, ModelBox,
    ModelSource, Param, PredictItem, Stage, TensorMut, TensorRef, TextRequest, UpscalerBox,
    abi_stable::{
        sabi_trait::prelude::TD_Opaque,
        std_types::{RArc, RResult},
    },
};
use std::{
    collections::HashMap,
    ffi::OsString,
    os::{fd::FromRawFd, unix::net::UnixStream},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock, atomic::Ordering},
    time::{Duration, Instant},
};

/// The program of a child. `arguments`: the numbers of the inherited descriptors (`work,side,tensors`) and the library's
/// path. Answers the exit status. The host's hidden command `plugin-child` calls it before it starts any thread.
pub fn child_main(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    let mut arguments = arguments.into_iter();
    let (numbers, path) = (arguments.next(), arguments.next().map(PathBuf::from));
    let numbers: Option<Vec<i32>> =
        numbers.and_then(|n| n.to_str().and_then(|n| n.split(',').map(|fd| fd.parse().ok()).collect()));
    let (Some([work, side, tensors]), Some(path)) = (numbers.as_deref(), path) else {
        tracing::error!("this command is started by the worker itself");
        return 2;
    };
    // SAFETY: asks about numbers, and changes nothing.
    if [work, side, tensors].iter().any(|fd| **fd < 3 || unsafe { libc::fcntl(**fd, libc::F_GETFD) } < 0) {
        tracing::error!("this command is started by the worker itself");
        return 2;
    }
    let tensors = *tensors;
    // SAFETY: the host left these two sockets open for us, and nobody else in this process uses the numbers.
    let (work, side) = unsafe { (UnixStream::from_raw_fd(*work), UnixStream::from_raw_fd(*side)) };
    let Ok(shared) = Shared::map(tensors) else { return 2 };
    #[cfg(target_os = "linux")]
    let given_up = super::sandbox::enter();
    #[cfg(not(target_os = "linux"))]
    let given_up: Vec<&str> = Vec::new();
    let (Ok(answers), Ok(progress)) = (side.try_clone(), work.try_clone()) else { return 2 };
    let common = Arc::new(Common {
        shared,
        side: Mutex::new(answers),
        work: Mutex::new(progress),
        backend: RwLock::new(None),
        models: Mutex::new(HashMap::new()),
    });
    common.log(LogLevel::DEBUG, "isolation", &format!("given up: {}", given_up.join(", ")));
    let other = Arc::clone(&common);
    std::thread::spawn(move || other.serve_side(side));
    Worker { common, path, sessions: HashMap::new(), upscalers: HashMap::new(), next: 1 }.serve(work)
}

/// What both threads use.
struct Common {
    shared: Shared,
    side: Mutex<UnixStream>,
    work: Mutex<UnixStream>,
    backend: RwLock<Option<Arc<BackendBox>>>,
    models: Mutex<HashMap<u64, Arc<ModelBox>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Common {
    fn log(&self, level: LogLevel, target: &str, message: &str) {
        // Without a host nobody reads; the side thread ends the process.
        let _ = send(&mut *locked(&self.side), &wire::log(level, target, message));
    }

    fn backend(&self) -> Result<Arc<BackendBox>, AbiError> {
        let slot = self.backend.read().unwrap_or_else(PoisonError::into_inner);
        slot.clone().ok_or_else(|| AbiError::internal("no device is open"))
    }

    fn model(&self, id: u64) -> Result<Arc<ModelBox>, AbiError> {
        locked(&self.models).get(&id).cloned().ok_or_else(|| AbiError::invalid(format!("there is no model {id}")))
    }

    /// Answers questions while the other thread works. The end of the host is the end of this process.
    fn serve_side(&self, mut side: UnixStream) {
        while let Ok(request) = receive::<Request>(&mut side, FROM_HOST) {
            let answer = || -> Result<Reply, AbiError> {
                Ok(match request {
                    Request::Memory => wire::memory(self.backend()?.memory()),
                    Request::ModelMemory { model } => wire::memory(self.model(model)?.memory()),
                    Request::Inspect { source } => {
                        wire::plan(&self.backend()?.inspect(&ModelSource::from(&source)).into_result()?)
                    }
                    _ => Reply::Pong,
                })
            };
            let reply = answer().unwrap_or_else(|e| Reply::Failed((&e).into()));
            if send(&mut *locked(&self.side), &reply).is_err() {
                break;
            }
        }
        // SAFETY: ends the process at once: no destructor of the plugin may run while its threads work.
        unsafe { libc::_exit(0) };
    }
}

/// The running call's hand back to the host.
struct Remote {
    common: Arc<Common>,
    last: Mutex<Option<Instant>>,
}

impl Control for Remote {
    fn cancelled(&self) -> bool {
        self.common.shared.cancel().load(Ordering::Acquire) != 0
    }
    fn progress(&self, stage: Stage, done: u64, total: u64) {
        let mut last = locked(&self.last);
        // The end always, else twenty a second.
        if done < total && last.is_some_and(|at| at.elapsed() < Duration::from_millis(50)) {
            return;
        }
        *last = Some(Instant::now());
        let _ = send(&mut *locked(&self.common.work), &Reply::Progress { stage: stage.0, done, total });
    }
}

/// The thread that makes all calls, and owns what they made.
struct Worker {
    common: Arc<Common>,
    path: PathBuf,
    sessions: HashMap<u64, DiffusionBox>,
    upscalers: HashMap<u64, UpscalerBox>,
    next: u64,
}

impl Worker {
    fn serve(mut self, mut work: UnixStream) -> i32 {
        while let Ok(request) = receive::<Request>(&mut work, FROM_HOST) {
            let ctl: Ctl = Control_TO::from_ptr(
                RArc::new(Remote { common: Arc::clone(&self.common), last: Mutex::new(None) }),
                TD_Opaque,
            );
            let reply = self.answer(request, &ctl).unwrap_or_else(|e| Reply::Failed((&e).into()));
            if send(&mut *locked(&self.common.work), &reply).is_err() {
                break;
            }
        }
        // SAFETY: as in `serve_side`; the host is gone or wants us gone.
        unsafe { libc::_exit(0) }
    }

    fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn session(&mut self, id: u64) -> Result<&mut DiffusionBox, AbiError> {
        self.sessions.get_mut(&id).ok_or_else(|| AbiError::invalid(format!("there is no session {id}")))
    }

    fn answer(&mut self, request: Request, ctl: &Ctl) -> Result<Reply, AbiError> {
        let common = Arc::clone(&self.common);
        let shared = &common.shared;
        let stats = |result: RResult<backend_api::StepStats, AbiError>| {
            result.into_result().map(|s| Reply::Stats { device_ns: s.device_ns })
        };
        match request {
            Request::Probe { hardware } => {
                let hardware: Vec<HwDevice> = hardware.iter().map(Into::into).collect();
                let asked = load::open(&self.path).and_then(|library| load::describe(library, &self.path, &hardware));
                Ok(asked.map_or_else(refused, Reply::Described))
            }
            Request::Open { device, options } => self.open(&(&device).into(), &options),
            Request::Load { source } => {
                let model = self.common.backend()?.load(&ModelSource::from(&source), ctl).into_result()?;
                let id = self.id();
                locked(&self.common.models).insert(id, Arc::new(model));
                Ok(Reply::Model { id })
            }
            Request::Diffusion { model, options } => {
                let options = wire::params(&options);
                let open = self.common.model(model)?.diffusion(options.as_slice().into()).into_result()?;
                let (id, desc) = (self.id(), (&open.desc).into());
                self.sessions.insert(id, open.session);
                Ok(Reply::Diffusion { id, desc })
            }
            Request::Upscaler { model, options } => {
                let options = wire::params(&options);
                let open = self.common.model(model)?.upscaler(options.as_slice().into()).into_result()?;
                let id = self.id();
                let (factor, tile, overlap) = (open.desc.factor, open.desc.tile, open.desc.overlap);
                let reply = Reply::Upscaler { id, factor, tile, overlap, params: wire::pairs(&open.desc.params) };
                self.upscalers.insert(id, open.session);
                Ok(reply)
            }
            Request::EncodeText { session, inputs, params } => self.encode_text(session, &inputs, &params, ctl),
            Request::FreeCond { session, cond } => {
                self.session(session)?.free_cond(cond);
                Ok(Reply::Done)
            }
            Request::Predict { session, x, items, out } => {
                let extras = items.iter().map(|i| i.extra.iter().map(|t| input(shared, t)).collect());
                let extras: Vec<Vec<TensorRef<'_>>> = extras.collect::<Result<_, _>>()?;
                let tails: Vec<Vec<Param>> = items.iter().map(|i| wire::params(&i.params)).collect();
                let items: Vec<PredictItem<'_>> = items
                    .iter()
                    .zip(extras.iter().zip(&tails))
                    .map(|(i, (extra, params))| PredictItem {
                        cond: i.cond,
                        timestep: i.timestep,
                        sigma: i.sigma,
                        extra: extra.as_slice().into(),
                        params: params.as_slice().into(),
                    })
                    .collect();
                let (x, out) = (input(shared, &x)?, output(shared, &out)?);
                stats(self.session(session)?.predict(x, items.as_slice().into(), out, ctl))
            }
            Request::Decode { session, latents, options, out } => {
                let (latents, out, options) = (input(shared, &latents)?, output(shared, &out)?, wire::params(&options));
                stats(self.session(session)?.decode(latents, options.as_slice().into(), out, ctl))
            }
            Request::Encode { session, image, options, out } => {
                let (image, out, options) = (input(shared, &image)?, output(shared, &out)?, wire::params(&options));
                stats(self.session(session)?.encode(image, options.as_slice().into(), out, ctl))
            }
            Request::Preview { session, latents, out } => {
                let (latents, out) = (input(shared, &latents)?, output(shared, &out)?);
                stats(self.session(session)?.preview(latents, out, ctl))
            }
            Request::AddTokens { session, encoder, vectors } => {
                let vectors = input(shared, &vectors)?;
                let first = self.session(session)?.add_tokens(encoder, vectors).into_result()?;
                Ok(Reply::Token { first })
            }
            Request::Upscale { session, image, out } => {
                let (image, out) = (input(shared, &image)?, output(shared, &out)?);
                let found = self.upscalers.get_mut(&session);
                stats(found.ok_or_else(|| AbiError::invalid("there is no such upscaler"))?.upscale(image, out, ctl))
            }
            Request::DropSession { session } => {
                self.sessions.remove(&session);
                self.upscalers.remove(&session);
                Ok(Reply::Done)
            }
            Request::DropModel { model } => {
                let model = locked(&self.common.models).remove(&model);
                drop(model);
                Ok(Reply::Done)
            }
            Request::Ping | Request::Memory | Request::ModelMemory { .. } | Request::Inspect { .. } => {
                Err(AbiError::invalid("this belongs on the other socket"))
            }
        }
    }

    fn open(&mut self, device: &HwDevice, options: &Pairs) -> Result<Reply, AbiError> {
        let library = load::open(&self.path).map_err(|e| AbiError::internal(reason(&e)))?;
        let sink = Arc::clone(&self.common);
        let host = crate::host_ref(move |level, target, message| sink.log(level, target, message));
        let options = wire::params(options);
        let backend = (library.module.open())(device, options.as_slice().into(), host).into_result()?;
        *self.common.backend.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(backend));
        if let Some(room) = std::env::var(super::process::ROOM).ok().and_then(|room| room.parse().ok()) {
            limit_memory(room)?;
        }
        Ok(Reply::Done)
    }

    fn encode_text(
        &mut self,
        session: u64,
        inputs: &[wire::Input],
        params: &Pairs,
        ctl: &Ctl,
    ) -> Result<Reply, AbiError> {
        let tails: Vec<Vec<Param>> = inputs.iter().map(|i| wire::params(&i.params)).collect();
        let inputs: Vec<EncoderInput<'_>> = inputs
            .iter()
            .zip(&tails)
            .map(|(i, params)| EncoderInput {
                encoder: i.encoder,
                chunk_length: i.chunk_length,
                tokens: i.tokens.as_slice().into(),
                weights: i.weights.as_slice().into(),
                empty: i.empty.as_slice().into(),
                params: params.as_slice().into(),
            })
            .collect();
        let params = wire::params(params);
        let request = TextRequest { inputs: inputs.as_slice().into(), params: params.as_slice().into() };
        let encoded = self.session(session)?.encode_text(request, ctl).into_result()?;
        Ok(Reply::Encoded {
            cond: encoded.cond,
            tokens: encoded.tokens,
            bytes: encoded.bytes,
            params: wire::pairs(&encoded.params),
        })
    }
}

/// Lets this process take `room` bytes more than it holds now, in private memory of any kind; mapped files are free.
fn limit_memory(room: u64) -> Result<(), AbiError> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held =
        status.lines().find_map(|line| line.strip_prefix("VmData:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let held = held.ok_or_else(|| AbiError::internal("the kernel does not tell how much memory is held"))?;
    let most = (held << 10).saturating_add(room);
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: `limit` outlives the call.
    match unsafe { libc::setrlimit(libc::RLIMIT_DATA, &raw const limit) } {
        0 => Ok(()),
        _ => Err(AbiError::internal("the limit of memory could not be set")),
    }
}

/// What is wrong, without the file's name: the host knows it, and here it may be that of a descriptor.
fn reason(error: &PluginError) -> String {
    match error {
        PluginError::NotALibrary { reason, .. }
        | PluginError::Loader { reason, .. }
        | PluginError::Interface { reason, .. }
        | PluginError::Misbehaved { reason, .. } => reason.clone(),
        other => other.to_string(),
    }
}

fn refused(error: PluginError) -> Reply {
    Reply::Refused { code: error.code().to_owned(), reason: reason(&error) }
}

fn outside() -> AbiError {
    AbiError::invalid("a tensor lies outside of the shared memory")
}

fn input<'a>(shared: &'a Shared, tensor: &'a Tensor) -> Result<TensorRef<'a>, AbiError> {
    // SAFETY: the host waits for our answer and writes nothing until then.
    let bytes = unsafe { shared.slice(tensor.offset, tensor.len) }.ok_or_else(outside)?;
    TensorRef::new(&tensor.name, tensor.dtype(), &tensor.shape, bytes)
}

fn output<'a>(shared: &'a Shared, tensor: &'a Tensor) -> Result<TensorMut<'a>, AbiError> {
    // SAFETY: as above; the host lays the tensors of a call out one behind the other, and each call has one output.
    let bytes = unsafe { shared.slice_mut(tensor.offset, tensor.len) }.ok_or_else(outside)?;
    TensorMut::new(tensor.dtype(), &tensor.shape, bytes)
}
