//! The project's own rules, held by tests: who may depend on whom, and what a file may contain.

use sd_tests::root;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

fn metadata() -> Value {
    let done = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

/// The direct dependencies of a package that are part of the product (not those of its tests).
fn dependencies(metadata: &Value, package: &str) -> BTreeSet<String> {
    let package = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .find(|p| p["name"] == package)
        .unwrap_or_else(|| panic!("no package {package}"));
    package["dependencies"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|d| d["kind"].is_null())
        .map(|d| d["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn dependencies_point_one_way() {
    let metadata = metadata();
    let of = |package: &str| dependencies(&metadata, package);
    assert_eq!(of("backend-api"), BTreeSet::from(["abi_stable".to_owned()]), "backend-api knows abi_stable only");
    let backends = |set: &BTreeSet<String>| {
        set.iter().any(|d| d.starts_with("sd-backend-") || d == "sd-candle" || d.starts_with("candle"))
    };
    for host in ["sd-worker", "sd-plugins", "sd-models", "sd-sampling", "sd-prompt", "sd-images"] {
        assert!(!backends(&of(host)), "{host} has an edge to a backend: {:?}", of(host));
    }
    for pure in ["sd-sampling", "sd-prompt", "sd-images"] {
        for banned in ["warp", "hyper", "http", "tokio", "backend-api", "abi_stable", "libloading", "sd-plugins"] {
            assert!(!of(pure).contains(banned), "{pure} knows {banned}");
        }
    }
    for backend in ["sd-candle", "sd-backend-candle-cpu", "sd-backend-gauss", "sd-backend-rogue"] {
        for banned in ["warp", "hyper", "tokio", "sd-worker", "sd-plugins", "sd-models"] {
            assert!(!of(backend).contains(banned), "{backend} knows {banned}");
        }
    }
}

fn sources(folder: &Path, ending: &[&str], found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() {
            if !["target", "node_modules", ".git", "fixtures", "__pycache__", "work"].contains(&name.as_str()) {
                sources(&path, ending, found);
            }
        } else if ending.iter().any(|e| name.ends_with(e)) {
            found.push(path);
        }
    }
}

fn all(ending: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    sources(&root(), ending, &mut found);
    found
        .into_iter()
        .map(|p| {
            let text = std::fs::read_to_string(&p).unwrap_or_default();
            (p.strip_prefix(root()).unwrap().to_path_buf(), text)
        })
        .collect()
}

#[test]
fn every_profile_unwinds() {
    let text = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let profiles = text.matches("\n[profile.").count();
    assert!(profiles >= 3);
    assert_eq!(text.matches("panic = \"unwind\"").count(), profiles);
    assert!(!text.contains("panic = \"abort\""));
}

#[test]
fn every_rust_file_says_what_it_is_for() {
    for (path, text) in all(&[".rs"]) {
        assert!(text.starts_with("//! "), "{} does not begin with its purpose", path.display());
    }
}

#[test]
fn unsafe_stays_where_it_belongs() {
    let allowed =
        ["backend-api/", "host/plugins/", "backends/candle/", "backends/rogue/", "backends/template-c/", "tests/"];
    for (path, text) in all(&[".rs"]) {
        let path = path.to_string_lossy().replace('\\', "/");
        let uses = text.lines().map(str::trim_start).any(|l| {
            !l.starts_with("//") && (l.contains("unsafe {") || l.contains("unsafe fn") || l.contains("unsafe impl"))
        });
        assert!(!uses || allowed.iter().any(|a| path.starts_with(a)), "unsafe in {path}");
    }
    for library in [
        "host/src/lib.rs",
        "host/sampling/src/lib.rs",
        "host/prompt/src/lib.rs",
        "host/images/src/lib.rs",
        "host/models/src/lib.rs",
    ] {
        let text = std::fs::read_to_string(root().join(library)).unwrap();
        assert!(text.contains("#![forbid(unsafe_code)]"), "{library} does not forbid unsafe code");
    }
}

#[test]
fn only_the_interface_knows_requests() {
    for (path, text) in all(&[".rs"]) {
        let path = path.to_string_lossy().replace('\\', "/");
        let pure = ["host/sampling/src", "host/prompt/src", "host/images/src", "host/src/engine"]
            .iter()
            .any(|p| path.starts_with(p));
        assert!(
            !pure || !(text.contains("warp::") || text.contains("use http::") || text.contains("crate::api")),
            "{path} knows HTTP"
        );
    }
}

#[test]
fn no_machine_and_no_diary_in_the_tree() {
    // Written in pieces, so that this file does not find itself.
    let banned = [
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["todo", "!("].concat(),
        ["unimplemented", "!("].concat(),
        ["/wo", "rk/"].concat(),
        ["/ro", "ot/"].concat(),
    ];
    for (path, text) in all(&[".rs", ".toml", ".md", ".py", ".sh", ".html", ".js"]) {
        if path.starts_with("tests/it/abuse.rs") {
            continue;
        }
        for word in &banned {
            assert!(!text.contains(word.as_str()), "{} contains {word}", path.display());
        }
    }
}

#[test]
fn every_error_code_is_documented() {
    let source = std::fs::read_to_string(root().join("host/src/fault.rs")).unwrap();
    let table = std::fs::read_to_string(root().join("docs/API.md")).unwrap();
    let codes: Vec<&str> = source.lines().filter_map(|l| l.trim().split(" = \"").nth(1)?.split('"').next()).collect();
    assert!(codes.len() > 20);
    for code in codes {
        assert!(table.contains(&format!("`{code}`")), "docs/API.md lacks `{code}`");
    }
}
