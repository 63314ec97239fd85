//! The conformance kit passes what is right and catches what is wrong.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use backend_api::Param;
use common::{named, open, source};
use sd_plugins::{
    Catalog,
    conformance::{Plan, Report, Verdict, run},
};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The kit watches the memory and the threads of the whole process, so one test at a time runs it.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn plan(config: &str, options: &[(&str, &str)], loads: u32) -> Plan<'static> {
    let dir = std::env::temp_dir();
    Plan {
        search: common::search(&dir),
        device: None,
        options: options.iter().map(|(k, v)| Param::new(k, v)).collect(),
        source: source(config, &[]),
        reference: None,
        tolerance: 1e-5,
        loads,
    }
}

fn failed(report: &Report) -> Vec<&'static str> {
    report.checks.iter().filter(|c| c.verdict == Verdict::Failed).map(|c| c.name).collect()
}

#[test]
fn a_sound_backend_passes_beside_a_reference() {
    let _alone = alone();
    let dir = common::folder(&["gauss"]);
    let reference = open(&Catalog::scan(&common::search(dir.path())), &named("gauss", &[])).unwrap();
    let plan = Plan { reference: Some(&reference.backend), ..plan("{}", &[], 50) };
    let report = run(&common::library("gauss"), &plan);
    assert!(report.passed(), "{:#?}", report.checks);
    assert_eq!((report.id.as_str(), report.device.as_str()), ("gauss", "cpu"));
    // What could not be tried says so: this model has no weights.
    let skipped: Vec<_> = report.checks.iter().filter(|c| c.verdict == Verdict::Skipped).map(|c| c.name).collect();
    assert_eq!(skipped, ["refuses a model with missing weights"]);
    assert!(report.checks.len() > 20);
}

#[test]
fn each_misdeed_fails_its_check() {
    let _alone = alone();
    for (script, check) in [
        ("nan@predict", "predicts"),
        ("silent@decode", "decodes"),
        ("lie@diffusion", "loads the model"),
        ("panic@encode_text", "encodes texts"),
        ("oom@inspect", "inspects"),
        ("fail@open", "opens"),
        ("leak@load", "does not leak"),
        ("leak@predict", "does not leak"),
    ] {
        let report = run(&common::library("rogue"), &plan("{}", &[("rogue", script)], 20));
        assert!(!report.passed());
        let found = failed(&report);
        assert!(found.contains(&check), "{script}: {found:?}");
    }
}

#[test]
fn a_reference_that_differs_is_noticed() {
    let _alone = alone();
    let dir = common::folder(&["gauss"]);
    let reference = open(&Catalog::scan(&common::search(dir.path())), &named("gauss", &[])).unwrap();
    let report = run(&common::library("rogue"), &Plan { reference: Some(&reference.backend), ..plan("{}", &[], 0) });
    assert!(report.passed(), "{:?}", failed(&report));
    let odd = Plan { tolerance: -1.0, reference: Some(&reference.backend), ..plan("{}", &[], 0) };
    let report = run(&common::library("rogue"), &odd);
    assert_eq!(failed(&report), ["predicts as the reference", "decodes as the reference"]);
}

#[test]
fn a_file_that_is_no_backend_fails_at_once() {
    let _alone = alone();
    let report = run(std::path::Path::new("/proc/self/exe"), &plan("{}", &[], 0));
    assert!(!report.passed());
    assert_eq!(report.checks.len(), 1);
}

#[test]
fn the_template_passes_as_it_is() {
    let _alone = alone();
    let mut plan = plan("{}", &[], 20);
    plan.source.configs = vec![Param::new("template", 4)].into();
    let report = run(&common::library("template"), &plan);
    assert!(report.passed(), "{:#?}", report.checks);
}
