//! The corpus as ordinary tests: every file of it, and some mutations of each, through its target.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "tests stop at the first surprise")]

use sd_fuzz::{TARGETS, Target};
use sd_tests::{Random, root};
use std::time::{Duration, Instant};

/// Mutations of each file.
const MUTATIONS: usize = 40;
/// No input may take longer; generous, for a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(10);

fn mutate(random: &mut Random, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..1 + random.below(4) {
        if bytes.is_empty() {
            bytes.push(random.byte());
        }
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] = random.byte(),
            1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes.insert(at, random.byte()),
            3 => bytes.truncate(at),
            4 => {
                let piece = bytes[at..(at + 16).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let end = (at + random.below(16)).min(bytes.len());
                bytes.drain(at..end);
            }
        }
    }
    bytes
}

fn run(target: &Target, what: &str, bytes: &[u8]) {
    let since = Instant::now();
    let done = std::panic::catch_unwind(|| (target.run)(bytes));
    assert!(done.is_ok(), "{} fails on {what}: {:?}", target.name, String::from_utf8_lossy(bytes));
    assert!(since.elapsed() < PATIENCE, "{} takes {:?} for {what}", target.name, since.elapsed());
}

fn check(name: &str) {
    let target = sd_fuzz::find(name).unwrap();
    let folder = root().join("fuzz/corpus").join(name);
    let mut files: Vec<_> = folder.read_dir().unwrap().flatten().map(|e| e.path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{name} has no corpus");
    let mut random = Random::new(11);
    run(target, "nothing", b"");
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        assert!(bytes.len() <= 128 * 1024, "{} is too large for a seed", file.display());
        let shown = file.file_name().unwrap().to_string_lossy().into_owned();
        run(target, &shown, &bytes);
        for n in 0..MUTATIONS {
            run(target, &format!("mutation {n} of {shown}"), &mutate(&mut random, &bytes));
        }
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            check(stringify!($name));
        })*

        #[test]
        fn no_target_is_forgotten() {
            assert_eq!(TARGETS.iter().map(|t| t.name).collect::<Vec<_>>(), [$(stringify!($name)),*]);
        }
    };
}

targets! {
    http_request request_json multipart sse_cursor settings_file model_name safetensors_header single_file_keys
    model_config plugin_manifest plugin_file image recipe prompt
}
