//! A copy of a real fixture to break, and safetensors files made by hand.
#![allow(dead_code, reason = "every test file uses a part of it")]

use sd_models::{Library, ModelRef, ResolveOptions, ResolvedModel};
use serde_json::{Map, Value, json};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_path_buf()
}

pub(crate) fn fixture(name: &str) -> PathBuf {
    repository().join("tests/fixtures/models").join(name)
}

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in from.read_dir().unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)
        } else {
            std::fs::copy(entry.path(), target).map(|_| ()).unwrap()
        }
    }
}

pub(crate) fn resolve(path: &Path) -> sd_models::Result<ResolvedModel> {
    Library::default().resolve(&ModelRef::Path(path.to_path_buf()), ResolveOptions::default())
}

/// Changes a JSON object in place.
pub(crate) fn edit(path: &Path, change: impl FnOnce(&mut Map<String, Value>)) {
    let mut fields: Map<String, Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    change(&mut fields);
    std::fs::write(path, Value::Object(fields).to_string()).unwrap();
}

pub(crate) fn set(path: &Path, field: &str, value: Value) {
    edit(path, |fields| {
        fields.insert(field.into(), value);
    });
}

/// Length, header, data.
pub(crate) fn raw(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

/// Rewrites a file's header; the data stays.
pub(crate) fn reheader(path: &Path, change: impl FnOnce(&mut Map<String, Value>)) {
    let bytes = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    change(&mut header);
    let text = Value::Object(header).to_string();
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.extend(text.as_bytes());
    out.extend(&bytes[8 + length..]);
    std::fs::write(path, out).unwrap();
}

/// Gives a tensor another shape, and the file the bytes that go with it (zeros).
pub(crate) fn reshape(path: &Path, tensor: &str, shape: &[u64]) {
    let bytes = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    header.remove("__metadata__");
    header[tensor]["shape"] = json!(shape);
    let mut at = 0;
    for entry in header.values_mut() {
        let size = if entry["dtype"] == "F16" { 2 } else { 4 };
        let count: u64 = entry["shape"].as_array().unwrap().iter().map(|dim| dim.as_u64().unwrap()).product();
        entry["data_offsets"] = json!([at, at + count * size]);
        at += count * size;
    }
    std::fs::write(path, raw(&Value::Object(header).to_string(), at as usize)).unwrap();
}

/// Time that this thread computed. Where the system does not tell, the time that passed, which a busy machine stretches.
pub(crate) struct Clock {
    computed: Option<Duration>,
    start: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { computed: computed(), start: Instant::now() }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        match (self.computed, computed()) {
            (Some(before), Some(now)) => now.saturating_sub(before),
            _ => self.start.elapsed(),
        }
    }
}

fn computed() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

/// A header of F32 tensors laid end to end.
pub(crate) fn header(tensors: &[(&str, &[u64])]) -> (String, usize) {
    let mut fields = Map::new();
    let mut at = 0;
    for (name, shape) in tensors {
        let end = at + shape.iter().product::<u64>() * 4;
        fields.insert((*name).into(), json!({ "dtype": "F32", "shape": shape, "data_offsets": [at, end] }));
        at = end;
    }
    (Value::Object(fields).to_string(), at as usize)
}
