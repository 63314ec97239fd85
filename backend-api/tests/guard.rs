//! The author's guard: panics become errors, objects are poisoned, broken tensors never arrive.
#![allow(clippy::unwrap_used, clippy::panic, reason = "the helpers of a test fail by panicking")]

use backend_api::{
    AbiError, BackendBox, Code, Control, Control_TO, Ctl, DType, DiffusionBox, DiffusionDesc, EncoderInput, Host,
    Host_TO, HostRef, HwDevice, HwKind, LogLevel, MemReport, ModelPlan, ModelSource, Offer, Param, PluginInfo,
    PredictItem, Stage, StepStats, Task, TensorMut, TensorRef, TextEncoded, TextRequest,
    abi_stable::{
        sabi_trait::prelude::TD_Opaque,
        std_types::{RArc, RErr, ROk, RSlice, RStr, RVec},
    },
    author, find,
};
use std::sync::Mutex;

/// Panics in the method that the option `panic` names.
struct Script(String);

impl Script {
    fn at(&self, method: &str) {
        assert!(self.0 != method, "scripted panic in {method}");
    }
}

struct Plug;
impl author::Plugin for Plug {
    fn info() -> PluginInfo {
        panic!("scripted panic in info")
    }
    fn probe(_: &[HwDevice]) -> Vec<Offer> {
        panic!("scripted panic in probe")
    }
    fn open(_: &HwDevice, options: &[Param], _: HostRef) -> Result<Box<dyn author::Backend>, AbiError> {
        let script = Script(find(options, "panic").unwrap_or("").to_owned());
        script.at("open");
        Ok(Box::new(script))
    }
}

impl author::Backend for Script {
    fn memory(&self) -> MemReport {
        self.at("backend.memory");
        MemReport { device_total: 7, ..MemReport::default() }
    }
    fn inspect(&self, _: &ModelSource) -> Result<ModelPlan, AbiError> {
        self.at("inspect");
        Ok(ModelPlan { task: Task::DIFFUSION, weight_bytes: 0, peak_bytes: 0, params: RVec::new() })
    }
    fn load(&self, _: &ModelSource, _: &Ctl) -> Result<Box<dyn author::Model>, AbiError> {
        self.at("load");
        Ok(Box::new(Script(self.0.clone())))
    }
}

impl author::Model for Script {
    fn memory(&self) -> MemReport {
        self.at("model.memory");
        MemReport::default()
    }
    fn diffusion(&self, _: &[Param]) -> Result<(DiffusionDesc, Box<dyn author::Diffusion>), AbiError> {
        self.at("diffusion");
        let desc = DiffusionDesc {
            latent_channels: 4,
            vae_factor: 8,
            sample_size: 8,
            max_batch: 8,
            encoders: RVec::new(),
            inputs: RVec::new(),
            params: RVec::new(),
        };
        Ok((desc, Box::new(Session(Script(self.0.clone())))))
    }
}

struct Session(Script);
impl author::Diffusion for Session {
    fn encode_text(&mut self, _: &TextRequest<'_>, _: &Ctl) -> Result<TextEncoded, AbiError> {
        self.0.at("encode_text");
        Ok(TextEncoded { cond: 1, tokens: 77, bytes: 0, params: RVec::new() })
    }
    fn free_cond(&mut self, _: u64) {
        self.0.at("free_cond");
    }
    fn predict(
        &mut self,
        x: TensorRef<'_>,
        _: &[PredictItem<'_>],
        mut out: TensorMut<'_>,
        _: &Ctl,
    ) -> Result<StepStats, AbiError> {
        self.0.at("predict");
        out.write_f32(&x.to_f32()?)?;
        Ok(StepStats::default())
    }
    fn decode(&mut self, _: TensorRef<'_>, _: &[Param], _: TensorMut<'_>, _: &Ctl) -> Result<StepStats, AbiError> {
        self.0.at("decode");
        Ok(StepStats::default())
    }
}
impl Drop for Session {
    fn drop(&mut self) {
        self.0.at("drop");
    }
}

/// A library has one host log, whichever device was opened last, so all tests share it.
static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn logged(parts: &[&str]) -> bool {
    LOG.lock().unwrap().iter().any(|line| parts.iter().all(|part| line.contains(part)))
}

#[derive(Clone)]
struct Lines;
impl Host for Lines {
    fn log(&self, _: LogLevel, _: RStr<'_>, message: RStr<'_>) {
        LOG.lock().unwrap().push(message.to_string());
    }
}

struct Never;
impl Control for Never {
    fn cancelled(&self) -> bool {
        false
    }
    fn progress(&self, _: Stage, _: u64, _: u64) {}
}

fn ctl() -> Ctl {
    Control_TO::from_ptr(RArc::new(Never), TD_Opaque)
}

fn device() -> HwDevice {
    HwDevice {
        kind: HwKind::CPU,
        vendor_id: 0,
        device_id: 0,
        bus_id: "".into(),
        name: "test".into(),
        mem_total: 0,
        features: RVec::new(),
        params: RVec::new(),
    }
}

fn source() -> ModelSource {
    ModelSource { name: "m".into(), files: RVec::new(), configs: RVec::new(), options: RVec::new() }
}

fn open(panic_in: &str) -> Result<BackendBox, AbiError> {
    let host: HostRef = Host_TO::from_ptr(RArc::new(Lines), TD_Opaque);
    author::open_guarded::<Plug>(&device(), &[Param::new("panic", panic_in)], host).into_result()
}

fn session(panic_in: &str) -> Result<DiffusionBox, AbiError> {
    let model = open(panic_in)?.load(&source(), &ctl()).into_result()?;
    Ok(model.diffusion(RSlice::EMPTY).into_result()?.session)
}

fn predict(session: &mut DiffusionBox, items: usize) -> Result<Vec<f32>, AbiError> {
    let (shape, x, mut out) = ([1u64, 1, 1, 4], [1.0f32, 2.0, 3.0, 4.0], [0.0f32; 4]);
    let item = PredictItem { cond: 1, timestep: 0.0, sigma: 0.0, extra: RSlice::EMPTY, params: RSlice::EMPTY };
    let items = vec![item; items];
    session
        .predict(TensorRef::f32("x", &shape, &x)?, items.as_slice().into(), TensorMut::f32(&shape, &mut out)?, &ctl())
        .into_result()?;
    Ok(out.to_vec())
}

/// Calls everything once and answers the first failure.
fn whole_life(panic_in: &str) -> Result<(), AbiError> {
    let backend = open(panic_in)?;
    backend.inspect(&source()).into_result()?;
    let model = backend.load(&source(), &ctl()).into_result()?;
    let mut session = model.diffusion(RSlice::EMPTY).into_result()?.session;
    let request = TextRequest { inputs: RSlice::EMPTY, params: RSlice::EMPTY };
    session.encode_text(request, &ctl()).into_result()?;
    predict(&mut session, 1)?;
    let mut pixels = [0u8; 3];
    let latents = TensorRef::f32("x", &[1, 1, 1, 1], &[0.0])?;
    let out = TensorMut::new(DType::U8, &[1, 1, 1, 3], &mut pixels)?;
    session.decode(latents, RSlice::EMPTY, out, &ctl()).into_result()?;
    Ok(())
}

#[test]
fn a_panic_in_any_method_is_an_error_that_names_it() {
    for method in ["open", "inspect", "load", "diffusion", "encode_text", "predict", "decode"] {
        let error = whole_life(method).unwrap_err();
        assert_eq!(error.code, Code::PANICKED, "{method}: {error}");
        assert!(error.message.contains(method), "{error}");
        assert_eq!(error.detail.as_str(), format!("scripted panic in {method}"));
        assert!(logged(&[error.detail.as_str(), "guard.rs"]), "{method}: the panic and its place are not in the log");
    }
    whole_life("").unwrap();
}

#[test]
fn calls_without_an_error_channel_answer_a_default() {
    let backend = open("backend.memory").unwrap();
    assert_eq!(backend.memory(), MemReport::default());
    assert_eq!(open("").unwrap().memory().device_total, 7);
    assert_eq!(author::info_guarded::<Plug>().id.as_str(), "");
    assert!(author::probe_guarded::<Plug>(&[device()]).is_empty());
}

#[test]
fn an_object_that_panicked_refuses_further_calls() {
    let mut session = session("predict").unwrap();
    assert_eq!(predict(&mut session, 1).unwrap_err().code, Code::PANICKED);
    assert_eq!(predict(&mut session, 1).unwrap_err().code, Code::PRECONDITION);
    let request = TextRequest { inputs: RSlice::EMPTY, params: RSlice::EMPTY };
    let RErr(error) = session.encode_text(request, &ctl()) else { panic!("a poisoned session answered") };
    assert_eq!(error.code, Code::PRECONDITION);
}

#[test]
fn a_panic_in_one_object_leaves_the_others_usable() {
    let mut broken = session("predict").unwrap();
    let mut sound = session("").unwrap();
    assert!(predict(&mut broken, 1).is_err());
    assert_eq!(predict(&mut sound, 1).unwrap(), [1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn a_panic_in_drop_ends_in_the_log() {
    drop(session("drop").unwrap());
    assert!(logged(&["scripted panic in drop"]));
}

#[test]
fn a_panic_in_free_cond_poisons() {
    let mut session = session("free_cond").unwrap();
    session.free_cond(1);
    assert_eq!(predict(&mut session, 1).unwrap_err().code, Code::PRECONDITION);
}

#[test]
fn broken_arguments_never_arrive() {
    let mut session = session("").unwrap();
    assert_eq!(predict(&mut session, 2).unwrap_err().code, Code::INVALID);
    let check = |tokens: &[u32], weights: &[f32], chunk: u32| {
        let input = EncoderInput {
            encoder: 0,
            chunk_length: chunk,
            tokens: tokens.into(),
            weights: weights.into(),
            empty: RSlice::EMPTY,
            params: RSlice::EMPTY,
        };
        let mut session = self::session("").unwrap();
        match session.encode_text(TextRequest { inputs: [input][..].into(), params: RSlice::EMPTY }, &ctl()) {
            ROk(_) => None,
            RErr(error) => Some(error.code),
        }
    };
    assert_eq!(check(&[1, 2], &[1.0, 1.0], 2), None);
    assert_eq!(check(&[1, 2, 3], &[1.0; 3], 2), Some(Code::INVALID));
    assert_eq!(check(&[1, 2], &[1.0], 2), Some(Code::INVALID));
    assert_eq!(check(&[1, 2], &[1.0, 1.0], 0), Some(Code::INVALID));
    assert_eq!(check(&[], &[], 2), Some(Code::INVALID));
    assert_eq!(check(&[1, 2], &[1.0, f32::NAN], 2), Some(Code::INVALID));
    // A view whose shape lies about its bytes: an older or foreign host could send it.
    let bytes = [0u8; 8];
    let lying =
        TensorRef { name: "".into(), dtype: DType::F32, shape: [1u64, 1, 1, 4][..].into(), bytes: bytes[..].into() };
    let mut pixels = [0u8; 3];
    let out = TensorMut::new(DType::U8, &[1, 1, 1, 3], &mut pixels).unwrap();
    let RErr(error) = session.decode(lying, RSlice::EMPTY, out, &ctl()) else { panic!("a lying tensor arrived") };
    assert_eq!(error.code, Code::INVALID);
}

#[test]
fn what_a_backend_does_not_offer_is_unsupported() {
    let mut session = session("").unwrap();
    let RErr(error) = session.add_tokens(0, TensorRef::f32("v", &[1, 1], &[0.0]).unwrap()) else { panic!() };
    assert_eq!(error.code, Code::UNSUPPORTED);
    let model = open("").unwrap().load(&source(), &ctl()).into_result().unwrap();
    assert_eq!(model.llm(RSlice::EMPTY).into_result().err().unwrap().code, Code::UNSUPPORTED);
}
