//! The conformance kit passes what is right and catches what is wrong, each fault at the check that is meant for it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use backend_api::Param;
use common::{named, open, source};
use sd_plugins::{
    Catalog, Search,
    conformance::{Plan, Report, Verdict, report_to_parent, run, watch},
};
use std::{process::Command, time::Duration};

/// The variable that turns this test program into the kit's own process; it holds the script for `rogue`.
const INSIDE: &str = "CONFORMANCE_INSIDE";

/// The model of these tests: the Gaussian backend's own config.
fn plan(options: &[(&str, &str)], loads: u32) -> Plan<'static> {
    let child = Some(vec![env!("CARGO_BIN_EXE_plugin-child").into()]);
    Plan {
        search: Search { child, ..common::search(&std::env::temp_dir()) },
        device: None,
        options: options.iter().map(|(k, v)| Param::new(k, v)).collect(),
        source: source("{}", &[]),
        reference: None,
        golden: None,
        tolerance: 1e-5,
        loads,
    }
}

fn names(report: &Report, verdict: Verdict) -> Vec<&str> {
    report.checks.iter().filter(|c| c.verdict == verdict).map(|c| c.name.as_str()).collect()
}

/// The kit in a process of its own, which is this program with the test `inside` alone: memory, threads and crashes of
/// one run are no other's.
fn check(environment: &[(&str, &str)], script: &str) -> Report {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "inside", "--ignored", "--nocapture"]).env(INSIDE, script);
    command.envs(environment.iter().copied());
    watch(command, Duration::from_secs(20), &mut |_| ()).unwrap()
}

/// Not a test by itself: the process that [`check`] starts.
#[test]
#[ignore = "started by the other tests"]
fn inside() {
    let script = std::env::var(INSIDE).unwrap();
    let (library, options) = match script.split_once(' ') {
        Some((library, script)) => (library, vec![("rogue", script)]),
        None => (script.as_str(), Vec::new()),
    };
    let dir = common::folder(&["gauss"]);
    let reference = open(&Catalog::scan(&common::search(dir.path())), &named("gauss", &[])).unwrap();
    let mut plan = Plan { reference: Some(("gauss", &reference.backend)), ..plan(&options, 12) };
    if library.starts_with("template") {
        plan.source.configs = vec![Param::new("template", 4)].into();
        plan.reference = None;
    }
    report_to_parent(|heard| run(&common::library(library), &plan, heard));
}

#[test]
fn a_sound_backend_passes_beside_a_reference() {
    let report = check(&[], "gauss");
    assert!(report.passed(), "{:#?}", report.checks);
    assert_eq!((report.id.as_str(), report.device.as_str(), report.reference.as_str()), ("gauss", "cpu", "gauss"));
    // What could not be tried says so: this model has no weights, and needs no memory.
    assert_eq!(
        names(&report, Verdict::Skipped),
        [
            "refuses a model with missing weights",
            "refuses a model with damaged weights",
            "predicts as diffusers",
            "answers a lack of memory",
        ]
    );
    assert!(report.checks.len() > 45, "{}", report.checks.len());
}

#[test]
fn the_templates_pass_as_they_are() {
    for library in ["template", "template-c"] {
        let report = check(&[], library);
        assert!(report.passed(), "{library}: {:#?}", report.checks);
    }
}

/// Each fault, and the one check that fails first.
const FAULTS: &[(&str, &str)] = &[
    ("lie@info", "loads"),
    ("panic@info", "loads"),
    ("segv@ctor", "loads"),
    ("lie@probe", "probes"),
    ("fickle@probe", "probes"),
    ("silent@probe", "probes"),
    ("abort@probe", "loads"),
    ("fail@open", "opens"),
    ("exit0@open", "opens"),
    ("lie@memory", "reports its memory"),
    ("slow@memory", "answers memory from any thread"),
    ("segv@memory", "reports its memory"),
    ("oom@inspect", "inspects"),
    ("lie@inspect", "inspects"),
    ("blind@load", "refuses a model with a broken config"),
    ("panic@load", "refuses a model with a broken config"),
    ("deaf@load", "stops a load when cancelled"),
    ("lie@diffusion", "loads the model"),
    ("lost@diffusion", "loads the model"),
    ("panic@encode_text", "encodes texts"),
    ("lie@encode_text", "encodes texts"),
    ("blind@encode_text", "refuses tokens outside the vocabulary"),
    ("nan@predict", "predicts"),
    ("silent@predict", "predicts"),
    ("segv@predict", "predicts"),
    ("stack@predict", "predicts"),
    ("hang@predict", "predicts"),
    ("kill@predict:3", "predicts the same when loaded again"),
    ("fickle@predict", "predicts the same twice"),
    ("lazy@predict", "heeds the text and the timestep"),
    ("lockstep@predict", "heeds each item's timestep"),
    ("blind@predict", "refuses an unknown text"),
    ("cancel@predict", "predicts"),
    ("code@predict", "predicts"),
    ("sour@predict", "works on after errors"),
    ("keep@free_cond", "forgets a freed text"),
    ("silent@decode", "decodes"),
    ("fickle@decode", "decodes the same twice"),
    ("lie@decode", "decodes bytes as it decodes numbers"),
    ("blind@decode", "refuses a picture that does not fit the latents"),
    ("deaf@decode", "stops a decode when cancelled"),
    ("lie@encode", "encodes pictures"),
    ("nan@encode", "encodes pictures"),
    ("deaf@encode", "stops an encode when cancelled"),
    ("fail@preview", "makes previews"),
    ("fail@predict?child", "works in a process of its own"),
    ("hog@load?child", "answers a lack of memory"),
    ("leak@load", "does not leak"),
    ("leak@predict", "does not leak"),
    ("leak@drop_model", "does not leak"),
    ("thread@load", "leaves no threads behind"),
    ("panic@drop", "drops without a panic"),
    ("panic@drop_backend", "drops without a panic"),
    ("abort@drop", "predicts the same when loaded again"),
    ("segv@drop_backend", "drops without a panic"),
];

#[test]
fn each_fault_fails_at_its_check() {
    let mut surprises = Vec::new();
    for (script, name) in FAULTS {
        // What happens before a device is opened is scripted by the environment.
        let early = ["@info", "@probe", "@ctor"].iter().any(|part| script.ends_with(part));
        let report =
            if early { check(&[("SD_ROGUE", script)], "rogue") } else { check(&[], &format!("rogue {script}")) };
        let failed = names(&report, Verdict::Failed);
        if report.passed() || failed.first() != Some(name) {
            let details: Vec<_> = report.checks.iter().filter(|c| c.verdict == Verdict::Failed).collect();
            surprises.push(format!("{script} should fail `{name}`: {failed:?} {details:?}"));
        }
    }
    assert!(surprises.is_empty(), "{}", surprises.join("\n"));
}

#[test]
fn a_crash_is_a_line_of_the_report() {
    let report = check(&[], "rogue segv@decode");
    let [.., crash, rest] = report.checks.as_slice() else { panic!("{report:?}") };
    assert_eq!((crash.name.as_str(), crash.verdict), ("decodes", Verdict::Failed));
    assert!(crash.detail.contains("SIGSEGV"), "{}", crash.detail);
    assert_eq!((rest.name.as_str(), rest.verdict), ("the rest", Verdict::Skipped));
}

#[test]
fn a_reference_that_differs_is_noticed() {
    let dir = common::folder(&["gauss"]);
    let reference = open(&Catalog::scan(&common::search(dir.path())), &named("gauss", &[])).unwrap();
    // Below 0 nothing is close enough.
    let odd = Plan { tolerance: -1.0, reference: Some(("gauss", &reference.backend)), ..plan(&[], 0) };
    let report = run(&common::library("gauss"), &odd, &mut |_| ());
    assert_eq!(
        names(&report, Verdict::Failed),
        ["predicts as the reference", "decodes as the reference", "encodes as the reference"]
    );
}

#[test]
fn a_file_that_is_no_backend_fails_at_once() {
    let report = run(std::path::Path::new("/proc/self/exe"), &plan(&[], 0), &mut |_| ());
    assert!(!report.passed());
    assert_eq!(report.checks.len(), 1);
}

#[test]
fn a_backend_without_a_device_here_does_not_pass() {
    let nowhere = Plan { device: Some("metal".to_owned()), ..plan(&[], 0) };
    let report = run(&common::library("gauss"), &nowhere, &mut |_| ());
    assert!(!report.passed());
    assert_eq!(names(&report, Verdict::Skipped), ["opens"]);
}
