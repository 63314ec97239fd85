//! Versions of the interface: older and newer plugins run, other ones are refused in one line.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use backend_api::Code;
use common::{encode, job, named, open, predict, session, source};
use sd_plugins::{Catalog, PluginReport, State};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// What `tests/abi` builds into the folder of this test's own executable.
fn built(name: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let path = exe.parent().and_then(Path::parent).unwrap().join(name);
    assert!(
        path.is_file(),
        "{name} is missing: cargo build --release --manifest-path tests/abi/Cargo.toml --target-dir target"
    );
    path
}

/// A folder with one of these plugins under a name that is searched for.
fn folder(version: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(built(&format!("libabi_{version}.so")), dir.path().join("libsd_backend_evolution.so")).unwrap();
    dir
}

fn report(version: &str) -> PluginReport {
    let dir = folder(version);
    Catalog::scan(&common::search(dir.path())).report(&named("evolution", &[])).plugins.remove(0)
}

#[test]
fn plugins_of_the_past_and_the_future_run() {
    for (version, interface) in [("v1_0", "1.0.0"), ("v1_1", "1.1.0")] {
        let dir = folder(version);
        let catalog = Catalog::scan(&common::search(dir.path()));
        assert_eq!(report(version).interface, interface);
        let opened = open(&catalog, &named("evolution", &[])).unwrap();
        assert_eq!(opened.backend.memory().device_total, 11);
        let mut session = session(&opened.backend, &source("{}", &[])).unwrap();
        let cond = encode(&mut session, &[3, 4]).unwrap();
        assert_eq!(cond, 7);
        // The plugin adds the sum of the tokens to its input.
        assert_eq!(predict(&mut session, cond, 2).unwrap()[1], 0.37f32.sin() + 7.0);
        job(&opened.backend, &source("{}", &[])).unwrap();
    }
}

#[test]
fn a_code_of_the_future_is_an_internal_error() {
    let dir = folder("v1_1");
    let opened = open(&Catalog::scan(&common::search(dir.path())), &named("evolution", &[])).unwrap();
    let mut session = session(&opened.backend, &source("{}", &[])).unwrap();
    let error = predict(&mut session, 0, 3).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (Code::INTERNAL, "a code of the future"));
}

#[test]
fn real_mismatches_are_refused_in_one_line() {
    for (version, words) in [("v1_0_broken", "interface 1.0.1, ours is 1."), ("v2_0", "interface 2.0.0, ours is 1.")] {
        let plugin = report(version);
        assert_eq!(
            (plugin.state, plugin.code),
            (State::Refused, Some("plugin_interface_mismatch")),
            "{}",
            plugin.reason
        );
        assert!(plugin.reason.contains(words), "{}", plugin.reason);
        assert!(plugin.reason.len() < 500 && !plugin.reason.contains('\n'), "{}", plugin.reason);
    }
}

#[test]
fn a_host_of_the_future_takes_plugins_of_today() {
    let run = |version: &str| {
        let output = Command::new(built("abi-host-1-1")).arg(built(&format!("libabi_{version}.so"))).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(run("v1_0"), "interface 1.0.0; self_test None; idle 0; total 11");
    assert_eq!(run("v1_1"), "interface 1.1.0; self_test Some(42); idle 0; total 11");
    assert!(run("v1_0_broken").starts_with("refused: libabi_v1_0_broken.so: built for another backend interface"));
    assert!(run("v2_0").contains("interface 2.0.0"), "{}", run("v2_0"));
}

#[test]
fn the_frozen_interface_is_what_it_was() {
    // SHA-256 over the files of `tests/abi/v1_0/src`, in the order of their paths.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/abi/v1_0/src");
    let mut files: Vec<PathBuf> = Vec::new();
    for folder in [root.clone(), root.join("author")] {
        files.extend(std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file()));
    }
    files.sort();
    let mut all = Vec::new();
    files.iter().for_each(|f| all.extend(std::fs::read(f).unwrap()));
    use sha2::{Digest, Sha256};
    let hash: String = Sha256::digest(&all).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hash, FROZEN, "the copy of interface 1.0 must never change");
}

const FROZEN: &str = "5b357434e526217a4e17cdf891abdfbf66fe7cd500ce73a58ec1e3e2c9dfb983";
