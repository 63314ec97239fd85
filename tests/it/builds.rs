//! Plugins that were compiled otherwise than the worker: without optimisation, for size, as one program. Each is built here
//! (in a folder of its own below the target folder, so that only our own crates are compiled a second time), taken by the
//! worker, and draws the very pictures of the one that was built with it. One that aborts on a panic does not compile.

use crate::pictures::{draw, png};
use image::RgbImage;
use sd_tests::{Plugins, Worker, WorkerOptions, program, root};
use serde_json::json;
use std::{path::PathBuf, process::Command};

/// Builds the weightless plugin with these options of cargo. The error is what the compiler said.
fn build(folder: &str, options: &[&str]) -> Result<PathBuf, String> {
    let target = program("").parent().unwrap().join("otherwise");
    let done = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--offline", "--package", "sd-backend-gauss", "--target-dir"])
        .arg(&target)
        .args(options)
        .current_dir(root())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    if done.status.success() { Ok(target.join(folder).join("libsd_backend_gauss.so")) } else { Err(said) }
}

/// What a worker draws with the plugin in this folder: a batch, and a picture from a picture.
fn pictures(plugins: &Plugins, isolate: &str) -> Vec<RgbImage> {
    let folder = plugins.path().display().to_string();
    let args = ["--plugin-dir", &folder, "--backend", "gauss", "--isolate", isolate, "--log", "warn"];
    let worker = Worker::start(&WorkerOptions { env: plugins.env(), ..WorkerOptions::args(&args) });
    let client = worker.client();
    let body =
        json!({ "prompt": "(a) b", "seed": 5, "steps": 6, "n": 3, "width": 64, "height": 48, "sampler": "dpmpp_2m" });
    let mut all = draw(&client, &body).0;
    let body = json!({ "prompt": "c", "seed": 6, "steps": 5, "strength": 0.5, "init_image": png(&all[0]) });
    all.extend(draw(&client, &body).0);
    assert_eq!(worker.log_text(), "", "{isolate}: nothing to complain of");
    all
}

#[test]
fn plugins_compiled_otherwise_draw_the_same() {
    let plugins = Plugins::new();
    plugins.put("gauss", "gauss", |_| ());
    let wanted = pictures(&plugins, "never");
    assert_eq!(wanted.len(), 4);
    for (what, folder, options) in [
        ("debug", "debug", &[][..]),
        (
            "whole program",
            "release",
            &["--config", "profile.release.lto='fat'", "--config", "profile.release.codegen-units=1"],
        ),
        ("for size", "release", &["--config", "profile.release.opt-level='s'"]),
        ("a little", "release", &["--config", "profile.release.opt-level=1"]),
    ] {
        let release = (folder == "release").then_some("--release");
        let options: Vec<&str> = options.iter().copied().chain(release).collect();
        let file = build(folder, &options).unwrap_or_else(|said| panic!("{what}: {said}"));
        let bytes = std::fs::read(file).unwrap();
        assert_ne!(bytes, std::fs::read(program("libsd_backend_gauss.so")).unwrap(), "{what}: it is the same file");
        plugins.put("gauss", "gauss", |file| *file = bytes);
        for isolate in ["never", "always"] {
            assert!(pictures(&plugins, isolate) == wanted, "{what}, isolated {isolate}: other pictures");
        }
    }
}

#[test]
fn a_plugin_that_aborts_does_not_compile() {
    let said = build("release", &["--release", "--config", "profile.release.panic='abort'"]).unwrap_err();
    assert!(said.contains("must be built with panic = \"unwind\""), "{said}");
}
