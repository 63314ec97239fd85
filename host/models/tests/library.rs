//! The models directory: listing, importing, removing, hashing, and models that say their own wishes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

mod common;

use common::{copy, fixture, repository, set};
use sd_models::{Library, ModelName, ModelRef, Origin, ResolveOptions};
use serde_json::json;
use std::fs;

fn name(text: &str) -> ModelName {
    ModelName::parse(text).unwrap()
}

fn resolve(library: &Library, text: &str) -> sd_models::Result<sd_models::ResolvedModel> {
    library.resolve(&ModelRef::Name(name(text)), ResolveOptions::default())
}

#[test]
fn lists_good_and_broken_models() {
    let dir = tempfile::tempdir().unwrap();
    copy(&fixture("sd15"), &dir.path().join("good"));
    copy(&fixture("sd15"), &dir.path().join("broken"));
    fs::remove_file(dir.path().join("broken/unet/config.json")).unwrap();
    fs::create_dir(dir.path().join("empty")).unwrap();
    fs::write(dir.path().join("notes.txt"), "x").unwrap();
    fs::write(dir.path().join("a b.safetensors"), "x").unwrap();
    let library = Library::new(vec![dir.path().into(), repository().join("models"), dir.path().join("absent")], None);
    let entries = library.list();
    let seen: Vec<_> = entries
        .iter()
        .map(|entry| (entry.name.as_str(), entry.is_complete(), entry.problem.as_ref().map(|problem| problem.code())))
        .collect();
    assert_eq!(
        seen,
        [
            ("a b", false, Some("invalid_model_name")),
            ("broken", false, Some("model_file_missing")),
            ("good", true, None),
            ("emoji-sd", true, None),
        ]
    );
    assert!(entries.iter().all(|entry| entry.origin == Origin::Directory && entry.modified.is_some()));
    let report = library.check(&ModelRef::Name(name("broken")), ResolveOptions::default()).unwrap();
    assert_eq!(report.missing(), ["unet/config.json"]);
}

#[test]
fn unknown_names_come_with_a_remedy() {
    let library = Library::new(vec![repository().join("models")], None);
    let message = |text| resolve(&library, text).unwrap_err().to_string();
    assert!(message("no-such-model").contains("emoji-sd"), "{}", message("no-such-model"));
    assert!(message("sd-turbo").contains("models pull sd-turbo"));
    assert!(message("acme/x@v1").contains("models pull acme/x@v1"));
    assert_eq!(resolve(&library, "no-such-model").unwrap_err().code(), "model_not_found");
}

#[test]
fn imports_and_removes() {
    let dir = tempfile::tempdir().unwrap();
    let models = dir.path().join("models");
    let library = Library::new(vec![models.clone()], None);
    let imported = library.import(&fixture("sd15"), Some("mine")).unwrap();
    assert_eq!(imported.name, "mine");
    let code = |result: sd_models::Result<sd_models::ResolvedModel>| result.unwrap_err().code();
    assert_eq!(code(library.import(&fixture("sd15"), Some("mine"))), "model_exists");
    assert_eq!(code(library.import(&fixture("sd15"), Some("../mine"))), "invalid_model_name");
    assert_eq!(code(library.import(&fixture("sd15"), Some("a/b"))), "invalid_model_name");
    assert_eq!(code(library.import(&dir.path().join("absent"), Some("x"))), "model_not_found");
    let broken = dir.path().join("broken");
    copy(&fixture("sd15"), &broken);
    fs::write(broken.join("vae/config.json"), "{").unwrap();
    assert_eq!(code(library.import(&broken, None)), "bad_json");
    let pickle = dir.path().join("m.ckpt");
    fs::write(&pickle, b"\x80\x02").unwrap();
    assert_eq!(code(library.import(&pickle, Some("m"))), "pickle_refused");
    assert_eq!(library.list().len(), 1, "a failed import left something");
    assert_eq!(models.read_dir().unwrap().count(), 1);

    assert!(library.remove(&name("mine")).unwrap() > 10_000);
    assert_eq!(library.remove(&name("mine")).unwrap_err().code(), "model_not_found");
    assert_eq!(models.read_dir().unwrap().count(), 0);
    assert!(fixture("sd15").join("model_index.json").exists(), "the original is gone");
}

#[cfg(unix)]
#[test]
fn removing_a_link_keeps_what_it_points_to() {
    let dir = tempfile::tempdir().unwrap();
    let (models, real) = (dir.path().join("models"), dir.path().join("real"));
    fs::create_dir(&models).unwrap();
    copy(&fixture("sd15"), &real);
    std::os::unix::fs::symlink(&real, models.join("linked")).unwrap();
    let library = Library::new(vec![models.clone()], None);
    assert_eq!(resolve(&library, "linked").unwrap_err().code(), "outside_models_dir");
    library.remove(&name("linked")).unwrap();
    assert!(real.join("model_index.json").exists() && !models.join("linked").exists());
}

#[test]
fn the_checksum_is_that_of_the_file_and_is_kept() {
    use sha2::{Digest, Sha256};
    let dir = tempfile::tempdir().unwrap();
    let model_dir = dir.path().join("m");
    copy(&fixture("sd15"), &model_dir);
    let model = common::resolve(&model_dir).unwrap();
    let unet = fs::read(model_dir.join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    let expect: String = Sha256::digest(&unet).iter().map(|b| format!("{b:02x}")).collect();
    let cache = dir.path().join("hashes.json");
    assert_eq!(model.sha256(Some(&cache)).unwrap(), expect);
    assert_eq!(model.short_hash(None).unwrap(), expect[..10]);
    // What the cache says is believed while path, size and time stay the same.
    let poisoned = fs::read_to_string(&cache).unwrap().replace(&expect, &"0".repeat(64));
    fs::write(&cache, poisoned).unwrap();
    assert_eq!(model.sha256(Some(&cache)).unwrap(), "0".repeat(64));
    fs::write(&cache, "not json").unwrap();
    assert_eq!(model.sha256(Some(&cache)).unwrap(), expect);
}

#[test]
fn fingerprints_follow_content_not_names() {
    let dir = tempfile::tempdir().unwrap();
    copy(&fixture("sd15"), &dir.path().join("one"));
    copy(&fixture("sd15"), &dir.path().join("two"));
    let print = |text: &str| common::resolve(&dir.path().join(text)).unwrap().fingerprint;
    assert_eq!(print("one"), print("two"));
    set(&dir.path().join("two/vae/config.json"), "scaling_factor", json!(0.5));
    assert_ne!(print("one"), print("two"));
}

#[test]
fn a_model_says_its_own_wishes() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("m");
    copy(&fixture("sd15"), &model);
    let wishes = model.join("sd-worker.json");
    fs::write(&wishes, r#"{"steps":12,"guidance_scale":3,"sampler":"ddim","width":64,"examples":["a cat"],"preview_factors":[[1,0,0],[0,1,0],[0,0,1],[0,0,0],[0.5,0,-0.5]]}"#).unwrap();
    let found = common::resolve(&model).unwrap().defaults;
    assert_eq!((found.steps, found.guidance, found.sampler.as_str(), found.width), (12, 3.0, "ddim", 64));
    assert_eq!(found.examples, ["a cat"]);
    assert_eq!(found.preview_factors.unwrap()[4], [0.5, 0.0, -0.5]);
    for bad in [
        r#"{"steps":0}"#,
        r#"{"steps":100000}"#,
        r#"{"width":3}"#,
        r#"{"guidance_scale":-1}"#,
        r#"{"sampler":3}"#,
        r#"{"preview_factors":[[1,2,3]]}"#,
    ] {
        fs::write(&wishes, bad).unwrap();
        assert_eq!(common::resolve(&model).unwrap_err().code(), "bad_config", "{bad}");
    }
}

#[test]
fn upscalers_are_found_by_their_folder_and_told_by_their_header() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("upscalers");
    fs::create_dir(&folder).unwrap();
    let committed = fixture("upscalers");
    for entry in fs::read_dir(&committed).unwrap().flatten() {
        fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    fs::write(folder.join("old.pth"), "x").unwrap();
    fs::write(folder.join("note.txt"), "x").unwrap();
    fs::copy(fixture("parts/taesd/diffusion_pytorch_model.safetensors"), folder.join("other.safetensors")).unwrap();
    let library = sd_models::Library::new(vec![dir.path().to_path_buf()], None);
    let found = library.upscalers();
    let good: Vec<(&str, u32)> =
        found.iter().filter_map(|f| Some((f.name.as_str(), f.upscaler.as_ref().ok()?.factor))).collect();
    let expected = [
        ("averaged-x4", 4),
        ("body-x1", 1),
        ("body-x2", 2),
        ("body-x4", 4),
        ("sequence-x1", 1),
        ("sequence-x2", 2),
        ("sequence-x4", 4),
        ("trunk-x4", 4),
    ];
    assert_eq!(good, expected);
    let bad: Vec<(&str, &str)> =
        found.iter().filter_map(|f| Some((f.name.as_str(), f.upscaler.as_ref().err()?.code()))).collect();
    assert_eq!(bad, [("old", "pickle_refused"), ("other", "unsupported_format")]);
    assert!(library.list().is_empty(), "a folder of upscalers is no model");
}

#[test]
fn the_makers_sampler_is_the_default() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("m");
    copy(&fixture("sd15"), &model);
    let scheduler = model.join("scheduler/scheduler_config.json");
    for (class, algorithm, expect) in [
        ("DPMSolverMultistepScheduler", "dpmsolver++", "dpmpp_2m"),
        ("DPMSolverMultistepScheduler", "sde-dpmsolver++", "dpmpp_2m_sde"),
        ("UniPCMultistepScheduler", "", "unipc"),
        ("EulerAncestralDiscreteScheduler", "", "euler_a"),
        ("LCMScheduler", "", "lcm"),
        ("SomethingNewScheduler", "", "ddim"),
    ] {
        set(&scheduler, "_class_name", json!(class));
        set(&scheduler, "algorithm_type", json!(algorithm));
        assert_eq!(common::resolve(&model).unwrap().defaults.sampler, expect, "{class}");
    }
    set(&scheduler, "_class_name", json!("FlowMatchEulerDiscreteScheduler"));
    assert_eq!(common::resolve(&model).unwrap_err().code(), "unsupported_model");
}

/// Splits a part's weights into two shards with an index, as diffusers does.
fn shard(folder: &std::path::Path, stem: &str) {
    let whole = folder.join(format!("{stem}.safetensors"));
    let bytes = fs::read(&whole).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let data = &bytes[8 + length..];
    let mut index = serde_json::Map::new();
    for half in 0..2 {
        let name = format!("{stem}-0000{}-of-00002.safetensors", half + 1);
        let (mut entries, mut out) = (serde_json::Map::new(), Vec::new());
        for (i, (tensor, entry)) in header.iter().filter(|(tensor, _)| *tensor != "__metadata__").enumerate() {
            if i % 2 != half {
                continue;
            }
            let at = |k: usize| entry["data_offsets"][k].as_u64().unwrap() as usize;
            let start = out.len();
            out.extend(&data[at(0)..at(1)]);
            let moved = json!({ "dtype": entry["dtype"], "shape": entry["shape"], "data_offsets": [start, out.len()] });
            entries.insert(tensor.clone(), moved);
            index.insert(tensor.clone(), json!(name));
        }
        let text = serde_json::Value::Object(entries).to_string();
        let file = [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &out].concat();
        fs::write(folder.join(name), file).unwrap();
    }
    let index = json!({ "metadata": { "total_size": data.len() }, "weight_map": index });
    fs::write(folder.join(format!("{stem}.safetensors.index.json")), index.to_string()).unwrap();
    fs::remove_file(whole).unwrap();
}

#[test]
fn shards_repeat_their_role_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("m");
    copy(&fixture("sd15"), &model);
    let before = common::resolve(&model).unwrap();
    shard(&model.join("unet"), "diffusion_pytorch_model");
    let after = common::resolve(&model).unwrap();
    let shards: Vec<String> = after
        .files
        .iter()
        .filter(|(role, _)| *role == "unet")
        .map(|(_, path)| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    let name = |n| format!("diffusion_pytorch_model-0000{n}-of-00002.safetensors");
    assert_eq!(shards, [name(1), name(2)]);
    assert_eq!(after.weights.parameters, before.weights.parameters);
    fs::remove_file(model.join("unet").join(name(2))).unwrap();
    assert_eq!(common::resolve(&model).unwrap_err().code(), "model_file_missing");
}

#[test]
fn variants_are_chosen_by_wish() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("m");
    copy(&fixture("sd15"), &model);
    let unet = |prefer| {
        let options = ResolveOptions { prefer, ..ResolveOptions::default() };
        let model = Library::default().resolve(&ModelRef::Path(model.clone()), options).unwrap();
        let (_, path) = model.files.into_iter().find(|(role, _)| *role == "unet").unwrap();
        path.file_name().unwrap().to_string_lossy().into_owned()
    };
    let (full, half) = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors");
    assert_eq!(unet(sd_models::Prefer::Half), full);
    fs::copy(model.join("unet").join(full), model.join("unet").join(half)).unwrap();
    assert_eq!(unet(sd_models::Prefer::Half), half);
    assert_eq!(unet(sd_models::Prefer::Full), full);
    fs::remove_file(model.join("unet").join(full)).unwrap();
    assert_eq!(unet(sd_models::Prefer::Full), half);
}

#[test]
fn names_of_older_and_newer_writers() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("m");
    copy(&fixture("sd15"), &model);
    let rename = |file: &str, pairs: &[(&str, &str)]| {
        let mut count = 0;
        common::reheader(&model.join(file), |header| {
            for name in header.keys().cloned().collect::<Vec<_>>() {
                let new = pairs.iter().fold(name.clone(), |name, (from, to)| name.replace(from, to));
                if new != name {
                    let tensor = header.remove(&name).unwrap();
                    header.insert(new, tensor);
                    count += 1;
                }
            }
        });
        assert!(count > 3, "{file}");
    };
    // VAEs before diffusers 0.17, and text encoders of transformers 5.
    let old = [
        ("s.0.to_q.", "s.0.query."),
        ("s.0.to_k.", "s.0.key."),
        ("s.0.to_v.", "s.0.value."),
        ("s.0.to_out.0.", "s.0.proj_attn."),
    ];
    rename("vae/diffusion_pytorch_model.safetensors", &old);
    rename("text_encoder/model.safetensors", &[("text_model.", "")]);
    common::resolve(&model).unwrap();
}

/// The table of the docs is the table of the program.
#[test]
fn the_docs_know_every_short_name() {
    let docs = fs::read_to_string(repository().join("docs/MODELS.md")).unwrap();
    for entry in sd_models::aliases::SHORT_NAMES {
        let also: Vec<String> = entry.also.iter().map(|name| format!("`{name}`")).collect();
        let line = format!("| `{}` | {} | {} |", entry.name, also.join(", "), entry.hub);
        assert!(docs.contains(&line), "docs/MODELS.md lacks: {line}");
    }
    for family in sd_models::Family::all() {
        assert!(docs.contains(&format!("`{family}`")), "docs/MODELS.md lacks {family}");
    }
}

#[cfg(unix)]
#[test]
fn the_cache_cannot_lead_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("hub");
    let repo = cache.join("models--acme--tiny");
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let snapshot = repo.join("snapshots").join(commit);
    copy(&fixture("sd15"), &snapshot);
    fs::create_dir_all(repo.join("refs")).unwrap();
    fs::write(repo.join("refs/main"), commit).unwrap();
    let library = Library::new(Vec::new(), Some(cache));
    let asked = |revision: &str| resolve(&library, &format!("acme/tiny{revision}"));
    asked("").unwrap();
    asked(&format!("@{commit}")).unwrap();
    assert_eq!(asked("@other").unwrap_err().code(), "model_not_found");

    let config = snapshot.join("unet/config.json");
    fs::rename(&config, dir.path().join("config.json")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("config.json"), &config).unwrap();
    assert_eq!(asked("").unwrap_err().code(), "outside_models_dir");
    // A ref is a commit, never a path.
    fs::write(repo.join("refs/main"), "../../../elsewhere").unwrap();
    assert_eq!(asked("").unwrap_err().code(), "model_not_found");
}
