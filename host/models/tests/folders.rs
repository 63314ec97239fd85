//! Diffusers folders that diffusers itself wrote: each family is recognised, complete, and described.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

use sd_models::{Family, Library, ModelRef, Precision, ResolveOptions, TokenizerSource};
use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_path_buf()
}

fn library() -> Library {
    Library::new(vec![repository().join("models"), repository().join("tests/fixtures/models")], None)
}

#[track_caller]
fn check(name: &str, family: Family, sampler: &str, guidance: f32, encoders: usize) {
    let model = library().resolve(&ModelRef::from_operator(name).unwrap(), ResolveOptions::default()).unwrap();
    assert_eq!(model.family, family, "{name}");
    assert_eq!(model.defaults.sampler, sampler, "{name}");
    assert!((model.defaults.guidance - guidance).abs() < 1e-6, "{name}: {}", model.defaults.guidance);
    assert_eq!(model.tokenizers.len(), encoders, "{name}");
    let roles: Vec<&str> = model.files.iter().map(|(role, _)| *role).collect();
    assert!(roles.contains(&"unet") && roles.contains(&"vae"), "{name}: {roles:?}");
    assert_eq!(roles.len(), 2 + encoders, "{name}: {roles:?}");
    assert_eq!(model.configs.len(), roles.len(), "{name}");
    for tokenizer in &model.tokenizers {
        let texts = tokenizer.read().unwrap();
        assert!(texts.vocab_json.is_some() && texts.merges_txt.is_some() && texts.tokenizer_config.is_some(), "{name}");
    }
    let source = model.to_source();
    for (role, path) in &source.files {
        assert!(Path::new(path).is_absolute() && path.ends_with(".safetensors"), "{role}: {path}");
    }
    assert!(model.weights.parameters > 10_000 && model.fingerprint.len() == 64);
    assert!(matches!(model.tokenizers[0].source, TokenizerSource::VocabMerges { .. }), "{name}");
    let small = model.estimate(512, 512, Precision::F32);
    let large = model.estimate(1024, 1024, Precision::F32);
    assert!(small.peak > small.weights && large.peak > small.peak && large.weights == small.weights, "{name}");
}

#[test]
fn the_bundled_model() {
    let model = library().resolve(&ModelRef::from_operator("emoji-sd").unwrap(), ResolveOptions::default()).unwrap();
    assert_eq!(model.family, Family::Sd1);
    assert_eq!(model.defaults.prediction.name(), "v_prediction");
    let resolved_by_path =
        library().resolve(&ModelRef::Path(repository().join("models/emoji-sd")), ResolveOptions::default()).unwrap();
    assert_eq!(model.fingerprint, resolved_by_path.fingerprint);
}

#[test]
fn families_of_the_fixtures() {
    check("sd15", Family::Sd1, "plms", 7.5, 1);
    check("sd15-inpaint", Family::Sd1Inpaint, "plms", 7.5, 1);
    check("pix2pix", Family::Pix2Pix, "euler", 7.5, 1);
    check("tiny-sd", Family::Sd1Small, "plms", 7.5, 1);
    check("lcm", Family::Lcm, "lcm", 8.5, 1);
    check("sd21-base", Family::Sd2, "plms", 7.5, 1);
    check("sd21-v", Family::Sd2V, "ddim", 7.5, 1);
    check("sd2-inpaint", Family::Sd2Inpaint, "plms", 7.5, 1);
    check("sd-turbo", Family::SdTurbo, "euler", 0.0, 1);
    check("sdxl", Family::Sdxl, "euler", 5.0, 2);
    check("sdxl-inpaint", Family::SdxlInpaint, "euler", 5.0, 2);
    check("sdxl-refiner", Family::SdxlRefiner, "euler", 5.0, 1);
    check("sdxl-turbo", Family::SdxlTurbo, "euler_a", 0.0, 2);
    check("ssd1b", Family::Ssd1b, "euler", 7.5, 2);
}
