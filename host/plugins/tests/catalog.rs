//! Search, choice, opening: with real libraries.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use backend_api::{Code, abi_stable::std_types::RSlice};
use common::{job, named, open, source};
use sd_plugins::{Cancel, Catalog, Choice, PluginError, Search, Standing, State, Trust, control, host_ref};
use std::sync::{Arc, Mutex};

#[test]
fn plugins_live_side_by_side() {
    let dir = common::folder(&["gauss", "rogue"]);
    let catalog = Catalog::scan(&common::search(dir.path()));
    let gauss = open(&catalog, &named("gauss", &[])).unwrap();
    let rogue = open(&catalog, &named("rogue", &[])).unwrap();
    assert_eq!((gauss.id.as_str(), rogue.id.as_str()), ("gauss", "rogue"));
    let (a, b) = (job(&gauss.backend, &source("{}", &[])).unwrap(), job(&rogue.backend, &source("{}", &[])).unwrap());
    assert_eq!(a, b);
    let broken = job(&rogue.backend, &source("{}", &[("rogue", "panic@predict")])).unwrap_err();
    assert_eq!(broken.code, Code::PANICKED);
    assert_eq!(job(&gauss.backend, &source("{}", &[])).unwrap(), a);
}

#[test]
fn plugins_for_tests_are_only_taken_by_name() {
    let dir = common::folder(&["gauss"]);
    let catalog = Catalog::scan(&common::search(dir.path()));
    let Err(error) = open(&catalog, &Choice::default()) else { panic!("gauss was chosen by itself") };
    assert_eq!(error.code(), "no_backend");
    let state = |choice: &Choice| catalog.report(choice).plugins[0].state;
    assert_eq!(state(&Choice::default()), State::Skipped);
    assert_eq!(state(&named("gauss", &[])), State::Chosen);
    assert_eq!(state(&named("other", &[])), State::Skipped);
}

#[test]
fn wishes_that_nothing_fulfils_say_what_there_is() {
    let dir = common::folder(&["gauss"]);
    let catalog = Catalog::scan(&common::search(dir.path()));
    let wish = |backend: Option<&str>, device: Option<&str>| Choice {
        backend: backend.map(str::to_owned),
        device: device.map(str::to_owned),
        ..Choice::default()
    };
    for (choice, parts) in [
        (wish(Some("nope"), None), ["`nope`", "found: none"]),
        (wish(Some("gauss"), Some("cuda:1")), ["`cuda:1`", "cpu, cuda:0, cuda:1"]),
        (wish(None, Some("tpu")), ["`tpu`", "this machine has"]),
        (wish(None, None), ["no backend plugin fits", "machine"]),
    ] {
        let Err(error) = open(&catalog, &choice) else { panic!("{choice:?} was fulfilled") };
        assert!(parts.iter().all(|p| error.to_string().contains(p)), "{error}");
        assert!(!error.remedy().is_empty());
    }
    let opened = open(&catalog, &wish(Some("gauss"), Some("cpu"))).unwrap();
    assert_eq!(opened.device, "cpu");
    let empty = tempfile::tempdir().unwrap();
    let Err(error) = open(&Catalog::scan(&common::search(empty.path())), &Choice::default()) else { panic!() };
    assert!(error.to_string().contains("no backend plugin was found"));
}

#[test]
fn a_failing_open_is_told_in_the_plugins_words() {
    let dir = common::folder(&["rogue"]);
    let catalog = Catalog::scan(&common::search(dir.path()));
    for (script, words) in [("fail@open", "scripted failure in open"), ("panic@open", "panicked in `open`")] {
        let Err(PluginError::Open { id, device, error, .. }) = open(&catalog, &named("rogue", &[("rogue", script)]))
        else {
            panic!("{script} was opened")
        };
        assert_eq!((id.as_str(), device.as_str()), ("rogue", "cpu"));
        assert!(error.message.contains(words), "{error}");
    }
    assert!(open(&catalog, &named("rogue", &[])).is_ok());
}

#[test]
fn the_same_file_by_two_ways_is_one_plugin() {
    let dir = common::folder(&["gauss"]);
    let link = tempfile::tempdir().unwrap();
    let name = "libsd_backend_gauss.so";
    std::os::unix::fs::symlink(dir.path().join(name), link.path().join(name)).unwrap();
    let search = Search { dirs: vec![dir.path().into(), link.path().into()], ..common::search(dir.path()) };
    assert_eq!(Catalog::scan(&search).report(&Choice::default()).plugins.len(), 1);
}

#[test]
fn log_lines_reach_the_host() {
    let dir = common::folder(&["gauss"]);
    let catalog = Catalog::scan(&common::search(dir.path()));
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&lines);
    let host = move |id: &str| {
        let (sink, id) = (Arc::clone(&sink), id.to_owned());
        host_ref(move |_, target, message| sink.lock().unwrap().push(format!("{id}/{target}: {message}")))
    };
    catalog.open(&named("gauss", &[]), &host).unwrap();
    assert_eq!(*lines.lock().unwrap(), ["gauss/gauss: opened"]);
}

#[test]
fn permissions_and_checksums_are_held() {
    use std::os::unix::fs::PermissionsExt;
    let dir = common::folder(&["gauss"]);
    let file = dir.path().join("libsd_backend_gauss.so");
    let mode =
        |path: &std::path::Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    let check = |trust: Trust, wanted: State, words: &str| {
        let search = Search { trust, ..common::search(dir.path()) };
        let report = Catalog::scan(&search).report(&named("gauss", &[]));
        assert_eq!(report.plugins[0].state, wanted, "{}", report.plugins[0].reason);
        assert!(report.plugins[0].reason.contains(words), "{}", report.plugins[0].reason);
    };
    mode(dir.path(), 0o755);
    mode(&file, 0o644);
    check(Trust::Owners, State::Chosen, "");
    mode(&file, 0o646);
    check(Trust::Owners, State::Refused, "anyone may change this file");
    check(Trust::Anyone, State::Chosen, "");
    mode(&file, 0o644);
    mode(dir.path(), 0o1777);
    check(Trust::Owners, State::Refused, "anyone may write to its folder");
    mode(dir.path(), 0o755);
    let list = dir.path().join("SHA256SUMS");
    std::fs::write(&list, "").unwrap();
    check(Trust::Owners, State::Refused, "not listed");
    std::fs::write(&list, format!("{}  libsd_backend_gauss.so\n", "0".repeat(64))).unwrap();
    check(Trust::Anyone, State::Refused, "not the one in SHA256SUMS");
    let sum =
        std::process::Command::new("sha256sum").arg("libsd_backend_gauss.so").current_dir(dir.path()).output().unwrap();
    std::fs::write(&list, sum.stdout).unwrap();
    check(Trust::Owners, State::Chosen, "");
}

#[test]
fn another_file_in_the_same_place_is_another_library() {
    let dir = common::folder(&["gauss"]);
    let file = dir.path().join("libsd_backend_gauss.so");
    let first = open(&Catalog::scan(&common::search(dir.path())), &named("gauss", &[])).unwrap();
    let drawn = job(&first.backend, &source("{}", &[])).unwrap();
    std::fs::copy(common::library("rogue"), dir.path().join("aside")).unwrap();
    std::fs::rename(dir.path().join("aside"), &file).unwrap();
    let catalog = Catalog::scan(&common::search(dir.path()));
    assert!(matches!(catalog.succession(&named("rogue", &[]), "cpu", &first.origin).standing, Standing::Changed));
    let second = open(&catalog, &named("rogue", &[])).unwrap();
    let broken = job(&second.backend, &source("{}", &[("rogue", "panic@predict")])).unwrap_err();
    assert_eq!(broken.code, Code::PANICKED, "it is the new library that answers");
    assert_eq!(job(&first.backend, &source("{}", &[])).unwrap(), drawn, "and the old one still works");
    // What is open cannot be replaced by writing into its file.
    let now = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(now).unwrap();
    let report = Catalog::scan(&common::search(dir.path())).report(&named("rogue", &[]));
    let plugin = &report.plugins[0];
    assert_eq!((plugin.state, plugin.code), (State::Refused, Some("plugin_untrusted")), "{}", plugin.reason);
    assert!(plugin.reason.contains("written over in place"), "{}", plugin.reason);
}

#[test]
fn a_named_manifest_is_held() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, other) = (common::folder(&["gauss"]), common::folder(&["gauss"]));
    let home = tempfile::tempdir().unwrap();
    let manifest = home.path().join("plugins.sha256");
    let file = dir.path().join("libsd_backend_gauss.so");
    for folder in [dir.path(), other.path(), home.path()] {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let check = |folder: &std::path::Path, wanted: State, words: &str| {
        let search = Search { trust: Trust::Owners, manifest: Some(manifest.clone()), ..common::search(folder) };
        let report = Catalog::scan(&search).report(&named("gauss", &[]));
        let plugin = &report.plugins[0];
        assert_eq!(plugin.state, wanted, "{}", plugin.reason);
        assert!(plugin.reason.contains(words), "{}", plugin.reason);
        assert_eq!(plugin.code.is_some(), wanted == State::Refused);
        assert!(wanted != State::Refused || plugin.remedy.as_ref().is_some_and(|r| !r.is_empty()));
        assert!(!plugin.reason.contains(home.path().to_str().unwrap()), "{}", plugin.reason);
    };
    check(dir.path(), State::Refused, "the manifest plugins.sha256 cannot be read");
    std::fs::write(&manifest, "").unwrap();
    check(dir.path(), State::Refused, "it is not listed in the manifest plugins.sha256");
    let bare = std::process::Command::new("sha256sum").arg("libsd_backend_gauss.so").current_dir(dir.path()).output();
    let bare = String::from_utf8(bare.unwrap().stdout).unwrap();
    std::fs::write(&manifest, &bare).unwrap();
    check(dir.path(), State::Chosen, "");
    check(other.path(), State::Chosen, "");
    // An entry with a folder speaks of that file alone.
    let full = String::from_utf8(std::process::Command::new("sha256sum").arg(&file).output().unwrap().stdout).unwrap();
    std::fs::write(&manifest, &full).unwrap();
    check(dir.path(), State::Chosen, "");
    check(other.path(), State::Refused, "it is not listed");
    std::fs::write(&manifest, full.replace(&full[..64], &"0".repeat(64))).unwrap();
    check(dir.path(), State::Refused, "its SHA-256 is not the one in the manifest plugins.sha256");
    // The list beside the library counts too.
    std::fs::write(&manifest, &bare).unwrap();
    std::fs::write(dir.path().join("SHA256SUMS"), bare.replace(&bare[..64], &"0".repeat(64))).unwrap();
    check(dir.path(), State::Refused, "not the one in SHA256SUMS");
    std::fs::remove_file(dir.path().join("SHA256SUMS")).unwrap();
    std::fs::set_permissions(&manifest, std::fs::Permissions::from_mode(0o646)).unwrap();
    check(dir.path(), State::Refused, "the manifest plugins.sha256: anyone may change this file");
}

#[test]
fn a_load_stops_when_cancelled() {
    let dir = common::folder(&["gauss"]);
    let gauss = open(&Catalog::scan(&common::search(dir.path())), &named("gauss", &[])).unwrap();
    let cancel = Cancel::new();
    let stop = cancel.clone();
    let ctl = control(&cancel, move |_, done, _| {
        if done > 0 {
            stop.cancel()
        }
    });
    let error = gauss.backend.load(&source("{}", &[("load_ms", "60000")]), &ctl).into_result().err().unwrap();
    assert_eq!(error.code, Code::CANCELLED);
}

#[test]
fn answers_are_not_believed() {
    let dir = common::folder(&["rogue"]);
    let rogue = open(&Catalog::scan(&common::search(dir.path())), &named("rogue", &[])).unwrap();
    for (script, code, words) in [
        ("lie@diffusion", Code::INTERNAL, "latent_channels = 0"),
        ("nan@predict", sd_plugins::NOT_FINITE, "not finite"),
        ("silent@predict", sd_plugins::NOT_FINITE, "left a part"),
        ("silent@decode", sd_plugins::NOT_FINITE, "left a part"),
        ("cancel@load", Code::INTERNAL, "nobody cancelled"),
        ("code@predict", Code::INTERNAL, "xxx"),
        ("oom@load", Code::OOM, "lack of memory"),
        ("lost@predict", Code::DEVICE_LOST, "device"),
        ("lie@encode_text", Code::INVALID, "no encoded text"),
        ("nonsense", Code::INVALID, "deed@method"),
    ] {
        let error = job(&rogue.backend, &source("{}", &[("rogue", script)])).unwrap_err();
        assert_eq!(error.code, code, "{script}: {error}");
        assert!(error.message.contains(words) && error.message.len() < 600, "{script}: {error}");
        job(&rogue.backend, &source("{}", &[])).unwrap();
    }
    let lying = open(&Catalog::scan(&common::search(dir.path())), &named("rogue", &[("rogue", "lie@memory")])).unwrap();
    let memory = lying.backend.memory();
    assert!(memory.device_free <= memory.device_total, "{memory:?}");
}

#[test]
fn a_thousand_panics_in_each_method_cost_one_job_each() {
    let dir = common::folder(&["rogue"]);
    let rogue = open(&Catalog::scan(&common::search(dir.path())), &named("rogue", &[])).unwrap();
    for method in
        ["inspect", "load", "diffusion", "encode_text", "predict", "decode", "free_cond", "drop", "drop_model"]
    {
        let broken = source("{}", &[("rogue", &format!("panic@{method}"))]);
        for _ in 0..1000 {
            match job(&rogue.backend, &broken) {
                // A panic while the backend lets go of something has nobody to be told to.
                Ok(_) => assert!(method.starts_with("drop") || method == "free_cond", "{method} answered"),
                Err(e) => assert_eq!(e.code, Code::PANICKED, "{method}: {e}"),
            }
        }
        job(&rogue.backend, &source("{}", &[])).unwrap();
    }
}

#[test]
fn sessions_keep_their_model_alive() {
    let dir = common::folder(&["gauss"]);
    let gauss = open(&Catalog::scan(&common::search(dir.path())), &named("gauss", &[])).unwrap();
    let model = gauss.backend.load(&source("{}", &[]), &common::quiet()).into_result().unwrap();
    let mut session = model.diffusion(RSlice::EMPTY).into_result().unwrap().session;
    drop(model);
    drop(gauss);
    let cond = common::encode(&mut session, &[4]).unwrap();
    assert_eq!(common::predict(&mut session, cond, 3).unwrap().len(), 3 * 256);
}
