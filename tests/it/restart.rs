//! What outlives the program: kill and restart, orderly shutdown, two workers on one folder, a disk that gives out.

use crate::support::{ends_as, eventually, gauss, kill, status};
use sd_tests::{Client, Worker, WorkerOptions, program};
use serde_json::{Value, json};
use std::{
    collections::HashSet,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

fn stateful(folder: &Path, step_ms: u32, more: &[&str]) -> WorkerOptions {
    let mut options = gauss(step_ms, more);
    options.args.extend(["--state-dir".to_owned(), folder.display().to_string()]);
    options
}

/// The picture of a complete job, from its last event and as a file: whole, and the same.
fn picture(client: &Client, job: &str) -> Vec<u8> {
    use base64::Engine as _;
    let events = client.events(job, 0).rest();
    assert_eq!(ends_as(&events), "complete");
    let told = events.last().unwrap()["image_base64"].as_str().expect("a picture").to_owned();
    let told = base64::engine::general_purpose::STANDARD.decode(told).unwrap();
    let file = client.get(&format!("/v1/jobs/{job}/images/0"));
    assert_eq!((file.status, file.header("content-type")), (200, Some("image/png")));
    assert_eq!(file.body, told);
    image::ImageReader::with_format(std::io::Cursor::new(&told), image::ImageFormat::Png)
        .decode()
        .expect("a whole PNG");
    told
}

fn wait_end(client: &Client, job: &str) -> String {
    eventually(&format!("{job} ends"), Duration::from_secs(60), || {
        !["queued", "running"].contains(&status(client, job).as_str())
    });
    status(client, job)
}

#[test]
fn a_killed_worker_comes_back_to_everything_it_had() {
    let folder = tempfile::tempdir().unwrap();
    let worker = Worker::start(&stateful(folder.path(), 40, &[]));
    let client = worker.client();
    let keyed = client.clone().with_header("idempotency-key", "the-first");
    let done = keyed.submit(&json!({ "prompt": "x", "steps": 2, "seed": 7 }));
    assert_eq!(wait_end(&client, &done), "completed");
    let before = picture(&client, &done);
    let last_seen = client.events(&done, 0).rest().len() as u64;
    let cancelled = client.submit(&json!({ "prompt": "x", "steps": 100 }));
    client.delete(&format!("/v1/jobs/{cancelled}"));
    assert_eq!(wait_end(&client, &cancelled), "cancelled");
    let running = client.submit(&json!({ "prompt": "x", "steps": 60, "seed": 3 }));
    let mut stream = client.events(&running, 0);
    while stream.until("progress")["step"].as_u64() < Some(3) {}
    let seen = stream.last_id;
    let waiting: Vec<String> =
        (0..3).map(|i| client.submit(&json!({ "prompt": "x", "steps": 2, "priority": i }))).collect();
    kill(worker);

    let worker = Worker::start(&stateful(folder.path(), 5, &[]));
    let client = worker.client();
    assert_eq!(status(&client, &done), "completed");
    assert_eq!(picture(&client, &done), before, "the same picture, to the byte");
    assert_eq!(client.get(&format!("/v1/jobs/{done}")).json()["images"][0]["seed"], 7);
    let again = client.clone().with_header("idempotency-key", "the-first");
    let first = json!({ "prompt": "x", "steps": 2, "seed": 7 });
    assert_eq!(again.submit(&first), done, "keys outlive the program");
    let other = again.post("/v1/jobs", &json!({ "prompt": "x", "steps": 2, "seed": 8 }));
    let told = other.json();
    assert_eq!(
        (other.status, &told["error"]["code"]),
        (422, &json!("idempotency_mismatch")),
        "and what they stand for"
    );
    let late = client.events(&done, last_seen - 1).rest();
    assert_eq!((late.len(), ends_as(&late)), (1, "complete"), "the last event keeps its number");
    assert!(client.events(&done, last_seen).rest().is_empty(), "whoever has it gets the marker alone");
    assert_eq!(status(&client, &cancelled), "cancelled");

    let rest = client.events(&running, seen).rest();
    assert_eq!(ends_as(&rest), "complete", "the interrupted one runs again");
    assert_eq!(rest.iter().filter(|e| e["event"] == "started").count(), 1);
    for job in &waiting {
        assert_eq!(wait_end(&client, job), "completed");
        picture(&client, job);
    }
    let listed = client.get("/v1/jobs?limit=100").json();
    let ids: Vec<&str> = listed["data"].as_array().unwrap().iter().filter_map(|j| j["job_id"].as_str()).collect();
    assert_eq!(ids.len(), 6, "{listed}");
    assert_eq!(ids[5], done, "newest first");
    let first = client.get("/v1/jobs?limit=4").json();
    let second = client.get(&format!("/v1/jobs?limit=4&after={}", first["next"].as_str().unwrap())).json();
    assert_eq!((second["data"].as_array().unwrap().len(), &second["next"]), (2, &Value::Null));
    let failed = client.get("/v1/jobs?status=cancelled").json();
    assert_eq!(failed["data"][0]["job_id"], cancelled.as_str());
    assert_eq!(client.post(&format!("/v1/jobs/{done}/cancel"), &json!({})).status, 409);
    assert_eq!(client.delete(&format!("/v1/jobs/{done}")).json()["status"], "deleted");
    assert_eq!(client.get(&format!("/v1/jobs/{done}")).status, 410);
    assert_eq!(client.get(&format!("/v1/jobs/{done}/images/0")).status, 410);
    assert_eq!(client.get("/v1/jobs/job-00000000-0000-4000-8000-000000000000").status, 404);
}

#[test]
fn a_keyed_request_of_a_dialect_gets_its_picture_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let worker = Worker::start(&stateful(folder.path(), 0, &[]));
    let body = json!({ "prompt": "x", "steps": 2, "seed": 5 });
    let ask = |worker: &Worker| {
        let answer = worker.client().with_header("idempotency-key", "k").post("/v1/images/generations", &body);
        assert_eq!(answer.status, 200, "{}", answer.json());
        answer.json()["data"][0].clone()
    };
    let first = ask(&worker);
    assert!(first["b64_json"].is_string(), "{first}");
    kill(worker);
    assert_eq!(ask(&Worker::start(&stateful(folder.path(), 0, &[]))), first);
}

#[test]
fn an_interrupted_job_is_reported_if_the_operator_wants_that() {
    let folder = tempfile::tempdir().unwrap();
    let worker = Worker::start(&stateful(folder.path(), 40, &[]));
    let job = worker.client().submit(&json!({ "prompt": "x", "steps": 100 }));
    worker.client().events(&job, 0).until("progress");
    kill(worker);
    let worker = Worker::start(&stateful(folder.path(), 1, &["--on-restart", "report"]));
    let events = worker.client().events(&job, 0).rest();
    assert_eq!((ends_as(&events), &events[0]["code"]), ("error", &json!("interrupted")), "{events:?}");
    assert_eq!(worker.client().get(&format!("/v1/jobs/{job}")).json()["error"]["code"], "interrupted");
}

#[test]
fn a_job_that_brings_the_worker_down_is_tried_twice() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = String::new();
    for round in 0..2 {
        let worker = Worker::start(&stateful(folder.path(), 40, &[]));
        if round == 0 {
            job = worker.client().submit(&json!({ "prompt": "x", "steps": 150 }));
        }
        eventually("it runs", Duration::from_secs(20), || status(&worker.client(), &job) == "running");
        kill(worker);
    }
    let worker = Worker::start(&stateful(folder.path(), 1, &[]));
    let events = worker.client().events(&job, 0).rest();
    assert_eq!((ends_as(&events), &events.last().unwrap()["code"]), ("error", &json!("interrupted")));
}

#[test]
fn twenty_kills_lose_and_damage_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut jobs: Vec<(String, String)> = Vec::new();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..20 {
        let worker = Worker::start(&stateful(folder.path(), 3, &[]));
        let client = worker.client();
        for (job, key) in &jobs {
            assert_ne!(status(&client, job), "", "{job} is known in round {round}");
            assert!(!key.is_empty());
        }
        for n in 0..3 {
            let key = format!("{round}-{n}");
            let body = json!({ "prompt": "x", "steps": 6, "n": 2 });
            jobs.push((client.clone().with_header("idempotency-key", &key).submit(&body), key));
        }
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        std::thread::sleep(Duration::from_millis((random >> 33) % 120));
        kill(worker);
        // Whatever has a final name is whole.
        for file in std::fs::read_dir(folder.path().join("pictures")).unwrap().flatten() {
            if file.path().extension().is_some_and(|e| e == "png") {
                image::open(file.path()).unwrap_or_else(|e| panic!("round {round}: a damaged picture: {e}"));
            }
        }
    }
    let worker = Worker::start(&stateful(folder.path(), 0, &[]));
    let client = worker.client();
    let distinct: HashSet<&String> = jobs.iter().map(|(job, _)| job).collect();
    assert_eq!(distinct.len(), 60);
    let mut complete = 0;
    for (job, key) in &jobs {
        let state = wait_end(&client, job);
        let again = client.clone().with_header("idempotency-key", key);
        assert_eq!(&again.submit(&json!({ "prompt": "x", "steps": 6, "n": 2 })), job);
        if state == "completed" {
            complete += 1;
            picture(&client, job);
            assert_eq!(client.get(&format!("/v1/jobs/{job}/images/1")).status, 200);
        } else {
            // On a device at two kills.
            let error = client.get(&format!("/v1/jobs/{job}")).json();
            assert_eq!(error["error"]["code"], "interrupted", "{error}");
        }
    }
    assert!(complete >= 40, "{complete} of 60 are complete");
    let parts = std::fs::read_dir(folder.path().join("pictures")).unwrap().flatten();
    assert_eq!(parts.filter(|f| f.path().extension().is_some_and(|e| e == "part")).count(), 0);
}

#[test]
fn a_job_whose_time_is_over_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let worker = Worker::start(&stateful(folder.path(), 0, &["--keep-secs", "1"]));
    let client = worker.client();
    let job = client.submit(&json!({ "prompt": "x", "steps": 1 }));
    assert_eq!(ends_as(&client.events(&job, 0).rest()), "complete");
    eventually("it expires", Duration::from_secs(30), || client.get(&format!("/v1/jobs/{job}")).status == 410);
    assert_eq!(client.get(&format!("/v1/jobs/{job}/images/0")).status, 410);
    assert_eq!(client.get("/v1/jobs").json()["data"], json!([]));
    kill(worker);
    let worker = Worker::start(&stateful(folder.path(), 0, &["--keep-secs", "1"]));
    assert_eq!(worker.client().get(&format!("/v1/jobs/{job}")).status, 410, "a restart does not forget that either");
}

/// Runs `serve` until it ends by itself.
fn refused(more: &[&str], env: &[(&str, &str)]) -> (i32, String) {
    let models = sd_tests::bundled_models();
    let mut command = Command::new(program("sd-worker"));
    command.args(["serve", "--backend", "gauss", "--isolate", "never", "--models-dir"]).arg(models).args(more);
    let done = command.envs(env.iter().copied()).output().unwrap();
    (done.status.code().unwrap_or(-1), String::from_utf8_lossy(&done.stderr).into_owned())
}

#[test]
fn a_second_worker_on_the_same_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let worker = Worker::start(&stateful(folder.path(), 1, &[]));
    let (code, said) = refused(&["--port", "0", "--state-dir", folder.path().to_str().unwrap()], &[]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("in use by another worker") && said.contains("--state-dir"), "{said}");
    assert_eq!(ends_as(&worker.client().run(&json!({ "prompt": "x", "steps": 1 }))), "complete");
}

#[test]
fn a_folder_that_cannot_be_used_is_said_and_only_a_named_one_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a file");
    std::fs::write(&file, b"").unwrap();
    let (code, said) = refused(&["--port", "0", "--state-dir", file.to_str().unwrap()], &[]);
    assert!(code == 1 && said.contains("state directory cannot be written"), "{code} {said}");

    // The user's own state folder is taken unasked, on a fixed port, and is not needed.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let own = |home: &Path| {
        let mut options = gauss(0, &[]);
        options.env.push(("XDG_STATE_HOME".to_owned(), home.display().to_string()));
        options.port = free;
        Worker::start(&options)
    };
    let worker = own(&file);
    assert!(worker.log_text().contains("kept in memory only"), "{}", worker.log_text());
    assert_eq!(ends_as(&worker.client().run(&json!({ "prompt": "x", "steps": 1 }))), "complete");
    kill(worker);
    let worker = own(folder.path());
    let job = worker.client().submit(&json!({ "prompt": "x", "steps": 1 }));
    assert_eq!(wait_end(&worker.client(), &job), "completed");
    kill(worker);
    assert_eq!(status(&own(folder.path()).client(), &job), "completed", "kept without a flag");
}

/// Processor time that a process has used.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // SAFETY: sysconf takes a plain number and has no side effect.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / ticks
}

/// No file of the process may grow beyond `bytes`: to a program this is a disk that gives out.
fn limit_files(worker: &Worker, bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the pointer is to a live rlimit, and no old value is asked for.
    let done = unsafe { libc::prlimit(worker.pid() as i32, libc::RLIMIT_FSIZE, &limit, std::ptr::null_mut()) };
    assert_eq!(done, 0);
}

#[test]
fn a_disk_that_gives_out_stops_acceptance_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let worker = Worker::start(&stateful(folder.path(), 30, &[]));
    let client = worker.client();
    let running = client.submit(&json!({ "prompt": "x", "steps": 40 }));
    client.events(&running, 0).until("progress");
    limit_files(&worker, 1);
    let refused = client.post("/v1/jobs", &json!({ "prompt": "x", "steps": 1 }));
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (503, &json!("storage_unavailable")));
    assert!(refused.header("retry-after").is_some());
    let text = refused.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(text.contains("state directory") && !text.contains(folder.path().to_str().unwrap()), "{text}");
    let ready = client.get("/ready");
    assert_eq!((ready.status, &ready.json()["state"]), (503, &json!("broken")));
    assert_eq!(client.get("/health").status, 200);
    assert_eq!(ends_as(&client.events(&running, 0).rest()), "complete", "what runs goes on");
    picture(&client, &running);
    let used = cpu_seconds(worker.pid());
    std::thread::sleep(Duration::from_secs(2));
    let used = cpu_seconds(worker.pid()) - used;
    assert!(used < 0.6, "{used} s of processor time in 2 s of waiting");

    limit_files(&worker, libc::RLIM_INFINITY);
    eventually("it is ready again", Duration::from_secs(30), || client.get("/ready").status == 200);
    assert_eq!(ends_as(&client.run(&json!({ "prompt": "x", "steps": 1 }))), "complete");
    picture(&client, &running);
    kill(worker);
    // Its end could not be written: it is as if the worker had been killed while it ran.
    let worker = Worker::start(&stateful(folder.path(), 0, &[]));
    assert_eq!(wait_end(&worker.client(), &running), "completed");
}

#[test]
fn sigterm_keeps_what_waits_and_puts_back_what_runs() {
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::start(&stateful(folder.path(), 50, &["--drain-secs", "1"]));
    let client = worker.client();
    let running = client.submit(&json!({ "prompt": "x", "steps": 150 }));
    client.events(&running, 0).until("progress");
    let waiting: Vec<String> = (0..5).map(|_| client.submit(&json!({ "prompt": "x", "steps": 1 }))).collect();
    let all: Vec<String> = waiting.iter().chain([&running]).cloned().collect();
    let streams: Vec<_> = (0..50).map(|i| client.events(&all[i % all.len()], 0)).collect();
    let since = Instant::now();
    worker.signal(libc::SIGTERM);
    // Connections that were idle are closed by now.
    eventually("/ready says 503", Duration::from_secs(3), || worker.client().get("/ready").status == 503);
    let refused = worker.client().post("/v1/jobs", &json!({ "prompt": "x" }));
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (503, &json!("draining")));
    for stream in streams {
        // Each ends with its marker, or `rest` says so.
        let events = stream.rest();
        let last = events.last().unwrap();
        assert_eq!((&last["event"], &last["action"]), (&json!("narration"), &json!("shutdown")), "{last}");
    }
    let status_code = worker.wait(Duration::from_secs(10)).code();
    assert_eq!(status_code, Some(0), "{}", worker.log_text());
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
    drop(worker);

    let worker = Worker::start(&stateful(folder.path(), 1, &[]));
    for job in &all {
        assert_eq!(wait_end(&worker.client(), job), "completed");
    }
}

#[test]
fn a_drain_lets_the_running_job_finish() {
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::start(&stateful(folder.path(), 50, &["--drain-secs", "60"]));
    let client = worker.client();
    let running = client.submit(&json!({ "prompt": "x", "steps": 20 }));
    let mut stream = client.events(&running, 0);
    stream.until("progress");
    worker.signal(libc::SIGTERM);
    assert_eq!(ends_as(&stream.rest()), "complete");
    assert_eq!(worker.wait(Duration::from_secs(20)).code(), Some(0), "{}", worker.log_text());
    drop(worker);
    let worker = Worker::start(&stateful(folder.path(), 1, &[]));
    picture(&worker.client(), &running);
}

#[test]
fn a_second_signal_loses_nothing_that_was_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::start(&stateful(folder.path(), 30, &["--drain-secs", "60"]));
    let client = worker.client();
    let running = client.submit(&json!({ "prompt": "x", "steps": 150 }));
    client.events(&running, 0).until("progress");
    let waiting: Vec<String> = (0..20).map(|_| client.submit(&json!({ "prompt": "x", "steps": 1 }))).collect();
    let gone = client.submit(&json!({ "prompt": "x", "steps": 1 }));
    assert_eq!(client.delete(&format!("/v1/jobs/{gone}")).status, 200);
    worker.signal(libc::SIGTERM);
    // Connections that were idle are closed by now.
    eventually("it drains", Duration::from_secs(5), || worker.client().get("/ready").status == 503);
    let since = Instant::now();
    worker.signal(libc::SIGTERM);
    worker.wait(Duration::from_secs(8));
    assert!(since.elapsed() < Duration::from_secs(8));
    drop(worker);
    let worker = Worker::start(&stateful(folder.path(), 0, &[]));
    let client = worker.client();
    assert_eq!(status(&client, &gone), "cancelled");
    for job in waiting.iter().chain([&running]) {
        assert_eq!(wait_end(&client, job), "completed");
    }
}
