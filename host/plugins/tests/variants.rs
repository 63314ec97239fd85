//! Builds of one plugin for different processors: the best that this one can run is taken, and nothing of the others is
//! ever executed. The builds are those of `cargo xtask variants --gauss`.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use backend_api::{HwDevice, abi_stable::std_types::RVec};
use common::{job, named, open, source};
use sd_plugins::{Catalog, Choice, Isolate, PluginReport, Search, State, hardware::hardware, precheck};
use std::path::{Path, PathBuf};

const BUILDS: [&str; 4] = ["baseline", "avx2", "avx512", "impossible"];

/// The library of a build as `cargo xtask variants --gauss` puts it beside this test's own executable.
fn built(build: &str) -> PathBuf {
    let folder = common::library("gauss").parent().unwrap().join("gauss-variants");
    let path = folder.join(format!("libsd_backend_gauss_{build}.so"));
    assert!(path.is_file(), "{} is missing: cargo xtask variants --gauss", path.display());
    path
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for build in BUILDS {
        let from = built(build);
        std::fs::copy(&from, dir.path().join(from.file_name().unwrap())).unwrap();
    }
    dir
}

/// This machine's processor without some of its features. It never claims what is not there: builds really run.
fn masked(keep: impl Fn(&str) -> bool) -> HwDevice {
    let mut cpu = hardware().swap_remove(0);
    cpu.features = cpu.features.iter().filter(|f| keep(f)).cloned().collect::<RVec<_>>();
    cpu
}

fn search(dir: &Path, cpu: HwDevice) -> Search {
    Search { hardware: Some(vec![cpu]), ..common::search(dir) }
}

fn report(search: &Search, choice: &Choice, build: &str) -> PluginReport {
    let file = format!("libsd_backend_gauss_{build}.so");
    Catalog::scan(search).report(choice).plugins.into_iter().find(|p| p.file == file).unwrap()
}

/// Whether a library of this folder was ever mapped into this process; once opened it stays.
fn mapped(dir: &Path, build: &str) -> bool {
    let file = dir.join(format!("libsd_backend_gauss_{build}.so")).canonicalize().unwrap();
    std::fs::read_to_string("/proc/self/maps").unwrap().contains(file.to_str().unwrap())
}

#[test]
fn a_file_says_what_it_was_built_for() {
    let needs = |build: &str| precheck::check(&built(build)).unwrap().1;
    assert!(needs("baseline").is_empty());
    let has = |build: &str, feature: &str| needs(build).iter().any(|f| f == feature);
    assert!(has("avx2", "avx2") && has("avx2", "fma") && has("avx2", "sse4.2") && !has("avx2", "avx512f"));
    assert!(has("avx512", "avx512f") && has("avx512", "avx512vl") && has("avx512", "avx2") && !has("avx512", "tbm"));
    assert!(has("impossible", "tbm") && has("impossible", "avx512f"));
    assert!(precheck::check(&common::library("template")).unwrap().1.is_empty());
}

#[test]
fn the_best_build_for_the_processor_is_taken_and_the_others_never_run() {
    let real = masked(|_| true);
    let can = |feature: &str| real.features.iter().any(|f| f.as_str() == feature);
    let wide = |f: &str| f.starts_with("avx512");
    let avx = |f: &str| f.starts_with("avx") || f == "fma";
    let mut machines = vec![("baseline", masked(|f| !avx(f)), 1)];
    if can("avx2") && can("fma") {
        machines.push(("avx2", masked(|f| !wide(f)), 2));
    }
    if can("avx512vl") {
        machines.push(("avx512", masked(|_| true), 3));
    }
    for (best, cpu, fitting) in machines {
        for (isolate, child) in [(Isolate::Never, None), (Isolate::Always, Some(env!("CARGO_BIN_EXE_plugin-child")))] {
            let dir = folder();
            let child = child.map(|program| vec![program.into()]);
            let search = Search { isolate, child, ..search(dir.path(), cpu.clone()) };
            let choice = named("gauss", &[]);
            for (place, build) in BUILDS.into_iter().enumerate() {
                let plugin = report(&search, &choice, build);
                let wanted = match place {
                    _ if build == best => State::Chosen,
                    _ if place < fitting => State::Available,
                    _ => State::Skipped,
                };
                assert_eq!(plugin.state, wanted, "{build} for {best}: {}", plugin.reason);
                if place < fitting {
                    continue;
                }
                assert!(plugin.reason.contains("needs ") && plugin.reason.ends_with("which this CPU lacks"));
                assert_eq!(plugin.code, Some("plugin_not_for_this_cpu"));
                assert!(plugin.remedy.is_some() && plugin.id.is_empty() && plugin.offers.is_empty());
                assert!(!mapped(dir.path(), build), "{build} was opened for {best}");
            }
            let opened = open(&Catalog::scan(&search), &choice).unwrap();
            assert_eq!(opened.file, format!("libsd_backend_gauss_{best}.so"));
            job(&opened.backend, &source("{}", &[])).unwrap();
            // What is looked for would be found.
            assert_eq!(mapped(dir.path(), best), isolate == Isolate::Never);
        }
    }
}

#[test]
fn one_build_can_be_named() {
    let dir = folder();
    let search = search(dir.path(), masked(|_| true));
    let catalog = Catalog::scan(&search);
    let baseline = "libsd_backend_gauss_baseline.so";
    let path = dir.path().join(baseline).to_str().unwrap().to_owned();
    for wish in ["gauss-baseline", &path] {
        assert_eq!(open(&catalog, &named(wish, &[])).unwrap().file, baseline);
        assert_eq!(report(&search, &named(wish, &[]), "baseline").state, State::Chosen);
    }
    // What the list advises is how it is taken.
    let remedy = report(&search, &Choice::default(), "baseline").remedy.unwrap();
    assert_eq!(remedy, "--backend gauss-baseline takes it");

    let error = open(&catalog, &named("gauss-impossible", &[])).err().unwrap();
    assert_eq!(error.code(), "plugin_not_for_this_cpu");
    let text = error.to_string();
    assert!(text.starts_with("libsd_backend_gauss_impossible.so: needs ") && text.contains("tbm"), "{text}");
    let error = open(&catalog, &named("gauss-avx9000", &[])).err().unwrap();
    assert!(error.to_string().contains("there is no backend `gauss-avx9000`; found: "), "{error}");
}

#[test]
fn a_library_named_by_its_path_is_found_outside_of_the_folders() {
    let (dir, elsewhere) = (folder(), tempfile::tempdir().unwrap());
    let path = elsewhere.path().join("mine.so");
    std::fs::copy(built("baseline"), &path).unwrap();
    let mut search = search(dir.path(), masked(|_| true));
    search.files = vec![path.clone()];
    let choice = named(path.to_str().unwrap(), &[]);
    let catalog = Catalog::scan(&search);
    assert_eq!(open(&catalog, &choice).unwrap().file, "mine.so");
    assert_eq!(catalog.report(&choice).plugins.len(), BUILDS.len() + 1);
    search.files = vec![elsewhere.path().join("none.so")];
    let choice = named(search.files[0].to_str().unwrap(), &[]);
    let error = open(&Catalog::scan(&search), &choice).err().unwrap();
    assert!(error.to_string().contains("none.so: does not exist"), "{error}");
}
