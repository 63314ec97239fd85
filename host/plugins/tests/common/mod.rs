//! Shared by the tests of plugins: the built libraries, folders to put them in, a whole life of a backend.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test file uses a part of this; a test fails by panicking"
)]

use sd_plugins::{
    Cancel, Catalog, Choice, Opened, PluginError, Search, Trust,
    backend_api::{
        AbiError, BackendBox, Ctl, DiffusionBox, EncoderInput, HwDevice, HwKind, ModelSource, Param, PredictItem,
        TensorMut, TensorRef, TextRequest,
        abi_stable::std_types::{RSlice, RVec},
    },
    control, host_ref,
};
use std::path::{Path, PathBuf};

/// A plugin built by `cargo build --release -p sd-backend-<name>` into the folder of this test's own executable.
pub(crate) fn library(name: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let folder = exe.parent().and_then(Path::parent).unwrap();
    let path = folder.join(format!("libsd_backend_{}.so", name.replace('-', "_")));
    assert!(path.is_file(), "{} is missing: cargo build --release -p sd-backend-{name}", path.display());
    path
}

/// A folder with copies of plugins under their own names.
pub(crate) fn folder(names: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in names {
        let from = library(name);
        std::fs::copy(&from, dir.path().join(from.file_name().unwrap())).unwrap();
    }
    dir
}

/// A search in one folder, on a machine with one CPU and two NVIDIA cards.
pub(crate) fn search(dir: &Path) -> Search {
    let device = |kind, label: &str, index: u32| HwDevice {
        kind,
        vendor_id: 0,
        device_id: 0,
        bus_id: "".into(),
        name: label.into(),
        mem_total: 1 << 30,
        features: RVec::new(),
        params: vec![Param::new("label", label), Param::new("index", index), Param::new("cores", 2)].into(),
    };
    let hardware =
        vec![device(HwKind::CPU, "cpu", 0), device(HwKind::GPU, "cuda:0", 0), device(HwKind::GPU, "cuda:1", 1)];
    Search { dirs: vec![dir.to_owned()], trust: Trust::Anyone, hardware: Some(hardware), ..Search::default() }
}

/// The wish for a plugin by name, with an option.
pub(crate) fn named(id: &str, options: &[(&str, &str)]) -> Choice {
    Choice {
        backend: Some(id.to_owned()),
        options: options.iter().map(|(k, v)| Param::new(k, v)).collect(),
        ..Choice::default()
    }
}

pub(crate) fn open(catalog: &Catalog, choice: &Choice) -> Result<Opened, PluginError> {
    catalog.open(choice, &|_| host_ref(|_, _, _| ()))
}

pub(crate) fn quiet() -> Ctl {
    control(&Cancel::new(), |_, _, _| ())
}

pub(crate) fn source(config: &str, options: &[(&str, &str)]) -> ModelSource {
    ModelSource {
        name: "test".into(),
        files: RVec::new(),
        configs: vec![Param::new("gauss", config)].into(),
        options: options.iter().map(|(k, v)| Param::new(k, v)).collect(),
    }
}

pub(crate) fn session(backend: &BackendBox, source: &ModelSource) -> Result<DiffusionBox, AbiError> {
    let model = backend.load(source, &quiet()).into_result()?;
    Ok(model.diffusion(RSlice::EMPTY).into_result()?.session)
}

pub(crate) fn encode(session: &mut DiffusionBox, tokens: &[u32]) -> Result<u64, AbiError> {
    let weights = vec![1.0; tokens.len()];
    let input = EncoderInput {
        encoder: 0,
        chunk_length: tokens.len() as u32,
        tokens: tokens.into(),
        weights: weights.as_slice().into(),
        empty: RSlice::EMPTY,
        params: RSlice::EMPTY,
    };
    let inputs = [input];
    let request = TextRequest { inputs: inputs[..].into(), params: RSlice::EMPTY };
    Ok(session.encode_text(request, &quiet()).into_result()?.cond)
}

/// One `predict` of `n` items of 4 × 8 × 8 with rising noise levels; answers the outputs.
pub(crate) fn predict(session: &mut DiffusionBox, cond: u64, n: usize) -> Result<Vec<f32>, AbiError> {
    predict_ctl(session, cond, n, &quiet())
}

pub(crate) fn predict_ctl(session: &mut DiffusionBox, cond: u64, n: usize, ctl: &Ctl) -> Result<Vec<f32>, AbiError> {
    let shape = [n as u64, 4, 8, 8];
    let x: Vec<f32> = (0..n * 256).map(|i| (i as f32 * 0.37).sin()).collect();
    let mut out = vec![0.0f32; x.len()];
    let item = |i: usize| PredictItem {
        cond,
        timestep: i as f32,
        sigma: 0.5 + i as f32,
        extra: RSlice::EMPTY,
        params: RSlice::EMPTY,
    };
    let items: Vec<_> = (0..n).map(item).collect();
    let view = TensorMut::f32(&shape, &mut out)?;
    session.predict(TensorRef::f32("x", &shape, &x)?, items.as_slice().into(), view, ctl).into_result()?;
    Ok(out)
}

pub(crate) fn decode(session: &mut DiffusionBox) -> Result<Vec<f32>, AbiError> {
    let latents = [0.5f32; 4];
    let mut out = vec![0.0f32; 8 * 8 * 3];
    let view = TensorMut::f32(&[1, 8, 8, 3], &mut out)?;
    let latents = TensorRef::f32("", &[1, 4, 1, 1], &latents)?;
    session.decode(latents, RSlice::EMPTY, view, &quiet()).into_result()?;
    Ok(out)
}

/// Loads a model, encodes, predicts twice, decodes: what a small job does.
pub(crate) fn job(backend: &BackendBox, source: &ModelSource) -> Result<Vec<f32>, AbiError> {
    backend.inspect(source).into_result()?;
    let mut session = session(backend, source)?;
    let cond = encode(&mut session, &[1, 2, 3])?;
    predict(&mut session, cond, 1)?;
    let out = predict(&mut session, cond, 2)?;
    decode(&mut session)?;
    session.free_cond(cond);
    Ok(out)
}
