//! Plugins in processes of their own: whatever they do costs one job, and says what happened in one line.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use backend_api::{AbiError, Code, DType, TensorMut, TensorRef, abi_stable::std_types::RSlice};
use common::{decode, encode, job, named, open, predict, predict_ctl, session, source};
use sd_plugins::{Cancel, Catalog, Choice, Isolate, Limits, Opened, Search, State, control, host_ref};
use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// A search that isolates everything, with time limits that tests can wait for.
fn isolated(dir: &Path) -> Search {
    let limit = Duration::from_secs(20);
    let limits = Limits { probe: limit, first: limit, floor: Duration::from_millis(1500), ..Limits::default() };
    let child = Some(vec![env!("CARGO_BIN_EXE_plugin-child").into()]);
    Search { isolate: Isolate::Always, child, limits, ..common::search(dir) }
}

fn opened(name: &str, options: &[(&str, &str)]) -> Opened {
    let dir = common::folder(&[name]);
    // An open library stays valid when its file is gone, but a process that starts anew needs it.
    let dir = dir.keep();
    open(&Catalog::scan(&isolated(&dir)), &named(name, options)).unwrap()
}

#[test]
fn a_child_answers_as_the_library_itself() {
    let dir = common::folder(&["gauss"]);
    let here = open(&Catalog::scan(&common::search(dir.path())), &named("gauss", &[])).unwrap();
    let there = open(&Catalog::scan(&isolated(dir.path())), &named("gauss", &[])).unwrap();
    assert!(!here.isolated && there.isolated);
    for config in ["{}", r#"{"prediction":"v_prediction","mean":0.25}"#] {
        let [a, b] = [&here, &there].map(|o| job(&o.backend, &source(config, &[])).unwrap());
        assert_eq!(a, b);
    }
    let [a, b] = [&here, &there].map(|o| o.backend.memory());
    assert_eq!(a, b);
    let [a, b] = [&here, &there].map(|o| {
        let model = o.backend.load(&source("{}", &[]), &common::quiet()).into_result().unwrap();
        let open = model.diffusion(RSlice::EMPTY).into_result().unwrap();
        let mut up = model.upscaler(RSlice::EMPTY).into_result().unwrap();
        let (pixels, mut large) = ([0.25f32, 0.5, 0.75], [0.0f32; 12]);
        let image = TensorRef::f32("", &[1, 1, 3], &pixels).unwrap();
        let view = TensorMut::f32(&[2, 2, 3], &mut large).unwrap();
        up.session.upscale(image, view, &common::quiet()).unwrap();
        let mut session = open.session;
        let vectors = TensorRef::f32("", &[2, 1], &[0.0; 2]).unwrap();
        let token = session.add_tokens(0, vectors).unwrap();
        let mut moments = [0.0f32; 8];
        let picture: Vec<u8> = (0..192).map(|v| v as u8).collect();
        let image = TensorRef::new("", DType::U8, &[1, 8, 8, 3], &picture).unwrap();
        let view = TensorMut::f32(&[1, 8, 1, 1], &mut moments).unwrap();
        session.encode(image, RSlice::EMPTY, view, &common::quiet()).unwrap();
        (format!("{:?}", open.desc), large, token, moments)
    });
    assert_eq!(a, b);
}

/// Runs a job that must fail, then one that must work; answers the failure.
fn survives(rogue: &Opened, script: &str) -> AbiError {
    let error = job(&rogue.backend, &source("{}", &[("rogue", script)])).unwrap_err();
    assert!(error.message.len() < 600 && !error.message.contains('\n'), "{script}: {error}");
    let start = Instant::now();
    // After several deaths in a row a pause comes first; a good job ends the row.
    job(&rogue.backend, &source("{}", &[])).unwrap_or_else(|e| panic!("after {script}: {e}"));
    assert!(start.elapsed() < Duration::from_secs(10), "{script}: {:?}", start.elapsed());
    error
}

#[test]
fn deaths_cost_one_job() {
    let rogue = opened("rogue", &[]);
    for (deed, words) in [
        ("segv", "SIGSEGV"),
        ("abort", "SIGABRT"),
        ("stack", "signal"),
        ("exit", "ended with status 3"),
        ("exit0", "ended with status 0"),
        ("kill", "killed, perhaps for lack of memory"),
        ("garbage", "process died"),
        ("close", "process died"),
    ] {
        for method in ["load", "diffusion", "encode_text", "predict", "decode"] {
            let error = survives(&rogue, &format!("{deed}@{method}"));
            assert_eq!(error.code, Code::WORKER_DIED, "{deed}@{method}: {error}");
            assert!(error.message.contains(words), "{deed}@{method}: {error}");
        }
    }
    for deed in ["segv@inspect", "exit@inspect", "close@inspect"] {
        assert_eq!(survives(&rogue, deed).code, Code::WORKER_DIED, "{deed}");
    }
}

#[test]
fn last_words_reach_the_operator() {
    let error = survives(&opened("rogue", &[]), "stack@predict");
    assert!(error.detail.contains("stack"), "{}", error.detail);
}

#[test]
fn errors_and_panics_pass_as_they_are() {
    let rogue = opened("rogue", &[]);
    for (script, code) in [
        ("panic@predict", Code::PANICKED),
        ("panic@load", Code::PANICKED),
        ("panic@inspect", Code::PANICKED),
        ("oom@load", Code::OOM),
        ("lost@predict", Code::DEVICE_LOST),
        ("code@predict", Code::INTERNAL),
        ("silent@predict", sd_plugins::NOT_FINITE),
        ("nan@decode", sd_plugins::NOT_FINITE),
        ("lie@diffusion", Code::INTERNAL),
    ] {
        let error = survives(&rogue, script);
        assert_eq!(error.code, code, "{script}: {error}");
    }
    job(&rogue.backend, &source("{}", &[("rogue", "stdout@predict")])).unwrap();
}

#[test]
fn a_step_that_hangs_is_stopped() {
    let rogue = opened("rogue", &[]);
    let mut session = session(&rogue.backend, &source("{}", &[("rogue", "hang@predict:3")])).unwrap();
    let cond = encode(&mut session, &[1]).unwrap();
    predict(&mut session, cond, 1).unwrap();
    predict(&mut session, cond, 1).unwrap();
    let start = Instant::now();
    let error = predict(&mut session, cond, 1).unwrap_err();
    assert_eq!(error.code, Code::TIMEOUT, "{error}");
    assert!((1.4..8.0).contains(&start.elapsed().as_secs_f64()), "{:?}", start.elapsed());
    assert_eq!(predict(&mut session, cond, 1).unwrap_err().code, Code::WORKER_DIED);
    drop(session);
    job(&rogue.backend, &source("{}", &[])).unwrap();
}

#[test]
fn a_question_is_answered_while_a_step_runs() {
    let gauss = opened("gauss", &[]);
    let mut session = session(&gauss.backend, &source("{}", &[("step_ms", "700")])).unwrap();
    let cond = encode(&mut session, &[1]).unwrap();
    std::thread::scope(|scope| {
        let step = scope.spawn(move || predict(&mut session, cond, 1).map(|_| Instant::now()));
        // The step takes 700 ms from some moment on; one of these questions falls into it.
        let mut answered = Vec::new();
        while !step.is_finished() {
            gauss.backend.memory();
            answered.push(Instant::now());
        }
        let ended = step.join().unwrap().unwrap();
        assert!(answered.iter().any(|at| ended.duration_since(*at) > Duration::from_millis(300)));
    });
}

#[test]
fn a_call_stops_when_cancelled() {
    let gauss = opened("gauss", &[]);
    let cancel = Cancel::new();
    let stop = cancel.clone();
    let ctl = control(&cancel, move |_, done, _| {
        if done > 0 {
            stop.cancel()
        }
    });
    let error = gauss.backend.load(&source("{}", &[("load_ms", "60000")]), &ctl).into_result().err().unwrap();
    assert_eq!(error.code, Code::CANCELLED);
    let mut session = session(&gauss.backend, &source("{}", &[("step_ms", "60000")])).unwrap();
    let cond = encode(&mut session, &[1]).unwrap();
    let cancel = Cancel::new();
    let ctl = control(&cancel, |_, _, _| ());
    let (error, took) = std::thread::scope(|scope| {
        let step = scope.spawn(|| predict_ctl(&mut session, cond, 1, &ctl).unwrap_err());
        cancel.cancel();
        let start = Instant::now();
        (step.join().unwrap(), start.elapsed())
    });
    assert_eq!(error.code, Code::CANCELLED);
    assert!(took < Duration::from_secs(5), "{took:?}");
    decode(&mut session).unwrap();
}

#[test]
fn a_process_killed_from_outside_is_replaced() {
    let rogue = opened("rogue", &[("rogue", "kill@predict:2?first")]);
    assert_eq!(job(&rogue.backend, &source("{}", &[])).unwrap_err().code, Code::WORKER_DIED);
    for _ in 0..3 {
        job(&rogue.backend, &source("{}", &[])).unwrap();
    }
}

#[test]
fn a_library_that_dies_when_asked_is_refused() {
    for (script, words) in [
        ("segv@ctor", "SIGSEGV"),
        ("exit@ctor", "ended with status 3"),
        ("abort@info", "SIGABRT"),
        ("stack@probe", "signal"),
        ("hang@ctor", "no answer within 1.0 s"),
        ("garbage@probe", "process died"),
        ("lie@info", "its id"),
        ("panic@info", "its id"),
    ] {
        let dir = common::folder(&["rogue"]);
        // Only the one that hangs is waited for; the others must not run out of time on a busy machine.
        let probe = Duration::from_secs(if script == "hang@ctor" { 1 } else { 20 });
        let limits = Limits { probe, ..Limits::default() };
        // The script travels as the child's environment.
        let child = vec!["env".into(), format!("SD_ROGUE={script}").into(), env!("CARGO_BIN_EXE_plugin-child").into()];
        let search = Search { limits, child: Some(child), ..isolated(dir.path()) };
        let report = Catalog::scan(&search).report(&named("rogue", &[]));
        let plugin = &report.plugins[0];
        assert_eq!(plugin.state, State::Refused, "{script}: {}", plugin.reason);
        assert!(plugin.reason.contains(words), "{script}: {}", plugin.reason);
    }
    let dir = common::folder(&["rogue"]);
    let child = vec!["env".into(), "SD_ROGUE=lie@probe".into(), env!("CARGO_BIN_EXE_plugin-child").into()];
    let report = Catalog::scan(&Search { child: Some(child), ..isolated(dir.path()) }).report(&named("rogue", &[]));
    assert_eq!(report.plugins[0].reason, "it knows none of this machine's devices");
}

#[test]
fn answers_of_libraries_are_remembered_until_the_file_changes() {
    let (dir, cache) = (common::folder(&["gauss"]), tempfile::tempdir().unwrap());
    let search = Search { cache: Some(cache.path().into()), ..isolated(dir.path()) };
    let state = |search: &Search| Catalog::scan(search).report(&named("gauss", &[])).plugins[0].state;
    assert_eq!(state(&search), State::Chosen);
    // With a command that does not exist only a remembered answer can come back.
    let broken = Search { child: Some(vec!["/nowhere/child".into()]), ..search.clone() };
    assert_eq!(state(&broken), State::Chosen);
    let file = dir.path().join("libsd_backend_gauss.so");
    let touched = std::fs::metadata(&file).unwrap().modified().unwrap() + Duration::from_secs(5);
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(touched).unwrap();
    assert_eq!(state(&broken), State::Refused);
    assert_eq!(state(&search), State::Chosen);
    let other = Search { hardware: Some(vec![]), ..broken };
    assert_eq!(state(&other), State::Refused);
    std::fs::write(cache.path().join("plugin-probes.json"), "{broken").unwrap();
    assert_eq!(state(&search), State::Chosen);
}

#[test]
fn an_answer_that_offers_nothing_is_asked_for_again() {
    let (cache, runtime) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
    let state = |dir: &Path, id: &str, variable: &str| {
        let child = vec!["env".into(), variable.into(), env!("CARGO_BIN_EXE_plugin-child").into()];
        let search = Search { cache: Some(cache.path().into()), child: Some(child), ..isolated(dir) };
        Catalog::scan(&search).report(&named(id, &[])).plugins[0].state
    };
    // No offer at all, and one of score 0: the plugin looks for the runtime's file only.
    let (rogue, onnx) = (common::folder(&["rogue"]), common::folder(&["onnx"]));
    let there = format!("ORT_DYLIB_PATH={}", runtime.path().display());
    for (dir, id, without, with) in [
        (&rogue, "rogue", "SD_ROGUE=lie@probe", "SD_ROGUE="),
        (&onnx, "onnx", "ORT_DYLIB_PATH=/nowhere/at/all", there.as_str()),
    ] {
        assert_eq!(state(dir.path(), id, without), State::Skipped, "{id}");
        assert_eq!(state(dir.path(), id, with), State::Chosen, "{id}: what it lacked is there now");
        assert_eq!(state(dir.path(), id, without), State::Chosen, "{id}: a usable answer is remembered");
    }
}

/// What a child says that it gave up: kernels differ in what they have.
fn given_up() -> String {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&lines);
    let dir = common::folder(&["gauss"]);
    let host = move |_: &str| {
        let sink = Arc::clone(&sink);
        host_ref(move |_, _, message| sink.lock().unwrap().push(message.to_owned()))
    };
    Catalog::scan(&isolated(dir.path())).open(&named("gauss", &[]), &host).unwrap().backend.memory();
    let lines = lines.lock().unwrap();
    lines.iter().find(|l| l.starts_with("given up")).unwrap().clone()
}

#[test]
fn a_child_has_no_network_and_changes_no_files() {
    let rogue = opened("rogue", &[]);
    let error = survives(&rogue, "net@predict");
    assert!(error.message.contains("refused: permission denied"), "{error}");
    let error = survives(&rogue, "write@predict");
    let given_up = given_up();
    assert!(given_up.contains("no_network"), "{given_up}");
    assert_eq!(given_up.contains("read_only_files"), error.message.contains("refused"), "{given_up}; {error}");
}

#[test]
fn a_child_has_no_way_around_its_limits() {
    let target = std::env::temp_dir().join(format!("sd-rogue-{}", std::process::id()));
    std::fs::write(&target, "weights").unwrap();
    let error = survives(&opened("rogue", &[]), "escape@predict");
    let left = std::fs::read(&target).unwrap();
    std::fs::remove_file(&target).unwrap();
    // What the kernel of this machine has: 6.2 knows truncation, 6.12 signals.
    let version = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let number = |i: usize| version.split(['.', '-']).nth(i).and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
    let at_least = |major, minor| (number(0), number(1)) >= (major, minor);
    let files = given_up().contains("read_only_files");
    assert!(error.message.contains("io_uring refused"), "{error}");
    if files && at_least(6, 2) {
        assert!(error.message.contains("truncate refused"), "{error}");
        assert_eq!(left, b"weights");
    }
    if files && at_least(6, 12) {
        assert!(error.message.contains("signal refused"), "{error}");
    }
}

#[test]
fn automatic_isolation_keeps_strangers_out() {
    let dir = common::folder(&["gauss"]);
    let with = |isolate| {
        let search = Search { isolate, ..isolated(dir.path()) };
        Catalog::scan(&search).report(&Choice::default()).plugins[0].isolated
    };
    assert!(with(Isolate::Auto) && with(Isolate::Always) && !with(Isolate::Never));
}
