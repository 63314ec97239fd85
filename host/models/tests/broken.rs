//! Broken model folders: each gives a typed error within a second, and its message names no path of the machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

mod common;

use common::{copy, edit, fixture, reheader, set};
use serde_json::json;
use std::{fs, path::Path, time::Duration};

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
const VAE: &str = "vae/diffusion_pytorch_model.safetensors";
const TEXT: &str = "text_encoder/model.safetensors";

#[track_caller]
fn check(label: &str, code: &str, part: &str, break_it: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("sd15");
    copy(&fixture("sd15"), &model);
    break_it(&model);
    let start = common::Clock::start();
    let library = sd_models::Library::new(vec![dir.path().to_path_buf()], None);
    let asked = sd_models::ModelRef::from_operator("sd15").unwrap();
    let report = library.check(&asked, Default::default());
    let took = start.elapsed();
    let problems = match report {
        Ok(report) => {
            assert!(report.model.is_none(), "{label}: loads");
            report.problems
        }
        Err(error) => vec![error],
    };
    let codes: Vec<&str> = problems.iter().map(|problem| problem.code()).collect();
    assert!(codes.contains(&code), "{label}: {codes:?}, expected {code}: {problems:?}");
    let messages: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert!(messages.iter().any(|text| text.contains(part)), "{label}: {messages:?} do not name {part}");
    assert!(messages.iter().all(|text| !text.contains(dir.path().to_str().unwrap())), "{label}: {messages:?}");
    assert!(took < Duration::from_secs(1), "{label}: {took:?}");
}

#[test]
fn the_fixture_itself_is_whole() {
    let report =
        sd_models::Library::default().check(&sd_models::ModelRef::Path(fixture("sd15")), Default::default()).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}

#[test]
fn missing_files() {
    for (file, code) in [
        ("model_index.json", "model_file_missing"),
        ("unet/config.json", "model_file_missing"),
        ("vae/config.json", "model_file_missing"),
        ("text_encoder/config.json", "model_file_missing"),
        ("scheduler/scheduler_config.json", "model_file_missing"),
        (UNET, "model_file_missing"),
        (VAE, "model_file_missing"),
        (TEXT, "model_file_missing"),
        ("tokenizer/merges.txt", "tokenizer_missing"),
        ("tokenizer/vocab.json", "tokenizer_missing"),
    ] {
        let part = if code == "tokenizer_missing" { "tokenizer" } else { file };
        check(&format!("without {file}"), code, part, |model| fs::remove_file(model.join(file)).unwrap());
    }
    check("without unet folder", "model_file_missing", "unet", |model| fs::remove_dir_all(model.join("unet")).unwrap());
    check("two parts gone", "model_file_missing", "vae", |model| {
        fs::remove_dir_all(model.join("unet")).unwrap();
        fs::remove_dir_all(model.join("vae")).unwrap();
    });
}

#[test]
fn pickles_in_place_of_weights() {
    check("only a .bin", "pickle_refused", "unet/diffusion_pytorch_model.bin", |model| {
        fs::rename(model.join(UNET), model.join("unet/diffusion_pytorch_model.bin")).unwrap();
    });
    check("a pickle with the right name", "pickle_refused", "unet", |model| {
        fs::write(model.join(UNET), b"\x80\x02}q\x00.").unwrap();
    });
    check("a torch zip with the right name", "pickle_refused", "vae", |model| {
        fs::write(model.join(VAE), b"PK\x03\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00").unwrap();
    });
    check("shards that are pickles", "pickle_refused", "pytorch_model-00001.bin", |model| {
        fs::remove_file(model.join(UNET)).unwrap();
        let index = json!({ "weight_map": { "conv_in.weight": "pytorch_model-00001.bin" } });
        fs::write(model.join(format!("{UNET}.index.json")), index.to_string()).unwrap();
    });
}

#[test]
fn bad_json() {
    let config = "unet/config.json";
    let write = |text: String| move |model: &Path| fs::write(model.join("unet/config.json"), text).unwrap();
    check("empty", "bad_json", config, write(String::new()));
    check("cut", "bad_json", config, write("{\"in_channels\": 4".into()));
    check("a list", "bad_json", config, write("[]".into()));
    check("NaN", "bad_json", config, write("{\"in_channels\": NaN}".into()));
    check("2 MiB", "json_too_large", config, write(format!("{{\"a\":\"{}\"}}", "x".repeat(2 << 20))));
    check("deep", "json_too_deep", config, write(format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000))));
    check("not UTF-8", "bad_json", config, |model| fs::write(model.join(config), b"{\"a\":\"\xff\"}").unwrap());
    check("bad index", "bad_json", "model_index.json", |model| fs::write(model.join("model_index.json"), "{").unwrap());
    check("bad vocabulary", "bad_json", "tokenizer/vocab.json", |model| {
        fs::write(model.join("tokenizer/vocab.json"), "{\"a\"").unwrap();
    });
}

#[test]
fn impossible_configs() {
    let huge = json!(1_u64 << 40);
    for (part, field, value, code) in [
        ("unet", "in_channels", json!(0), "bad_config"),
        ("unet", "in_channels", json!(-4), "bad_config"),
        ("unet", "in_channels", json!("4"), "bad_config"),
        ("unet", "in_channels", json!(7), "wrong_shape"),
        ("unet", "block_out_channels", json!([]), "bad_config"),
        ("unet", "block_out_channels", json!([huge, huge]), "bad_config"),
        ("unet", "block_out_channels", json!([16, 24]), "bad_config"),
        ("unet", "layers_per_block", json!(1_000_000), "bad_config"),
        ("unet", "norm_num_groups", json!(7), "bad_config"),
        ("unet", "attention_head_dim", json!(7), "bad_config"),
        ("unet", "cross_attention_dim", json!(64), "wrong_shape"),
        ("unet", "down_block_types", json!(["DownBlock2D", "DownBlock2D", "MagicBlock"]), "unknown_class"),
        ("unet", "_class_name", json!("FluxTransformer2DModel"), "unknown_class"),
        ("unet", "mid_block_type", json!("UNetMidBlock3D"), "unknown_class"),
        ("unet", "transformer_layers_per_block", json!([1, 2]), "bad_config"),
        ("unet", "transformer_layers_per_block", json!(1_000_000_000), "bad_config"),
        ("unet", "resnet_time_scale_shift", json!("scale_shift"), "bad_config"),
        ("unet", "addition_embed_type", json!("image_hint"), "unknown_class"),
        ("unet", "class_embed_type", json!("magic"), "unknown_class"),
        ("vae", "latent_channels", json!(16), "wrong_shape"),
        ("vae", "norm_num_groups", json!(5), "bad_config"),
        ("vae", "scaling_factor", json!(0), "bad_config"),
        ("vae", "_class_name", json!("VQModel"), "unknown_class"),
        ("vae", "down_block_types", json!(["DownEncoderBlock2D"]), "bad_config"),
        ("text_encoder", "hidden_size", json!(64), "wrong_shape"),
        ("text_encoder", "num_attention_heads", json!(7), "bad_config"),
        ("text_encoder", "num_hidden_layers", json!(999), "bad_config"),
        ("text_encoder", "num_hidden_layers", json!(99), "tensor_missing"),
        ("text_encoder", "hidden_act", json!("swish"), "unknown_class"),
        ("text_encoder", "model_type", json!("t5"), "unknown_class"),
        ("text_encoder", "vocab_size", json!(49_408), "wrong_shape"),
    ] {
        check(&format!("{part}.{field} = {value}"), code, part, |model| {
            set(&model.join(part).join("config.json"), field, value)
        });
    }
    for (field, value) in [
        ("prediction_type", json!("flow")),
        ("beta_schedule", json!("magic")),
        ("beta_start", json!(2)),
        ("num_train_timesteps", json!(0)),
    ] {
        check(field, "bad_config", "scheduler", |model| {
            set(&model.join("scheduler/scheduler_config.json"), field, value)
        });
    }
}

#[test]
fn wrong_families() {
    let index = "model_index.json";
    check("Flux", "unknown_class", index, |model| set(&model.join(index), "_class_name", json!("FluxPipeline")));
    check("a transformer", "unsupported_model", "transformer", |model| {
        set(&model.join(index), "transformer", json!(["diffusers", "SD3Transformer2DModel"]));
    });
    check("no class", "bad_config", "_class_name", |model| {
        edit(&model.join(index), |fields| drop(fields.remove("_class_name")))
    });
    check("no UNet", "model_part_missing", "unet", |model| set(&model.join(index), "unet", json!([null, null])));
    check("no text encoder", "wrong_family", "text encoders", |model| {
        set(&model.join(index), "text_encoder", json!([null, null]));
    });
    check("a T5 as text encoder", "unknown_class", "text_encoder", |model| {
        set(&model.join(index), "text_encoder", json!(["transformers", "T5EncoderModel"]));
    });
    check("a number as part", "bad_config", "vae", |model| set(&model.join(index), "vae", json!(3)));
    check("a UNet for other latents", "wrong_family", "UNet makes", |model| {
        set(&model.join("unet/config.json"), "out_channels", json!(8));
        common::reshape(&model.join(UNET), "conv_out.weight", &[8, 16, 3, 3]);
        common::reshape(&model.join(UNET), "conv_out.bias", &[8]);
    });
    check("a UNet of seven inputs", "wrong_family", "takes 7 channels", |model| {
        set(&model.join("unet/config.json"), "in_channels", json!(7));
        common::reshape(&model.join(UNET), "conv_in.weight", &[16, 7, 3, 3]);
    });
    check("another model's UNet", "wrong_family", "text encoders", |model| {
        fs::remove_dir_all(model.join("unet")).unwrap();
        copy(&common::repository().join("models/emoji-sd/unet"), &model.join("unet"));
    });
    check("vocabulary beyond the encoder", "bad_tokenizer", "vocab.json", |model| {
        set(&model.join("tokenizer/vocab.json"), "zzz", json!(1_000_000));
    });
    check("empty merges", "bad_tokenizer", "merges.txt", |model| {
        fs::write(model.join("tokenizer/merges.txt"), "").unwrap()
    });
}

#[test]
fn wrong_tensors() {
    check("a tensor renamed", "tensor_missing", "conv_in.weight", |model| {
        reheader(&model.join(UNET), |header| {
            let tensor = header.remove("conv_in.weight").unwrap();
            header.insert("conv_in.other".into(), tensor);
        });
    });
    check("a tensor turned", "wrong_shape", "time_embedding.linear_1.weight", |model| {
        reheader(&model.join(UNET), |header| {
            let tensor = header.get_mut("time_embedding.linear_1.weight").unwrap();
            tensor["shape"] = json!([tensor["shape"][1], tensor["shape"][0]]);
        });
    });
    check("integers", "unsupported_dtype", "conv_in.bias", |model| {
        reheader(&model.join(UNET), |header| {
            let tensor = header.get_mut("conv_in.bias").unwrap();
            tensor["dtype"] = if tensor["dtype"] == "F16" { json!("I16") } else { json!("I32") };
        });
    });
    check("a shard index without its shard", "model_file_missing", "part-2.safetensors", |model| {
        fs::remove_file(model.join(UNET)).unwrap();
        let index = json!({ "weight_map": { "conv_in.weight": "part-2.safetensors" } });
        fs::write(model.join(format!("{UNET}.index.json")), index.to_string()).unwrap();
    });
    for (label, name) in [
        ("climbing", "../../../etc/passwd.safetensors"),
        ("absolute", "/etc/x.safetensors"),
        ("hidden", ".x.safetensors"),
        ("foreign", "x.json"),
    ] {
        check(&format!("a {label} shard"), "bad_shard_index", "index.json", |model| {
            fs::remove_file(model.join(UNET)).unwrap();
            let index = json!({ "weight_map": { "conv_in.weight": name } });
            fs::write(model.join(format!("{UNET}.index.json")), index.to_string()).unwrap();
        });
    }
}

#[cfg(unix)]
#[test]
fn links_and_devices() {
    use std::os::unix::fs::symlink;
    let outside = tempfile::tempdir().unwrap();
    fs::copy(fixture("sd15").join(UNET), outside.path().join("w.safetensors")).unwrap();
    let target = outside.path().join("w.safetensors");
    check("weights elsewhere", "outside_models_dir", "unet", |model| {
        fs::remove_file(model.join(UNET)).unwrap();
        symlink(&target, model.join(UNET)).unwrap();
    });
    check("config elsewhere", "outside_models_dir", "unet/config.json", |model| {
        fs::remove_file(model.join("unet/config.json")).unwrap();
        symlink("/etc/passwd", model.join("unet/config.json")).unwrap();
    });
    check("folder elsewhere", "outside_models_dir", "vae", |model| {
        fs::remove_dir_all(model.join("vae")).unwrap();
        symlink(outside.path(), model.join("vae")).unwrap();
        fs::copy(fixture("sd15").join("vae/config.json"), outside.path().join("config.json")).unwrap();
    });
    check("a device", "outside_models_dir", "unet", |model| {
        fs::remove_file(model.join(UNET)).unwrap();
        symlink("/dev/zero", model.join(UNET)).unwrap();
    });
    check("a directory as weights", "not_a_file", "unet", |model| {
        fs::remove_file(model.join(UNET)).unwrap();
        fs::create_dir(model.join(UNET)).unwrap();
    });
    check("a link in a circle", "model_io", "unet", |model| {
        fs::remove_file(model.join(UNET)).unwrap();
        symlink("diffusion_pytorch_model.safetensors", model.join(UNET)).unwrap();
    });
    check("a link to nothing", "model_file_missing", "points to nothing", |model| {
        fs::remove_file(model.join(UNET)).unwrap();
        symlink("nowhere", model.join(UNET)).unwrap();
    });
}

/// Weights cut at a thousand places: always an error, never a map of bytes that are not there.
#[test]
fn truncated_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("m");
    copy(&fixture("sd15"), &model);
    let whole = fs::read(model.join(UNET)).unwrap();
    let start = common::Clock::start();
    for i in 0..1_000_usize {
        // Every byte of the first hundred, then evenly to the last byte.
        let length = if i < 100 { i } else { 100 + (i - 100) * (whole.len() - 101) / 899 };
        fs::write(model.join(UNET), &whole[..length]).unwrap();
        let error = common::resolve(&model).expect_err("a cut file");
        assert_eq!(error.code(), "file_truncated", "at {length} of {}: {error}", whole.len());
    }
    assert!(start.elapsed() < Duration::from_secs(60));
    fs::write(model.join(UNET), &whole).unwrap();
    assert!(common::resolve(&model).is_ok());
}
