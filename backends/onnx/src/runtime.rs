//! ONNX Runtime's library: where it is looked for, and its opening.

use backend_api::{AbiError, Code, author::log};
use std::{
    fmt,
    path::{Path, PathBuf},
};

/// The variable that names the library or its folder: the one that the `ort` crate itself reads.
const VARIABLE: &str = "ORT_DYLIB_PATH";

/// The oldest ONNX Runtime 1.x that is taken.
pub(crate) const OLDEST: u32 = ort::MINOR_VERSION;

/// Folders of packages and of a hand-made installation.
const FOLDERS: [&str; 6] = [
    "/usr/local/lib",
    "/usr/lib",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/opt/onnxruntime/lib",
    "/opt/homebrew/lib",
];

/// Why there is no runtime, and what helps.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) reason: String,
    pub(crate) remedy: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.reason, self.remedy)
    }
}

fn missing(reason: &str) -> Missing {
    let remedy = format!(
        "install ONNX Runtime 1.{OLDEST} or newer (`pip install onnxruntime` has it in onnxruntime/capi) and name its \
         library or that folder with {VARIABLE}"
    );
    Missing { reason: reason.to_owned(), remedy }
}

/// Whether a file's name is that of the runtime itself: `libonnxruntime.so.1.23.2`, not one of its providers.
fn is_runtime(name: &str) -> bool {
    ["libonnxruntime.so", "libonnxruntime.dylib", "onnxruntime.dll"].iter().any(|base| {
        let rest = name.strip_prefix(base);
        rest.is_some_and(|rest| rest.bytes().all(|b| b == b'.' || b.is_ascii_digit()))
    })
}

/// The newest runtime in a folder.
fn in_folder(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?;
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_runtime))
        .collect();
    let numbers = |path: &PathBuf| -> Vec<u32> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.split('.').filter_map(|part| part.parse().ok()).collect()
    };
    found.sort_by_key(numbers);
    found.pop()
}

/// The library: what the option `runtime` or the variable names, else what the usual folders hold.
pub(crate) fn find(option: Option<&str>) -> Result<PathBuf, Missing> {
    let given = option.map(str::to_owned).or_else(|| std::env::var(VARIABLE).ok()).filter(|given| !given.is_empty());
    let Some(given) = given else {
        let places = FOLDERS.iter().find_map(|folder| in_folder(Path::new(folder)));
        return places.ok_or_else(|| missing("ONNX Runtime was not found"));
    };
    let path = PathBuf::from(&given);
    let file = if path.is_dir() { in_folder(&path) } else { Some(path).filter(|path| path.is_file()) };
    // A bare name would be searched in system folders.
    file.and_then(|file| file.canonicalize().ok())
        .ok_or_else(|| missing("the ONNX Runtime that was named is not there"))
}

/// Opens the library, once in a process. `ort` panics when it is not what it should be.
pub(crate) fn open(path: &Path) -> Result<(), AbiError> {
    let opened = std::panic::catch_unwind(|| {
        ort::init_from(path.to_string_lossy()).with_name("sd-worker").with_telemetry(false).commit()
    });
    match opened {
        Ok(Ok(_)) => {
            log::info("onnx", ort::info());
            Ok(())
        }
        Ok(Err(e)) => Err(refused(&e.to_string())),
        Err(payload) => Err(refused(payload.downcast_ref::<String>().map_or("no reason", String::as_str))),
    }
}

fn refused(why: &str) -> AbiError {
    let message = format!("ONNX Runtime cannot be opened; 1.{OLDEST} or newer for this system is needed");
    AbiError::new(Code::UNSUPPORTED, message).with_detail(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_runtime_are_told_from_its_providers() {
        for name in ["libonnxruntime.so", "libonnxruntime.so.1.23.2", "libonnxruntime.dylib", "onnxruntime.dll"] {
            assert!(is_runtime(name), "{name}");
        }
        for name in ["libonnxruntime_providers_shared.so", "libonnxruntime.so.bak", "onnxruntime.lib", "x"] {
            assert!(!is_runtime(name), "{name}");
        }
        let why = find(Some("/nowhere/at/all")).unwrap_err();
        assert!(why.reason.contains("not there") && why.remedy.contains(VARIABLE), "{why}");
    }
}
