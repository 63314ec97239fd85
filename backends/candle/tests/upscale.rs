//! ESRGAN upscalers against spandrel: every way to name the tensors, every factor, every set of kernels.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

mod common;

use backend_api::{
    AbiError, Code, Ctl, ModelSource, Param, Task, TensorMut, TensorRef, UpscalerDesc,
    author::{Backend as _, Upscaler},
};
use common::{Golden, Hand, backend, relative, root};
use safetensors::{SafeTensors, tensor::TensorView};
use sd_candle::ops;
use std::path::Path;

fn source(path: &Path) -> ModelSource {
    let files = vec![Param::new("upscaler", path.display())];
    ModelSource { name: "test".into(), files: files.into(), configs: Vec::new().into(), options: Vec::new().into() }
}

fn fixture(name: &str) -> std::path::PathBuf {
    root().join("tests/fixtures/models/upscalers").join(format!("{name}.safetensors"))
}

fn open(path: &Path, kernels: &str) -> Result<(UpscalerDesc, Box<dyn Upscaler>), AbiError> {
    backend(kernels).load(&source(path), &Hand::default().ctl())?.upscaler(&[])
}

/// The golden picture as `[h, w, 3]`.
fn hwc(golden: &Golden, name: &str) -> ([u64; 3], Vec<f32>) {
    let (shape, values) = golden.get(name);
    let (h, w) = (shape[2], shape[3]);
    let pixels = (0..h * w).flat_map(|at| [0, 1, 2].map(|c| values[c * h * w + at])).collect();
    ([h as u64, w as u64, 3], pixels)
}

fn enlarge(
    session: &mut dyn Upscaler,
    from: (&[u64; 3], &[f32]),
    to: [u64; 3],
    ctl: &Ctl,
) -> Result<Vec<f32>, AbiError> {
    let mut out = vec![f32::NAN; to.iter().product::<u64>() as usize];
    session.upscale(TensorRef::f32("", from.0, from.1)?, TensorMut::f32(&to, &mut out)?, ctl)?;
    Ok(out)
}

#[test]
fn every_form_gives_what_spandrel_gives() {
    let golden = Golden::read("upscalers");
    let (shape, picture) = hwc(&golden, "picture");
    let names = [
        ("body-x4", 4),
        ("body-x2", 2),
        ("body-x1", 1),
        ("trunk-x4", 4),
        ("sequence-x4", 4),
        ("sequence-x2", 2),
        ("sequence-x1", 1),
        ("averaged-x4", 4),
    ];
    for kernels in ops::cpu::available() {
        for (name, factor) in names {
            let (desc, mut session) = open(&fixture(name), kernels).unwrap();
            assert_eq!(desc.factor, factor, "{name}");
            let (to, wanted) = hwc(&golden, name);
            let ours = enlarge(session.as_mut(), (&shape, &picture), to, &Hand::default().ctl()).unwrap();
            let far = relative(&ours, &wanted);
            assert!(far < 1e-4, "{kernels} {name}: {far}");
        }
    }
}

#[test]
fn calls_are_checked_and_stop() {
    let (_, mut session) = open(&fixture("body-x4"), "auto").unwrap();
    let (shape, picture) = ([4, 5, 3], vec![0.5; 60]);
    let mut call = |to, ctl: &Ctl| enlarge(session.as_mut(), (&shape, &picture), to, ctl).map_err(|e| e.code);
    assert_eq!(call([16, 16, 3], &Hand::default().ctl()), Err(Code::INVALID));
    assert_eq!(call([16, 20, 3], &Hand::cancelling(2).ctl()), Err(Code::CANCELLED));
    assert!(call([16, 20, 3], &Hand::default().ctl()).is_ok());
    let backend = backend("auto");
    let plan = backend.inspect(&source(&fixture("body-x4"))).unwrap();
    assert_eq!(plan.task, Task::UPSCALE);
    let model = backend.load(&source(&fixture("body-x4")), &Hand::default().ctl()).unwrap();
    assert_eq!(model.memory().weights, plan.weight_bytes);
    assert_eq!(backend.memory().weights, plan.weight_bytes);
    assert_eq!(model.diffusion(&[]).err().unwrap().code, Code::UNSUPPORTED);
}

#[test]
fn other_files_are_refused_by_what_they_lack() {
    let path = std::env::temp_dir().join(format!("sd-upscaler-{}.safetensors", std::process::id()));
    let bytes = std::fs::read(fixture("trunk-x4")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let without = |dropped: &str| {
        let kept: Vec<(String, TensorView<'_>)> =
            file.tensors().into_iter().filter(|(name, _)| name != dropped).collect();
        std::fs::write(&path, safetensors::serialize(kept, None).unwrap()).unwrap();
        open(&path, "auto").map(|_| ()).map_err(|e| (e.code, e.message.to_string()))
    };
    assert!(without("nothing").is_ok());
    for name in ["conv_first.weight", "RRDB_trunk.0.RDB1.conv1.weight", "upconv2.weight", "conv_last.weight"] {
        let (code, message) = without(name).unwrap_err();
        assert_eq!(code, Code::NOT_FOUND, "{name}");
        assert!(name.starts_with("RRDB") || message.contains(name), "{name}: {message}");
    }
    std::fs::remove_file(&path).unwrap();
    let error = open(&root().join("models/emoji-sd/vae/diffusion_pytorch_model.safetensors"), "auto").err().unwrap();
    assert_eq!(error.code, Code::NOT_FOUND);
}
