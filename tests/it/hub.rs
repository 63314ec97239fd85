//! Models that are fetched when a job names them: from a hub on this machine, honest and otherwise.

#[path = "../../host/models/tests/server/mod.rs"]
#[allow(dead_code, reason = "the crate of models tests more ways of misbehaving")]
mod server;

use crate::parity::draw;
use sd_tests::{Client, Worker, WorkerOptions, program, root};
use serde_json::{Value, json};
use server::{
    Reply, Request, Server,
    repository::{COMMIT, REPO, files, honest},
};

/// A hub with this behaviour, and a worker that may fetch from it. The cache is empty.
struct Both {
    server: Server,
    worker: Worker,
    cache: tempfile::TempDir,
}

fn options(server: &Server, cache: &tempfile::TempDir, args: &[&str]) -> WorkerOptions {
    let mut options = WorkerOptions::args(args);
    for (name, value) in [
        ("HF_ENDPOINT", server.url()),
        ("HF_HUB_CACHE", cache.path().to_str().unwrap().to_owned()),
        ("HF_TOKEN", "hf_secret".into()),
    ] {
        options.env.push((name.to_owned(), value));
    }
    options
}

fn start(args: &[&str], reply: impl Fn(&Request, Reply) -> Reply + Send + 'static) -> Both {
    let files = files(&root());
    let server = Server::start(move |_, request| reply(request, honest(&files, &request.path, request.range)));
    let cache = tempfile::tempdir().unwrap();
    let worker = Worker::start(&options(&server, &cache, args));
    Both { server, worker, cache }
}

fn body(model: &str) -> Value {
    json!({ "model": model, "prompt": "a red apple", "seed": 3, "steps": 2, "width": 64, "height": 48 })
}

fn narrated(events: &[Value]) -> Vec<&Value> {
    events.iter().filter(|e| e["event"] == "narration" && e["action"] == "pull").collect()
}

fn ends_as(events: &[Value]) -> (String, String) {
    let last = events.last().unwrap();
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    (text(&last["event"]), text(&last["code"]))
}

#[test]
fn a_job_fetches_its_model_and_tells_how_far_it_is() {
    let both = start(&["--pull", "on-demand"], |_, honest| honest);
    let client = both.worker.client();
    let asked = json!({ "model": REPO, "prompt": "a red apple", "seed": 3, "steps": 2 });
    let events = client.run(&asked);
    assert_eq!(ends_as(&events).0, "complete", "{:?}", events.last());
    let names: Vec<&str> = events.iter().filter_map(|e| e["event"].as_str()).collect();
    assert_eq!(names[0], "queued");
    let (first, started) = (names.iter().position(|n| *n == "narration"), names.iter().position(|n| *n == "started"));
    assert!(first.unwrap() < started.unwrap(), "{names:?}");
    assert_eq!(names.iter().filter(|n| **n == "queued").count(), 1);
    let told = narrated(&events);
    let last = told.last().unwrap();
    assert!(told[0]["total_bytes"].as_u64().unwrap() > 1_000_000, "{}", told[0]);
    assert_eq!((&last["bytes"], last["percent"].as_u64()), (&last["total_bytes"], Some(100)));
    // What the request left to the model is the model's own: the size of its pictures.
    let started = events.iter().find(|e| e["event"] == "started").unwrap();
    assert_eq!((&started["width"], &started["model"]), (&json!(64), &json!(REPO)), "{started}");
    // Once here it is not asked for again, and it draws what the same files in a folder draw.
    let before = both.server.requests().len();
    let fixtures = root().join("tests/fixtures/models");
    let local = Worker::start(&WorkerOptions::args(&["--models-dir", fixtures.to_str().unwrap(), "--model", "sd15"]));
    assert_eq!(draw(&client, &body(REPO)).unwrap(), draw(&local.client(), &body("sd15")).unwrap());
    assert_eq!(both.server.requests().len(), before);
    assert!(both.server.requests().iter().all(|r| r.token.as_deref() == Some("Bearer hf_secret")));
    assert!(!both.worker.log_text().contains("hf_secret"));
}

#[test]
fn a_refiner_is_fetched_too() {
    let fixtures = root().join("tests/fixtures/models");
    let local = ["--models-dir", fixtures.to_str().unwrap(), "--model", "sd15"];
    let with = |model: &str, refiner: &str| {
        let mut body = body(model);
        body["refiner"] = json!(refiner);
        body["refiner_switch_at"] = json!(0.5);
        body
    };
    let both = start(&[&local[..], &["--pull", "on-demand"]].concat(), |_, honest| honest);
    let client = both.worker.client();
    // What another family's refiner alone is told cannot be judged before it is here.
    let mut scored = with("sd15", REPO);
    scored["aesthetic_score"] = json!(6.0);
    let events = client.run(&scored);
    assert_eq!(ends_as(&events), ("error".to_owned(), "unsupported".to_owned()), "{:?}", events.last());
    assert!(!narrated(&events).is_empty(), "{events:?}");
    let before = both.server.requests().len();
    assert!(before > 5);
    let drawn = draw(&client, &with("sd15", REPO)).unwrap();
    assert_eq!(both.server.requests().len(), before, "it is here now");
    assert_eq!(drawn, draw(&client, &with("sd15", "sd15")).unwrap());
    // Both at once, and a refiner that is nowhere.
    let both = start(&["--pull", "on-demand"], |_, honest| honest);
    let client = both.worker.client();
    assert_eq!(draw(&client, &with(REPO, &format!("{REPO}@main"))).unwrap(), drawn);
    let events = client.run(&with(REPO, "acme/other"));
    assert_eq!(ends_as(&events), ("error".to_owned(), "model_not_found".to_owned()), "{:?}", events.last());
    assert_eq!(events.last().unwrap()["field"], "refiner");
    let refused = |body: Value| client.post("/v1/jobs", &body).json()["error"].clone();
    let upscaler = json!({ "prompt": "x", "hires": { "scale": 2, "upscaler": "acme/upscaler" } });
    for (asked, word) in [(upscaler, "upscalers"), (json!({ "prompt": "embedding:acme" }), "embeddings")] {
        let told = refused(asked);
        let message = told["message"].as_str().unwrap();
        assert!(message.contains(word) && message.contains("fetched"), "{told}");
    }
}

#[test]
fn a_drawn_seed_stays_what_was_told() {
    let both = start(&["--pull", "on-demand"], |_, honest| honest);
    let client = both.worker.client();
    let accepted = client.post("/v1/jobs", &json!({ "model": REPO, "prompt": "x", "steps": 1 })).json();
    let events = client.events(accepted["job_id"].as_str().unwrap(), 0).rest();
    assert_eq!(ends_as(&events).0, "complete", "{:?}", events.last());
    let started = events.iter().find(|e| e["event"] == "started").unwrap();
    assert!(accepted["seed"].is_u64());
    assert_eq!((&started["seed"], &events.last().unwrap()["seed"]), (&accepted["seed"], &accepted["seed"]));
}

#[test]
fn jobs_for_the_same_model_fetch_it_once() {
    let both = start(&["--pull", "on-demand"], |_, honest| honest.drip());
    let client = both.worker.client();
    let ids: Vec<String> = (0..3).map(|_| client.submit(&body(&format!("{REPO}@main")))).collect();
    for id in &ids {
        assert_eq!(ends_as(&client.events(id, 0).rest()).0, "complete");
    }
    let paths = both.server.paths();
    let mut unique = paths.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), paths.len(), "{paths:?}");
}

#[test]
fn without_leave_nothing_is_fetched() {
    let both = start(&[], |_, honest| honest);
    let answer = both.worker.client().post("/v1/jobs", &body(REPO));
    let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
    assert_eq!(answer.status, 404, "{message}");
    assert!(message.contains("--pull on-demand") && message.contains("models pull"), "{message}");
    assert_eq!(both.worker.client().post("/v1/models/acme%2Ftiny/load", &json!({})).status, 404);
    assert!(both.server.requests().is_empty());
}

#[test]
fn what_goes_wrong_ends_the_job_with_a_reason() {
    for (status, code, word) in
        [(401, "hub_error", "HF_TOKEN"), (403, "hub_error", "licence"), (404, "model_not_found", "404")]
    {
        let both = start(&["--pull", "on-demand"], move |_, _| Reply::status(status));
        let events = both.worker.client().run(&body(REPO));
        assert_eq!(ends_as(&events), ("error".to_owned(), code.to_owned()), "{status}");
        let last = events.last().unwrap();
        assert!(last["message"].as_str().unwrap().contains(word) && last["field"] == "model", "{last}");
    }
    // A field that is wrong for every model is told at once; one that is wrong for this model when the model is here.
    let both = start(&["--pull", "on-demand"], |_, honest| honest);
    let client = both.worker.client();
    let with = |name: &str, value: Value| {
        let mut body = body(REPO);
        body[name] = value;
        body
    };
    assert_eq!(client.post("/v1/jobs", &with("steps", json!(0))).status, 422);
    assert_eq!(client.post("/v1/jobs", &with("sampler", json!("nonsense"))).status, 422);
    assert_eq!(client.post("/v1/jobs", &with("prompt", Value::Null)).status, 422);
    assert!(both.server.requests().is_empty());
    let events = client.run(&with("original_size", json!([64, 64])));
    assert_eq!(ends_as(&events), ("error".to_owned(), "unsupported".to_owned()), "{:?}", events.last());
}

#[test]
fn a_broken_connection_is_told_and_resumed() {
    let cuts = std::sync::atomic::AtomicUsize::new(0);
    let both = start(&["--pull", "on-demand"], move |request, honest| {
        let weights = request.path.ends_with("unet/diffusion_pytorch_model.safetensors");
        if weights && cuts.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 2 { honest.cut(100_000) } else { honest }
    });
    let events = both.worker.client().run(&body(REPO));
    assert_eq!(ends_as(&events).0, "complete", "{:?}", events.last());
    let again = narrated(&events).iter().filter(|e| e["human"].as_str().unwrap().contains("trying again")).count();
    assert!(again >= 1, "{events:?}");
    let resumed = both.server.requests().iter().any(|r| r.range.is_some_and(|from| from > 0));
    assert!(resumed, "the second attempt goes on where the first one ended");
}

#[test]
fn a_cancelled_job_stops_fetching() {
    let both = start(&["--pull", "on-demand"], |request, honest| {
        if request.path.contains("/resolve/") && request.path.ends_with(".safetensors") {
            honest.stall()
        } else {
            honest
        }
    });
    let client = both.worker.client();
    let says = |event: Option<Value>, what: &str| event.unwrap()["human"].as_str().is_some_and(|h| h.contains(what));
    let stuck = client.submit(&body(REPO));
    // Who fetches and who waits is decided before the second one comes.
    let mut fetching = client.events(&stuck, 0);
    while !says(fetching.next_event(), "fetching") {}
    let waiting = client.submit(&body(REPO));
    let mut reader = client.events(&waiting, 0);
    while !says(reader.next_event(), "waiting for another job") {}
    client.delete(&format!("/v1/jobs/{waiting}"));
    assert_eq!(reader.rest().last().unwrap()["event"], "cancelled");
    client.delete(&format!("/v1/jobs/{stuck}"));
    assert_eq!(ends_as(&fetching.rest()).0, "cancelled");
    // Others are served meanwhile.
    assert_eq!(ends_as(&client.run(&json!({ "prompt": "panda", "steps": 2 }))).0, "complete");
}

#[test]
fn loads_and_the_start_fetch_too() {
    let both = start(&["--pull", "on-demand", "--model", REPO], |_, honest| honest);
    assert_eq!(both.worker.client().get("/ready").status, 200);
    assert!(both.worker.log_text().contains("model fetched"), "{}", both.worker.log_text());
    assert_eq!(draw(&both.worker.client(), &json!({ "prompt": "x", "steps": 1 })).unwrap().dimensions(), (64, 64));
    let named = Client::new(&both.worker.url).post(&format!("/v1/models/acme%2Ftiny@{COMMIT}/load"), &json!({}));
    assert_eq!((named.status, named.json()["status"].as_str()), (200, Some("loaded")), "{}", named.json());
    // Offline the cache is all there is.
    let offline = |model: &str| {
        let mut options = options(&both.server, &both.cache, &["--pull", "on-demand"]);
        options.env.push(("HF_HUB_OFFLINE".to_owned(), "1".to_owned()));
        let worker = Worker::start(&options);
        worker.client().run(&body(model))
    };
    assert_eq!(ends_as(&offline(REPO)).0, "complete");
    let events = offline("acme/other");
    assert_eq!(ends_as(&events), ("error".to_owned(), "hub_error".to_owned()));
    assert!(events.last().unwrap()["message"].as_str().unwrap().contains("HF_HUB_OFFLINE"));
}

#[test]
fn the_command_line_fetches_with_a_bar() {
    let files = files(&root());
    let server = Server::start(move |_, request| honest(&files, &request.path, request.range));
    let cache = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(program("sd-worker"));
        command.args(args).env("HF_ENDPOINT", server.url()).env("HF_HUB_CACHE", cache.path());
        let done = command.output().unwrap();
        (
            done.status.code(),
            String::from_utf8_lossy(&done.stdout).into_owned(),
            String::from_utf8_lossy(&done.stderr).into_owned(),
        )
    };
    let (code, out, err) = run(&["models", "pull", REPO]);
    assert!(code == Some(0) && out.contains("acme/tiny is here: "), "{out}{err}");
    // Without a terminal there is no bar: the log tells how far it is.
    assert!(err.contains("percent=100"), "{err}");
    let (code, out, err) = run(&["models", "list"]);
    assert!(code == Some(0) && out.contains(REPO), "{out}{err}");
    let (code, out, err) = run(&["models", "rm", REPO]);
    assert!(code == Some(0) && out.contains("removed"), "{out}{err}");
    let folder = tempfile::tempdir().unwrap();
    let picture = folder.path().join("x.png");
    let path = picture.to_str().unwrap();
    let draw = ["generate", "--model", REPO, "--prompt", "x", "--steps", "1", "-o", path];
    let (code, _, err) = run(&draw);
    assert!(code != Some(0) && err.contains("--pull on-demand"), "{err}");
    let (code, _, err) = run(&[&draw[..], &["--pull", "on-demand"]].concat());
    assert!(code == Some(0) && picture.exists(), "{err}");
}
