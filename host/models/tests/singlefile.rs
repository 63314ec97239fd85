//! Single files whose diffusers folder is known: the derived configs say what the folder's own configs say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

mod common;

use common::{copy, fixture, repository, resolve};
use sd_models::{Family, Format, ResolvedModel, TokenizerSource};
use serde_json::{Map, Value, json};
use std::{fs, path::Path};

/// Puts a single file into a folder, with the tiny tokenizers of its family.
fn place(dir: &Path, name: &str, sidecar: Value) -> std::path::PathBuf {
    let file = dir.join(format!("{name}.safetensors"));
    fs::copy(repository().join("tests/fixtures/singlefile").join(format!("{name}.safetensors")), &file).unwrap();
    for tokenizer in ["tokenizer", "tokenizer_2"] {
        let from = fixture(name).join(tokenizer);
        if from.exists() {
            copy(&from, &dir.join(tokenizer));
        }
    }
    if !sidecar.is_null() {
        fs::write(dir.join(format!("{name}.sd-worker.json")), sidecar.to_string()).unwrap();
    }
    file
}

fn fields(model: &ResolvedModel, part: &str) -> Map<String, Value> {
    let (_, text) = model.configs.iter().find(|(role, _)| *role == part).unwrap();
    serde_json::from_str(text).unwrap()
}

/// One number for all blocks, or a list of them, as a list.
fn spread(value: &Value, blocks: usize) -> Value {
    if value.is_number() { json!(vec![value.clone(); blocks]) } else { value.clone() }
}

#[track_caller]
fn check(name: &str, family: Family, sidecar: Value) {
    let dir = tempfile::tempdir().unwrap();
    let single = resolve(&place(dir.path(), name, sidecar)).unwrap();
    let folder = resolve(&fixture(name)).unwrap();
    assert_eq!((single.format, single.family), (Format::SingleFile, family), "{name}");
    assert_eq!(single.family, folder.family, "{name}");
    assert_eq!(single.to_source().files.len(), 1);
    assert_eq!(single.to_source().files[0].0, "checkpoint");
    assert_eq!(single.tokenizers.len(), folder.tokenizers.len(), "{name}");
    let mut compared = 0;
    for (part, text) in &folder.configs {
        let own: Map<String, Value> = serde_json::from_str(text).unwrap();
        let derived = fields(&single, part);
        let blocks = own.get("block_out_channels").and_then(Value::as_array).map_or(1, Vec::len);
        for (field, value) in &derived {
            // Names of the file's maker, sizes and care that shapes do not tell, and ids that depend on the vocabulary.
            if [
                "_class_name",
                "architectures",
                "sample_size",
                "force_upcast",
                "time_embedding_dim",
                "bos_token_id",
                "eos_token_id",
                "pad_token_id",
            ]
            .contains(&field.as_str())
            {
                continue;
            }
            // A projection that the folder's class does not use.
            if field == "projection_dim" && *part == "text_encoder" {
                continue;
            }
            let expected = own.get(field).unwrap_or(&Value::Null);
            assert_eq!(spread(value, blocks), spread(expected, blocks), "{name}: {part}: {field}");
            compared += 1;
        }
    }
    assert!(compared > 40, "{name}: {compared}");
    assert_eq!(single.scheduler_facts.prediction, folder.scheduler_facts.prediction, "{name}");
    assert_eq!(single.weights.parameters_by_part["unet"], folder.weights.parameters_by_part["unet"], "{name}");
    assert_eq!(single.weights.parameters_by_part["vae"], folder.weights.parameters_by_part["vae"], "{name}");
}

#[test]
fn derived_configs_are_the_folders() {
    let tokenizer = json!({ "tokenizer": "tokenizer" });
    check("sd15", Family::Sd1, tokenizer.clone());
    check("sdxl", Family::Sdxl, json!({ "tokenizer": "tokenizer", "tokenizer_2": "tokenizer_2" }));
    check("sd21-v", Family::Sd2V, json!({ "tokenizer": "tokenizer", "family": "sd2-v" }));
}

#[test]
fn sidecars_are_checked() {
    for (sidecar, code) in [
        (Value::Null, "bad_tokenizer"),
        (json!({ "tokenizer": "tokenizer", "family": "sd9" }), "bad_config"),
        (json!({ "tokenizer": "../elsewhere" }), "outside_models_dir"),
        (json!({ "tokenizer": "nowhere" }), "tokenizer_missing"),
        (json!({ "tokenizer": "tokenizer", "unet": 3 }), "bad_config"),
        (json!({ "tokenizer": "tokenizer", "unet": { "norm_num_groups": 7 } }), "bad_config"),
        (json!({ "tokenizer": "tokenizer", "unet": { "in_channels": 5 } }), "wrong_family"),
        (json!({ "tokenizer": "tokenizer", "scheduler": { "prediction_type": "x" } }), "bad_config"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let label = sidecar.to_string();
        assert_eq!(resolve(&place(dir.path(), "sd15", sidecar)).expect_err(&label).code(), code, "{label}");
    }
}

#[test]
fn sidecars_override() {
    let dir = tempfile::tempdir().unwrap();
    let notes = json!({ "tokenizer": "tokenizer", "unet": { "sample_size": 32 }, "scheduler": { "timestep_spacing": "linspace" }, "steps": 7 });
    let model = resolve(&place(dir.path(), "sd15", notes)).unwrap();
    assert_eq!((model.defaults.steps, model.defaults.width), (7, 128));
    assert_eq!(model.scheduler_facts.spacing, "linspace");
    assert!(matches!(model.tokenizers[0].source, TokenizerSource::VocabMerges { .. }));
}

#[test]
fn parts_that_are_not_there() {
    for (prefix, code) in [
        ("first_stage_model.", "model_part_missing"),
        ("cond_stage_model.", "model_part_missing"),
        ("model.diffusion_model.", "unsupported_model"),
        ("model.diffusion_model.output_blocks.3", "tensor_missing"),
        ("model.diffusion_model.middle_block.0.in_layers.0", "wrong_family"),
        ("first_stage_model.decoder.mid", "wrong_family"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let file = place(dir.path(), "sd15", json!({ "tokenizer": "tokenizer" }));
        let mut renamed = 0;
        common::reheader(&file, |header| {
            let names: Vec<String> = header.keys().filter(|name| name.starts_with(prefix)).cloned().collect();
            for name in names {
                let tensor = header.remove(&name).unwrap();
                header.insert(format!("gone.{name}"), tensor);
                renamed += 1;
            }
        });
        assert!(renamed > 0, "{prefix}");
        assert_eq!(resolve(&file).expect_err(prefix).code(), code, "{prefix}");
    }
}
