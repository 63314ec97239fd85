//! Compares layouts and derived configs with the published networks, as diffusers builds them
//! (`tests/data/make_published.py` wrote the list).

use crate::{
    ModelRef, ResolveOptions,
    config::{clip::ClipConfig, unet::UnetConfig, vae::VaeConfig},
    files::Json,
    layout,
    library::Library,
    name::ModelName,
};
use serde_json::{Map, Value};
use std::{
    collections::BTreeMap,
    io::{Read, Write},
    path::Path,
};

type Shapes = BTreeMap<String, Vec<u64>>;

#[derive(serde::Deserialize)]
struct Published {
    family: String,
    configs: BTreeMap<String, Map<String, Value>>,
    parts: BTreeMap<String, Shapes>,
    ldm: Shapes,
}

fn published() -> BTreeMap<String, Published> {
    let packed = include_bytes!("../tests/data/published.json.gz");
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut text).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn json(fields: &Map<String, Value>) -> Json {
    Json { file: "config.json".into(), text: String::new(), fields: fields.clone() }
}

fn layout_of(part: &str, fields: &Map<String, Value>) -> Shapes {
    let json = json(fields);
    let layout = match part {
        "unet" => layout::unet::layout(&UnetConfig::parse(&json).unwrap()),
        "vae" => layout::vae::layout(&VaeConfig::parse(&json).unwrap()),
        _ => layout::clip::layout(&ClipConfig::parse(&json, part == "text_encoder_2").unwrap()),
    };
    layout.tensors().iter().map(|tensor| (tensor.name.clone(), tensor.shape.clone())).collect()
}

#[test]
fn layouts_are_those_of_diffusers() {
    let mut parts = 0;
    for (name, model) in published() {
        for (part, expected) in &model.parts {
            let found = layout_of(part, &model.configs[part]);
            for (tensor, shape) in expected {
                assert_eq!(found.get(tensor), Some(shape), "{name}: {part}: {tensor}");
            }
            assert_eq!(found.len(), expected.len(), "{name}: {part}");
            parts += 1;
        }
    }
    assert!(parts > 40);
}

/// The counts that the models' makers and diffusers' docs give.
#[test]
fn parameter_counts_are_the_published_ones() {
    let models = published();
    for (name, part, expected) in [
        ("v1-5-pruned-emaonly", "unet", 859_520_964_u64),
        ("v1-5-pruned-emaonly", "vae", 83_653_863),
        ("v1-5-pruned-emaonly", "text_encoder", 123_060_480),
        ("v2-1_512-ema-pruned", "unet", 865_910_724),
        ("v2-1_512-ema-pruned", "text_encoder", 340_387_840),
        ("sd_xl_base_1.0", "unet", 2_567_463_684),
        ("sd_xl_base_1.0", "text_encoder_2", 694_659_840),
    ] {
        let count: u64 = layout_of(part, &models[name].configs[part]).values().map(|s| s.iter().product::<u64>()).sum();
        assert_eq!(count, expected, "{name}: {part}");
    }
}

/// Writes a checkpoint of true size: a header, and a hole in place of the weights.
fn write_sparse(path: &Path, tensors: &Shapes, dtype: &str, bytes: u64) {
    let mut at = 0_u64;
    let mut header = Map::new();
    for (name, shape) in tensors {
        let end = at + shape.iter().product::<u64>() * bytes;
        header.insert(name.clone(), serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [at, end] }));
        at = end;
    }
    let text = Value::Object(header).to_string();
    let mut file = std::fs::File::create(path).unwrap();
    file.write_all(&(text.len() as u64).to_le_bytes()).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.set_len(8 + text.len() as u64 + at).unwrap();
}

#[test]
fn single_files_give_the_published_configs() {
    for (name, model) in published() {
        let dir = tempfile::tempdir().unwrap();
        write_sparse(&dir.path().join(format!("{name}.safetensors")), &model.ldm, "F16", 2);
        let library = Library::new(vec![dir.path().to_path_buf()], None);
        let asked = ModelRef::Name(ModelName::parse(&name).unwrap());
        let found =
            library.resolve(&asked, ResolveOptions::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(found.family.name(), model.family, "{name}");

        let derived: BTreeMap<&str, Map<String, Value>> =
            found.configs.iter().map(|(role, text)| (*role, serde_json::from_str(text).unwrap())).collect();
        assert_eq!(derived.keys().copied().collect::<Vec<_>>(), model.configs.keys().collect::<Vec<_>>(), "{name}");
        for (part, expected) in &model.configs {
            // Every tensor of the published part, by the derived config.
            assert_eq!(layout_of(part, &derived[part.as_str()]), model.parts[part], "{name}: {part}");
            let fields: &[&str] = match part.as_str() {
                "unet" => &["attention_head_dim", "use_linear_projection", "sample_size", "addition_time_embed_dim"],
                "vae" => &["scaling_factor", "norm_num_groups"],
                _ => &["hidden_act", "num_attention_heads", "num_hidden_layers"],
            };
            for field in fields {
                let expected = expected.get(*field).cloned().unwrap_or(Value::Null);
                let found = derived[part.as_str()].get(*field).cloned().unwrap_or(Value::Null);
                if expected != Value::Null {
                    assert_eq!(found, expected, "{name}: {part}: {field}");
                }
            }
        }
        assert_eq!(found.scheduler_facts.prediction.name(), "epsilon", "{name}");
        assert_eq!(found.weights.precision(), "F16");
        for tokenizer in &found.tokenizers {
            let texts = tokenizer.read().unwrap();
            let merges = texts.merges_txt.unwrap();
            // CLIP's 49,408 tokens: 512 bytes, the merges, start and end.
            assert_eq!(merges.iter().filter(|byte| **byte == b'\n').count(), 49_408 - 514, "{name}");
            let pad = if tokenizer.encoder == "text_encoder_2" || model.family.starts_with("sd2") || name == "sd_turbo"
            {
                "!"
            } else {
                "<|endoftext|>"
            };
            assert_eq!((tokenizer.pad_token.as_str(), tokenizer.max_length), (pad, 77), "{name}");
        }
    }
}

#[test]
fn velocity_models_of_sd_2_are_told_by_their_weights() {
    let model = &published()["v2-1_512-ema-pruned"];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v2.safetensors");
    write_sparse(&path, &model.ldm, "F16", 2);
    let resolve = |options| Library::default().resolve(&ModelRef::Path(path.clone()), options).unwrap();
    assert_eq!(resolve(ResolveOptions::default()).family.name(), "sd2");

    // The biases of that norm: alternately 0.5 and -0.5, so a deviation of 0.5.
    let name = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias";
    let before: u64 =
        model.ldm.iter().take_while(|(n, _)| *n != name).map(|(_, shape)| shape.iter().product::<u64>() * 2).sum();
    let data: u64 = model.ldm.values().map(|shape| shape.iter().product::<u64>() * 2).sum();
    let start = std::fs::metadata(&path).unwrap().len() - data + before;
    let bytes: Vec<u8> = [0x00_u8, 0x38, 0x00, 0xb8].repeat(160);
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(start)).unwrap();
    file.write_all(&bytes).unwrap();
    let found = resolve(ResolveOptions::default());
    assert_eq!((found.family.name(), found.defaults.width), ("sd2-v", 768));
    assert_eq!(found.scheduler_facts.prediction.name(), "v_prediction");

    let forced = resolve(ResolveOptions { family: Some(crate::Family::Sd2), ..ResolveOptions::default() });
    assert_eq!((forced.family.name(), forced.scheduler_facts.prediction.name()), ("sd2", "epsilon"));
}
