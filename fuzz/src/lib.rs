//! Everything that reads bytes from outside, as functions that take any bytes and panic only when a promise is broken.
//!
//! The same functions run in two ways: a fuzzer invents inputs for them (`cargo xtask fuzz TARGET`), and the tests feed them
//! the corpus, so that what was once found stays found.
#![forbid(unsafe_code)]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a broken promise is a panic")]

mod files;
mod pictures;
mod requests;
mod texts;

/// One reader.
#[derive(Debug)]
pub struct Target {
    /// Its name, and that of its folder in `fuzz/corpus`.
    pub name: &'static str,
    /// Reads the bytes.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "http_request", run: requests::http_request },
    Target { name: "request_json", run: requests::request_json },
    Target { name: "multipart", run: requests::multipart },
    Target { name: "sse_cursor", run: requests::sse_cursor },
    Target { name: "settings_file", run: files::settings },
    Target { name: "model_name", run: files::model_name },
    Target { name: "safetensors_header", run: files::safetensors_header },
    Target { name: "single_file_keys", run: files::single_file_keys },
    Target { name: "model_config", run: files::model_config },
    Target { name: "plugin_manifest", run: files::plugin_manifest },
    Target { name: "plugin_file", run: files::plugin_file },
    Target { name: "image", run: pictures::image },
    Target { name: "recipe", run: pictures::recipe },
    Target { name: "prompt", run: texts::prompt },
];

/// The target of a name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|t| t.name == name)
}

/// All names.
pub fn names() -> Vec<&'static str> {
    TARGETS.iter().map(|t| t.name).collect()
}
