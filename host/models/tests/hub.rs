//! The hub's protocol against a server on this machine that misbehaves on demand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

mod server;

use sd_models::{HubOptions, Library, ModelError, ModelName, ModelRef, Prefer, PullEvent, Pulled, pull};
use serde_json::json;
use server::{
    Reply, Server,
    repository::{COMMIT, REPO, hex, honest},
};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

/// The repository that every test pulls.
fn repository() -> BTreeMap<String, Vec<u8>> {
    server::repository::files(Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap())
}

struct Run {
    result: sd_models::Result<Pulled>,
    events: Vec<PullEvent>,
    cache: tempfile::TempDir,
    server: Server,
}

impl Run {
    fn code(&self) -> &'static str {
        self.result.as_ref().map_or_else(ModelError::code, |_| "ok")
    }

    fn blobs(&self) -> PathBuf {
        self.cache.path().join("models--acme--tiny/blobs")
    }

    fn resolves(&self) -> bool {
        let library = Library::new(Vec::new(), Some(self.cache.path().to_path_buf()));
        library.resolve(&ModelRef::Name(ModelName::parse(REPO).unwrap()), Default::default()).is_ok()
    }
}

fn options(server: &Server, cache: &Path) -> HubOptions {
    HubOptions {
        endpoint: server.url(),
        token: Some("hf_secret".into()),
        offline: false,
        cache_dir: cache.to_path_buf(),
        prefer: Prefer::Full,
        // Long: a busy machine must not look like a silent hub.
        stall: Duration::from_secs(20),
        attempts: 3,
        backoff: Duration::from_millis(1),
    }
}

/// Pulls from a server with this behaviour: `reply(request number, path, range, honest answer)`.
fn run(reply: impl Fn(usize, &str, Option<u64>, Reply) -> Reply + Send + 'static) -> Run {
    run_with(repository(), |_| {}, reply)
}

fn run_with(
    files: BTreeMap<String, Vec<u8>>,
    change: impl FnOnce(&mut HubOptions),
    reply: impl Fn(usize, &str, Option<u64>, Reply) -> Reply + Send + 'static,
) -> Run {
    let start = Instant::now();
    let server = Server::start(move |n, request| {
        let honest = honest(&files, &request.path, request.range);
        reply(n, &request.path, request.range, honest)
    });
    let cache = tempfile::tempdir().unwrap();
    let mut options = options(&server, cache.path());
    change(&mut options);
    let mut events = Vec::new();
    let id = ModelName::parse(REPO).unwrap().hub().unwrap();
    let result = pull(&id, &options, &mut |event| {
        events.push(event.clone());
        ControlFlow::Continue(())
    });
    assert!(start.elapsed() < Duration::from_secs(60), "took {:?}", start.elapsed());
    Run { result, events, cache, server }
}

#[test]
fn a_good_hub() {
    let run = run(|_, _, _, honest| honest);
    let pulled = run.result.as_ref().unwrap();
    assert_eq!(pulled.commit, COMMIT);
    assert!(run.resolves());
    let asked = run.server.paths();
    for unwanted in ["README", "safety_checker", ".bin", ".ckpt", "evil", "hidden"] {
        assert!(!asked.iter().any(|path| path.contains(unwanted)), "{unwanted} was fetched: {asked:?}");
    }
    assert!(run.server.requests().iter().all(|request| request.token.as_deref() == Some("Bearer hf_secret")));
    assert_eq!(fs::read_to_string(run.cache.path().join("models--acme--tiny/refs/main")).unwrap(), COMMIT);
    let left: Vec<_> =
        run.blobs().read_dir().unwrap().flatten().map(|e| e.file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|name| name.bytes().all(|b| b.is_ascii_hexdigit())), "{left:?}");
    assert!(matches!(run.events.first(), Some(PullEvent::Planned { .. })));
    let last = run.events.iter().rev().find_map(|event| match event {
        PullEvent::Progress { total_done, total, .. } => Some((*total_done, *total)),
        _ => None,
    });
    assert_eq!(last, Some((pulled.bytes, pulled.bytes)));

    // A second run asks for the list and fetches nothing; the resolved model is the fixture.
    let before = run.server.paths().len();
    let id = ModelName::parse(REPO).unwrap().hub().unwrap();
    pull(&id, &options(&run.server, run.cache.path()), &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(run.server.paths().len(), before + 1);
    let library = Library::new(Vec::new(), Some(run.cache.path().to_path_buf()));
    let listed = library.list();
    assert_eq!(
        listed.iter().map(|entry| (entry.name.as_str(), entry.is_complete())).collect::<Vec<_>>(),
        [(REPO, true)]
    );
}

#[test]
fn refusals_have_their_own_codes() {
    for (status, code) in [
        (401, "hub_unauthorized"),
        (403, "hub_forbidden"),
        (404, "hub_not_found"),
        (418, "hub_unexpected_status"),
        (429, "hub_rate_limited"),
        (500, "hub_server_error"),
        (503, "hub_server_error"),
    ] {
        let at_list = run(move |_, _, _, _| Reply::status(status));
        assert_eq!(at_list.code(), code, "list: {status}");
        let at_file = run(move |_, path, _, honest| if path.ends_with(UNET) { Reply::status(status) } else { honest });
        assert_eq!(at_file.code(), code, "file: {status}");
        assert!(!at_file.resolves(), "{status}: half a model is visible");
        let message = at_file.result.unwrap_err().to_string();
        assert!(!message.contains("hf_secret") && !message.contains("127.0.0.1"), "{message}");
    }
}

#[test]
fn passing_failures_are_tried_again() {
    let run = run(|n, path, _, honest| if path.ends_with(UNET) && n % 2 == 0 { Reply::status(502) } else { honest });
    assert_eq!(run.code(), "ok");
    assert!(run.resolves());
}

#[test]
fn a_cut_connection_resumes() {
    // Every answer for the UNet ends after 100,000 bytes.
    let run = run(|_, path, _, honest| if path.ends_with(UNET) { honest.cut(100_000) } else { honest });
    assert_eq!(run.code(), "ok", "{:?}", run.result);
    assert!(run.resolves());
    let ranges: Vec<_> = run.server.requests().iter().filter(|r| r.path.ends_with(UNET)).map(|r| r.range).collect();
    assert!(ranges.len() > 3 && ranges[0].is_none(), "{ranges:?}");
    assert!(ranges.windows(2).all(|pair| pair[1] > pair[0]), "{ranges:?}");
    assert!(run.events.iter().any(|event| matches!(event, PullEvent::Retrying { .. })));
}

#[test]
fn a_broken_run_goes_on_where_it_stopped() {
    let files = repository();
    let size = files[UNET].len() as u64;
    let first = run(move |_, path, range, honest| match (path.ends_with(UNET), range) {
        (true, None) => honest.cut(5_000),
        (true, Some(_)) => Reply::status(500),
        _ => honest,
    });
    assert_eq!(first.code(), "hub_server_error");
    assert!(!first.resolves());
    let left: Vec<u64> = first
        .blobs()
        .read_dir()
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_str().unwrap().ends_with(".incomplete"))
        .map(|entry| entry.metadata().unwrap().len())
        .collect();
    assert_eq!(left, [5_000]);

    let server = Server::start(move |_, request| honest(&files, &request.path, request.range));
    let id = ModelName::parse(REPO).unwrap().hub().unwrap();
    pull(&id, &options(&server, first.cache.path()), &mut |_| ControlFlow::Continue(())).unwrap();
    let ranges: Vec<_> = server.requests().iter().filter(|r| r.path.ends_with(UNET)).map(|r| r.range).collect();
    assert_eq!(ranges, [Some(5_000)], "of {size}");
    assert!(first.resolves());
}

#[test]
fn wrong_bytes_are_never_kept() {
    let flip = |mut reply: Reply| {
        if let Some(last) = reply.body.last_mut() {
            *last ^= 1;
        }
        reply
    };
    let run = run(move |_, path, _, honest| if path.ends_with(UNET) { flip(honest) } else { honest });
    assert_eq!(run.code(), "hub_wrong_hash");
    assert!(!run.resolves());
    assert!(!run.blobs().read_dir().unwrap().flatten().any(|e| e.file_name().to_str().unwrap().contains("incomplete")));
}

#[test]
fn a_foreign_beginning_is_thrown_away() {
    let files = repository();
    let sum = hex(&Sha256::digest(&files[UNET]));
    let server = Server::start(move |_, request| honest(&files, &request.path, request.range));
    let cache = tempfile::tempdir().unwrap();
    let blobs = cache.path().join("models--acme--tiny/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(format!("{sum}.incomplete")), vec![7; 3_000]).unwrap();
    let id = ModelName::parse(REPO).unwrap().hub().unwrap();
    pull(&id, &options(&server, cache.path()), &mut |_| ControlFlow::Continue(())).unwrap();
    let ranges: Vec<_> = server.requests().iter().filter(|r| r.path.ends_with(UNET)).map(|r| r.range).collect();
    assert_eq!(ranges, [Some(3_000), None]);
}

#[test]
fn wrong_sizes() {
    let longer = run(
        |_, path, _, honest| if path.ends_with(UNET) { Reply::ok([honest.body, vec![0; 9]].concat()) } else { honest },
    );
    assert_eq!(longer.code(), "hub_wrong_size");
    let shorter =
        run(|_, path, _, honest| if path.ends_with(UNET) { Reply::ok(honest.body[1..].to_vec()) } else { honest });
    assert_eq!(shorter.code(), "hub_wrong_size");
    // Without a length, the surplus shows only while reading.
    let endless = run(|_, path, _, honest| {
        if path.ends_with(UNET) { Reply::ok([honest.body, vec![0; 99]].concat()).without_length() } else { honest }
    });
    assert_eq!(endless.code(), "hub_wrong_size");
    let another = run(|_, path, range, honest| match (path.ends_with(UNET), range) {
        (true, None) => honest.cut(100),
        (true, Some(_)) => honest.header("Content-Range", "bytes 0-99/100"),
        _ => honest,
    });
    assert_eq!(another.code(), "hub_bad_answer");
}

#[test]
fn a_server_without_ranges() {
    let run = run(|n, path, range, honest| match (path.ends_with(UNET), range) {
        (true, None) if n < 1_000 => honest.cut(700),
        // Range asked for: the whole file all the same.
        (true, Some(_)) => Reply::ok(repository()[UNET].clone()),
        _ => honest,
    });
    assert_eq!(run.code(), "ok", "{:?}", run.result);
    assert!(run.resolves());
}

#[test]
fn silence_is_bounded() {
    let short = |options: &mut HubOptions| options.stall = Duration::from_millis(200);
    let silent =
        run_with(repository(), short, |_, path, _, honest| if path.ends_with(UNET) { honest.stall() } else { honest });
    // Small files too may be late on a busy machine: the same code either way.
    assert_eq!(silent.code(), "hub_timeout", "{:?}", silent.result);
    let listing = run_with(repository(), short, |_, _, _, honest| honest.stall());
    assert_eq!(listing.code(), "hub_timeout", "{:?}", listing.result);
    // A slow but steady server is no failure.
    let slow = run(|_, path, _, honest| if path.ends_with(UNET) { honest.drip() } else { honest });
    assert_eq!(slow.code(), "ok", "{:?}", slow.result);
}

#[test]
fn redirects() {
    let files = repository();
    let cdn = Server::start(move |_, request| honest(&files, &request.path.replace("/cdn", ""), request.range));
    let far = cdn.url();
    let moved = run(
        move |_, path, _, honest| {
            if path.ends_with(UNET) { Reply::redirect(302, &format!("{far}/cdn{path}")) } else { honest }
        },
    );
    assert_eq!(moved.code(), "ok", "{:?}", moved.result);
    assert!(cdn.requests().len() == 1 && cdn.requests()[0].token.is_none(), "the token went to another host");

    let near = run(|_, path, _, honest| match path.strip_prefix("/moved") {
        None if path.ends_with(UNET) => Reply::redirect(307, &format!("/moved{path}")),
        Some(path) => {
            Reply::ranged(&repository()[path.strip_prefix(&format!("/{REPO}/resolve/{COMMIT}/")).unwrap()], None)
        }
        None => honest,
    });
    assert_eq!(near.code(), "ok", "{:?}", near.result);
    assert!(near.server.requests().iter().all(|request| request.token.is_some()));

    let circle = run(|_, path, _, _| Reply::redirect(302, path));
    assert_eq!(circle.code(), "hub_bad_redirect");
    let file = run(|_, _, _, _| Reply::redirect(302, "file:///etc/passwd"));
    assert_eq!(file.code(), "hub_bad_redirect");
}

#[test]
fn nonsense_answers() {
    for (label, body) in [
        ("HTML", "<html>".to_owned()),
        ("empty", String::new()),
        ("no commit", r#"{"siblings":[]}"#.to_owned()),
        ("a path as commit", r#"{"sha":"../../../../etc","siblings":[]}"#.to_owned()),
        ("no files", format!(r#"{{"sha":"{COMMIT}"}}"#)),
        ("deep", format!("{{\"sha\":{}", "[".repeat(100_000))),
    ] {
        let run = run(move |_, _, _, _| Reply::ok(body.clone().into_bytes()));
        assert_eq!(run.code(), "hub_bad_answer", "{label}");
    }
    let empty = run(|_, _, _, _| Reply::ok(format!(r#"{{"sha":"{COMMIT}","siblings":[]}}"#).into_bytes()));
    assert_eq!(empty.code(), "model_file_missing");
}

#[test]
fn only_pickles_are_refused_before_the_download() {
    let mut files = repository();
    files.remove(UNET);
    let run = run_with(files, |_| {}, |_, _, _, honest| honest);
    assert_eq!(run.code(), "pickle_refused");
    assert!(!run.server.paths().iter().any(|path| path.contains("safetensors")), "{:?}", run.server.paths());
}

#[test]
fn the_half_precision_copy_and_shards() {
    let mut files = repository();
    let bytes = files[UNET].clone();
    files.insert("unet/diffusion_pytorch_model.fp16.safetensors".into(), bytes.clone());
    let half = run_with(files.clone(), |options| options.prefer = Prefer::Half, |_, _, _, honest| honest);
    assert_eq!(half.code(), "ok");
    assert!(half.server.paths().iter().any(|path| path.ends_with("fp16.safetensors")));
    assert!(!half.server.paths().iter().any(|path| path.ends_with(UNET)), "both precisions were fetched");
    let full = run_with(files.clone(), |_| {}, |_, _, _, honest| honest);
    assert!(!full.server.paths().iter().any(|path| path.ends_with("fp16.safetensors")));

    files.remove(UNET);
    files.remove("unet/diffusion_pytorch_model.fp16.safetensors");
    let shard = "diffusion_pytorch_model-00001-of-00001.safetensors";
    files.insert(format!("unet/{shard}"), bytes);
    let index = json!({ "weight_map": { "conv_in.weight": shard } }).to_string();
    files.insert(format!("{UNET}.index.json"), index.into_bytes());
    let sharded = run_with(files, |_| {}, |_, _, _, honest| honest);
    assert_eq!(sharded.code(), "ok", "{:?}", sharded.result);
    assert!(sharded.resolves());
}

#[test]
fn offline_and_unreachable() {
    let offline = run_with(repository(), |options| options.offline = true, |_, _, _, honest| honest);
    assert_eq!(offline.code(), "hub_offline");
    assert!(offline.server.paths().is_empty(), "asked while offline");

    let ready = run(|_, _, _, honest| honest);
    let mut options = options(&ready.server, ready.cache.path());
    options.offline = true;
    let id = ModelName::parse(REPO).unwrap().hub().unwrap();
    assert_eq!(pull(&id, &options, &mut |_| ControlFlow::Continue(())).unwrap().commit, COMMIT);

    // A port that was just given back refuses connections.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused =
        run_with(repository(), |options| options.endpoint = format!("http://{gone}"), |_, _, _, honest| honest);
    assert_eq!(refused.code(), "hub_unreachable");
    let endpoint = run_with(repository(), |options| options.endpoint = "ftp://x".into(), |_, _, _, honest| honest);
    assert_eq!(endpoint.code(), "hub_bad_endpoint");
}

#[test]
fn a_caller_can_stop() {
    let files = repository();
    let server = Server::start(move |_, request| honest(&files, &request.path, request.range));
    let cache = tempfile::tempdir().unwrap();
    let id = ModelName::parse(REPO).unwrap().hub().unwrap();
    let mut seen = 0;
    let error = pull(&id, &options(&server, cache.path()), &mut |_| {
        seen += 1;
        if seen > 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(error.unwrap_err().code(), "hub_cancelled");
    assert_eq!(seen, 4);
    // A model that is named by its commit is there as soon as its folder is: not before all of it is.
    let snapshots = cache.path().join("models--acme--tiny/snapshots");
    let id = ModelName::parse(&format!("{REPO}@{COMMIT}")).unwrap().hub().unwrap();
    let mut last = String::new();
    let error = pull(&id, &options(&server, cache.path()), &mut |event| {
        if let PullEvent::Progress { file, total_done, total, .. } = event {
            last.clone_from(file);
            if 2 * total_done > *total {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    });
    assert_eq!(error.unwrap_err().code(), "hub_cancelled");
    assert!(!last.is_empty() && !snapshots.exists(), "stopped at {last}");
    pull(&id, &options(&server, cache.path()), &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(snapshots.join(COMMIT).join(UNET).exists());
}

#[test]
fn one_writer_at_a_time() {
    let files = repository();
    let sum = hex(&Sha256::digest(&files[UNET]));
    let server = Server::start(move |_, request| honest(&files, &request.path, request.range));
    let cache = tempfile::tempdir().unwrap();
    let blobs = cache.path().join("models--acme--tiny/blobs");
    fs::create_dir_all(&blobs).unwrap();
    let lock = blobs.join(format!("{sum}.lock"));
    let file = fs::File::create(&lock).unwrap();
    file.lock().unwrap();
    let id = ModelName::parse(REPO).unwrap().hub().unwrap();
    let pull = || pull(&id, &options(&server, cache.path()), &mut |_| ControlFlow::Continue(()));
    assert_eq!(pull().unwrap_err().code(), "hub_busy");
    // Its holder died.
    drop(file);
    pull().unwrap();
    assert!(!lock.exists());
}

#[test]
fn the_token_is_never_shown() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(|_, _| Reply::status(500));
    assert!(!format!("{:?}", options(&server, cache.path())).contains("hf_secret"));
}
