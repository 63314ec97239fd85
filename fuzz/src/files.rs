//! Files: settings, names of models, weights' headers and keys, models' configs, plugins and their checksums.

use sd_models::{Library, ModelError, ModelName, ModelRef, ResolveOptions};
use sd_tests::root;
use serde_json::{Map, Value, json};
use std::{
    fs,
    io::Write,
    path::{Component, Path, PathBuf},
    sync::OnceLock,
};

/// A folder in memory where there is one.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let memory = Path::new("/dev/shm");
    FOLDER
        .get_or_init(|| {
            let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
            made.expect("a folder")
        })
        .path()
}

/// A file of this thread's own.
fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let thread = format!("{:?}", std::thread::current().id()).replace(|c: char| !c.is_ascii_digit(), "");
    let dir = folder().join(thread);
    fs::create_dir_all(&dir).expect("a folder");
    let path = dir.join(name);
    fs::write(&path, bytes).expect("a file");
    path
}

/// An error names files of the model, never where they lie.
fn private(error: &ModelError) {
    let text = error.to_string();
    assert!(!text.contains(&folder().display().to_string()), "{text}");
    assert!(!error.code().is_empty() && !text.is_empty());
}

fn resolve(path: &Path) -> Option<sd_models::ResolvedModel> {
    let found = Library::default().resolve(&ModelRef::Path(path.to_path_buf()), ResolveOptions::default());
    found.inspect_err(private).ok()
}

/// A settings file.
pub(crate) fn settings(data: &[u8]) {
    if let Err(message) = sd_worker::doors::settings(&file("settings.toml", data)) {
        assert!(!message.is_empty() && !message.contains(&folder().display().to_string()), "{message}");
    }
}

/// A model's name in a request.
pub(crate) fn model_name(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(name) = ModelName::parse(&text) else { return };
    assert_eq!(name.to_string(), text, "what is taken is taken as it is");
    let path = PathBuf::from(name.to_string());
    assert!(path.components().all(|c| matches!(c, Component::Normal(_))), "{text:?}");
    assert!(!text.contains("..") && !text.contains(['\\', '\0', ':', '%']) && text.is_ascii(), "{text:?}");
    assert!(name.local().is_none_or(|n| !n.contains('/')), "{text:?}");
}

/// A safetensors file.
pub(crate) fn safetensors_header(data: &[u8]) {
    resolve(&file("model.safetensors", data));
}

/// Lines `name dtype dim×dim…`: the keys of a single file, with an honest header and honest length.
pub(crate) fn single_file_keys(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (mut header, mut at) = (Map::new(), 0_u64);
    for line in text.lines().take(5_000) {
        let mut words = line.split(' ');
        let (Some(name), Some(dtype)) = (words.next(), words.next()) else { continue };
        let shape: Vec<u64> = words.next().unwrap_or_default().split('x').filter_map(|d| d.parse().ok()).collect();
        let width = match dtype {
            "F16" | "BF16" => 2,
            "F64" | "I64" => 8,
            _ => 4,
        };
        let bytes = shape.iter().try_fold(width, |all: u64, dim| all.checked_mul(*dim));
        // The file is sparse; what the system cannot hold as a length is not tried.
        let Some(end) = bytes.and_then(|b| b.checked_add(at)).filter(|end| *end < 1 << 40) else { continue };
        header.insert(name.to_owned(), json!({ "dtype": dtype, "shape": shape, "data_offsets": [at, end] }));
        at = end;
    }
    let json = Value::Object(header).to_string();
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json.as_bytes());
    let path = file("keys.safetensors", &bytes);
    let made = fs::OpenOptions::new().write(true).open(&path).and_then(|f| f.set_len(bytes.len() as u64 + at));
    if made.is_ok() {
        resolve(&path);
    }
}

/// One JSON file of a whole model replaced; the first byte says which.
pub(crate) fn model_config(data: &[u8]) {
    const FILES: [&str; 8] = [
        "model_index.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/special_tokens_map.json",
        "sd-worker.json",
    ];
    let Some((which, text)) = data.split_first() else { return };
    let name = FILES[usize::from(*which) % FILES.len()];
    let thread = format!("{:?}", std::thread::current().id()).replace(|c: char| !c.is_ascii_digit(), "");
    let model = folder().join(format!("model-{thread}"));
    let original = root().join("tests/fixtures/models/tiny-sd");
    if !model.exists() {
        copy(&original, &model);
    }
    fs::File::create(model.join(name)).and_then(|mut f| f.write_all(text)).expect("a file");
    if let Some(found) = resolve(&model) {
        assert!(found.defaults.steps >= 1 && found.defaults.width >= 1, "{:?}", found.defaults);
        for tokenizer in &found.tokenizers {
            if let Err(error) = tokenizer.read() {
                private(&error);
            }
        }
    }
    match fs::read(original.join(name)) {
        Ok(bytes) => fs::write(model.join(name), bytes).expect("a file"),
        Err(_) => fs::remove_file(model.join(name)).expect("a file"),
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in from.read_dir().expect("the fixture").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

/// A list of checksums beside plugins.
pub(crate) fn plugin_manifest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for name in ["libsd_backend_a.so", "", "*", " "] {
        if let Some(hash) = sd_plugins::listed(text, name) {
            assert!(text.to_ascii_lowercase().contains(&hash), "{hash:?}");
            assert!(name.is_empty() || text.contains(name.trim()));
        }
    }
}

/// A file that says it is a plugin.
pub(crate) fn plugin_file(data: &[u8]) {
    if let Err(reason) = sd_plugins::precheck::check(&file("libsd_backend_x.so", data)) {
        assert!(!reason.is_empty() && !reason.contains('\n') && reason.len() < 500, "{reason:?}");
    }
}
