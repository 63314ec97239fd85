//! Wrappers between the author's traits and the exported ones: no panic passes, no broken tensor arrives.

use super::{log, traits};
use crate::{
    AbiError, Backend, Backend_TO, BackendBox, Code, Ctl, Diffusion, Diffusion_TO, DiffusionOpen, HostRef, HwDevice,
    LlmOpen, MemReport, Model, Model_TO, ModelBox, ModelPlan, ModelSource, Offer, Param, PluginInfo, PredictItem, Res,
    StepStats, TensorMut, TensorRef, TextEncoded, TextRequest, UpscaleOpen, Upscaler, Upscaler_TO,
};
use abi_stable::{
    sabi_trait::prelude::TD_Opaque,
    std_types::{RErr, ROk, RSlice, RVec},
};
use std::{
    any::Any,
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
};

/// An author's object, with a mark that a panic left it in an unknown state.
struct Guarded<T: ?Sized> {
    inner: Option<Box<T>>,
    poisoned: AtomicBool,
}

impl<T: ?Sized> Guarded<T> {
    fn new(inner: Box<T>) -> Self {
        Guarded { inner: Some(inner), poisoned: AtomicBool::new(false) }
    }

    fn call<R>(&self, what: &str, f: impl FnOnce(&T) -> Result<R, AbiError>) -> Res<R> {
        let Some(inner) = self.usable() else { return RErr(poisoned(what)) };
        self.settle(what, shielded(|| f(inner)))
    }

    fn call_mut<R>(&mut self, what: &str, f: impl FnOnce(&mut T) -> Result<R, AbiError>) -> Res<R> {
        if self.poisoned.load(Ordering::Acquire) {
            return RErr(poisoned(what));
        }
        let Some(inner) = self.inner.as_deref_mut() else { return RErr(poisoned(what)) };
        let outcome = shielded(|| f(inner));
        self.settle(what, outcome)
    }

    fn usable(&self) -> Option<&T> {
        if self.poisoned.load(Ordering::Acquire) { None } else { self.inner.as_deref() }
    }

    fn settle<R>(&self, what: &str, outcome: std::thread::Result<Result<R, AbiError>>) -> Res<R> {
        match outcome {
            Ok(Ok(value)) => ROk(value),
            Ok(Err(error)) => RErr(error),
            Err(payload) => {
                self.poisoned.store(true, Ordering::Release);
                RErr(panicked(what, payload))
            }
        }
    }
}

/// A panic in an author's `Drop` would end the process at the boundary; here it ends in the log.
impl<T: ?Sized> Drop for Guarded<T> {
    fn drop(&mut self) {
        let inner = self.inner.take();
        if let Err(payload) = shielded(|| drop(inner)) {
            // The hook has logged it; nobody is left to answer to.
            let _ = panicked("drop", payload);
        }
    }
}

thread_local! {
    /// How many guarded calls are on this thread's stack.
    static GUARDED: Cell<u32> = const { Cell::new(0) };
}

/// Runs an author's code so that no panic leaves it.
///
/// The first call sets a panic hook in this library's own copy of the standard library. Inside a guarded call it sends
/// the message and the place to the host's log; anywhere else (a plugin's own threads) the earlier hook runs.
fn shielded<R>(f: impl FnOnce() -> R) -> std::thread::Result<R> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let earlier = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if GUARDED.try_with(Cell::get).unwrap_or(0) > 0 {
                log::error("panic", &info.to_string());
            } else {
                earlier(info);
            }
        }));
    });
    GUARDED.with(|depth| depth.set(depth.get() + 1));
    let outcome = catch_unwind(AssertUnwindSafe(f));
    GUARDED.with(|depth| depth.set(depth.get() - 1));
    outcome
}

fn poisoned(what: &str) -> AbiError {
    AbiError::new(
        Code::PRECONDITION,
        format!("the backend panicked earlier; `{what}` is refused until it is opened anew"),
    )
}

fn panicked(what: &str, payload: Box<dyn Any + Send>) -> AbiError {
    let text = payload
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without text".to_owned());
    // The payload's own Drop may panic too.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
    AbiError::new(Code::PANICKED, format!("the backend panicked in `{what}`")).with_detail(text)
}

/// Runs an author's `info`. After a panic the id is empty, which the host refuses.
pub fn info_guarded<P: traits::Plugin>() -> PluginInfo {
    shielded(P::info).unwrap_or_else(|_| PluginInfo {
        id: "".into(),
        vendor: "".into(),
        version: "".into(),
        params: RVec::new(),
    })
}

/// Runs an author's `probe`; a panic is no offer.
pub fn probe_guarded<P: traits::Plugin>(hardware: &[HwDevice]) -> RVec<Offer> {
    shielded(|| P::probe(hardware)).unwrap_or_default().into()
}

/// Runs an author's `open` and wraps what it answers.
pub fn open_guarded<P: traits::Plugin>(hardware: &HwDevice, options: &[Param], host: HostRef) -> Res<BackendBox> {
    log::install(host.clone());
    match shielded(|| P::open(hardware, options, host)) {
        Ok(Ok(backend)) => ROk(Backend_TO::from_value(Guarded::new(backend), TD_Opaque)),
        Ok(Err(error)) => RErr(error),
        Err(payload) => RErr(panicked("open", payload)),
    }
}

impl Backend for Guarded<dyn traits::Backend> {
    fn memory(&self) -> MemReport {
        self.call("memory", |b| Ok(b.memory())).unwrap_or_default()
    }
    fn inspect(&self, source: &ModelSource) -> Res<ModelPlan> {
        self.call("inspect", |b| b.inspect(source))
    }
    fn load(&self, source: &ModelSource, ctl: &Ctl) -> Res<ModelBox> {
        self.call("load", |b| b.load(source, ctl)).map(|m| Model_TO::from_value(Guarded::new(m), TD_Opaque))
    }
}

impl Model for Guarded<dyn traits::Model> {
    fn memory(&self) -> MemReport {
        self.call("memory", |m| Ok(m.memory())).unwrap_or_default()
    }
    fn diffusion(&self, options: RSlice<'_, Param>) -> Res<DiffusionOpen> {
        self.call("diffusion", |m| m.diffusion(options.as_slice())).map(|(desc, session)| DiffusionOpen {
            desc,
            session: Diffusion_TO::from_value(Guarded::new(session), TD_Opaque),
        })
    }
    fn upscaler(&self, options: RSlice<'_, Param>) -> Res<UpscaleOpen> {
        self.call("upscaler", |m| m.upscaler(options.as_slice())).map(|(desc, session)| UpscaleOpen {
            desc,
            session: Upscaler_TO::from_value(Guarded::new(session), TD_Opaque),
        })
    }
    fn llm(&self, _options: RSlice<'_, Param>) -> Res<LlmOpen> {
        RErr(AbiError::unsupported("text generation for this model"))
    }
}

impl Diffusion for Guarded<dyn traits::Diffusion> {
    fn encode_text(&mut self, request: TextRequest<'_>, ctl: &Ctl) -> Res<TextEncoded> {
        self.call_mut("encode_text", |d| {
            check_text(&request)?;
            d.encode_text(&request, ctl)
        })
    }
    fn free_cond(&mut self, cond: u64) {
        let _ = self.call_mut("free_cond", |d| {
            d.free_cond(cond);
            Ok(())
        });
    }
    fn predict(
        &mut self,
        x: TensorRef<'_>,
        items: RSlice<'_, PredictItem<'_>>,
        out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Res<StepStats> {
        self.call_mut("predict", |d| {
            check_predict(&x, items.as_slice(), &out)?;
            d.predict(x, items.as_slice(), out, ctl)
        })
    }
    fn decode(
        &mut self,
        latents: TensorRef<'_>,
        options: RSlice<'_, Param>,
        out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Res<StepStats> {
        self.call_mut("decode", |d| {
            latents.validate()?;
            out.validate()?;
            d.decode(latents, options.as_slice(), out, ctl)
        })
    }
    fn encode(
        &mut self,
        image: TensorRef<'_>,
        options: RSlice<'_, Param>,
        out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Res<StepStats> {
        self.call_mut("encode", |d| {
            image.validate()?;
            out.validate()?;
            d.encode(image, options.as_slice(), out, ctl)
        })
    }
    fn preview(&mut self, latents: TensorRef<'_>, out: TensorMut<'_>, ctl: &Ctl) -> Res<StepStats> {
        self.call_mut("preview", |d| {
            latents.validate()?;
            out.validate()?;
            d.preview(latents, out, ctl)
        })
    }
    fn add_tokens(&mut self, encoder: u32, vectors: TensorRef<'_>) -> Res<u32> {
        self.call_mut("add_tokens", |d| {
            vectors.validate()?;
            d.add_tokens(encoder, vectors)
        })
    }
}

impl Upscaler for Guarded<dyn traits::Upscaler> {
    fn upscale(&mut self, image: TensorRef<'_>, out: TensorMut<'_>, ctl: &Ctl) -> Res<StepStats> {
        self.call_mut("upscale", |u| {
            image.validate()?;
            out.validate()?;
            u.upscale(image, out, ctl)
        })
    }
}

fn check_text(request: &TextRequest<'_>) -> Result<(), AbiError> {
    for input in request.inputs.iter() {
        let length = input.chunk_length as usize;
        if length == 0 || input.tokens.is_empty() || input.tokens.len() % length != 0 {
            return Err(AbiError::invalid(format!(
                "{} tokens are no whole number of chunks of {length}",
                input.tokens.len()
            )));
        }
        if input.weights.len() != input.tokens.len() {
            return Err(AbiError::invalid("each token needs one weight"));
        }
        if input.weights.iter().any(|weight| !weight.is_finite()) {
            return Err(AbiError::invalid("a token's weight is not finite"));
        }
    }
    Ok(())
}

fn check_predict(x: &TensorRef<'_>, items: &[PredictItem<'_>], out: &TensorMut<'_>) -> Result<(), AbiError> {
    x.validate()?;
    out.validate()?;
    let [n, _, _, _] = x.dims::<4>()?;
    if n == 0 || n != items.len() {
        return Err(AbiError::invalid(format!("a batch of {n} needs {n} items, got {}", items.len())));
    }
    if x.shape != out.shape || x.dtype != out.dtype {
        return Err(AbiError::invalid("input and output of `predict` differ in shape or type"));
    }
    items.iter().flat_map(|item| item.extra.iter()).try_for_each(TensorRef::validate)
}
