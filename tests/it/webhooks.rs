//! Telling a client's own server that a job has ended, through refusals, failures and a restart.

use crate::{
    pictures::png,
    support::{ends_as, gauss, kill},
};
use image::RgbImage;
use sd_tests::{Worker, WorkerOptions, wire};
use serde_json::{Value, json};
use std::{
    io::{BufReader, Write},
    net::TcpListener,
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// One request: its head in lower case, and its body.
type Got = (String, Value);

/// Answers one request after another with the statuses given, the last one for ever.
fn receiver(listener: TcpListener, statuses: Vec<u16>) -> Receiver<Got> {
    let (sender, got) = channel();
    std::thread::spawn(move || {
        for (i, stream) in listener.incoming().enumerate() {
            let mut stream = BufReader::new(stream.unwrap());
            let Some((head, body)) = wire::request(&mut stream) else { continue };
            let status = statuses[i.min(statuses.len() - 1)];
            let answer = format!(
                "HTTP/1.1 {status} x\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
            let _ = stream.get_mut().write_all(answer.as_bytes());
            let _ = sender.send((head, serde_json::from_slice(&body).unwrap()));
        }
    });
    got
}

fn telling(host: &str, more: &[&str]) -> WorkerOptions {
    let mut options = gauss(1, &["--webhook-host", host]);
    options.args.extend(more.iter().map(|a| (*a).to_owned()));
    options.env.push(("SD_WORKER_WEBHOOK_SECRET".to_owned(), SECRET.to_owned()));
    options
}

/// A job that enlarges a picture and tells its end there.
fn upscale(url: &str) -> Value {
    let picture = png(&RgbImage::new(16, 16));
    json!({ "operation": "image_upscale", "init_image": picture, "upscaler": "lanczos", "webhook": url })
}

#[test]
fn every_end_is_told_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let got = receiver(listener, vec![503, 200]);
    let worker = Worker::start(&telling(&host, &[]));
    let client = worker.client();
    let url = format!("http://{host}/hook?x=1");
    let events = client.run(&json!({ "prompt": "secret words", "steps": 2, "webhook": url }));
    assert_eq!(ends_as(&events), "complete");
    let first = got.recv_timeout(Duration::from_secs(30)).unwrap();
    let again = got.recv_timeout(Duration::from_secs(30)).expect("a failure is tried again");
    assert_eq!(first.1, again.1);
    assert!(again.0.starts_with("post /hook?x=1 http/1.1"), "{}", again.0);
    assert!(again.0.contains("x-sd-worker-signature: t=") && again.0.contains(",v1="), "{}", again.0);
    let body = again.1;
    assert_eq!(
        (&body["event"], &body["job_id"], &body["job"]["status"]),
        (&json!("complete"), &events[0]["job_id"], &json!("completed"))
    );
    assert_eq!(body["job"]["images"][0]["media_type"], "image/png");
    assert!(!body.to_string().contains("secret words"), "the prompt stays here: {body}");
    client.run(&upscale(&url));
    assert_eq!(got.recv_timeout(Duration::from_secs(30)).unwrap().1["job"]["operation"], "image_upscale");
    let job = client.submit(&json!({ "prompt": "x", "steps": 150, "webhook": url }));
    client.delete(&format!("/v1/jobs/{job}"));
    assert_eq!(got.recv_timeout(Duration::from_secs(30)).unwrap().1["event"], "cancelled");
    assert!(got.recv_timeout(Duration::from_millis(1500)).is_err(), "nothing is told twice");
}

#[test]
fn only_the_operator_decides_who_is_told() {
    let closed = Worker::start(&gauss(0, &[]));
    let refuse = |worker: &Worker, url: &str| {
        let answer = worker.client().post("/v1/jobs", &json!({ "prompt": "x", "webhook": url }));
        assert_eq!(
            (answer.status, &answer.json()["error"]["field"]),
            (422, &json!("webhook")),
            "{url}: {}",
            answer.json()
        );
    };
    refuse(&closed, "http://example.org/");
    let enlarge = upscale("http://example.org/");
    let answer = closed.client().post("/v1/jobs", &enlarge);
    assert_eq!((answer.status, &answer.json()["error"]["field"]), (422, &json!("webhook")), "{}", answer.json());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let got = receiver(listener, vec![200]);
    // Allowed by name, and the name leads inside: taken, and never called.
    let worker = Worker::start(&telling(&format!("localhost:{port}"), &[]));
    for url in ["http://example.org/", "http://127.0.0.1/", "file:///etc/passwd", "http://u@localhost/", "x"] {
        refuse(&worker, url);
    }
    let body = json!({ "prompt": "x", "steps": 1, "webhook": format!("http://localhost:{port}/") });
    assert_eq!(ends_as(&worker.client().run(&body)), "complete");
    assert!(got.recv_timeout(Duration::from_secs(3)).is_err());
    let open = Worker::start(&telling(&format!("localhost:{port}"), &["--webhook-private"]));
    assert_eq!(ends_as(&open.client().run(&body)), "complete");
    got.recv_timeout(Duration::from_secs(30)).expect("the operator allows it");
}

#[test]
fn a_redirect_is_not_followed_and_a_restart_tells_what_is_due() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    let folder = tempfile::tempdir().unwrap();
    let host = address.to_string();
    let state = ["--state-dir", folder.path().to_str().unwrap()];
    let worker = Worker::start(&telling(&host, &state));
    let events = worker.client().run(&json!({ "prompt": "x", "steps": 1, "webhook": format!("http://{host}/late") }));
    assert_eq!(ends_as(&events), "complete");
    kill(worker);
    // The receiver is back when the worker is.
    let got = receiver(TcpListener::bind(address).unwrap(), vec![200, 302, 200]);
    let worker = Worker::start(&telling(&host, &state));
    let told = got.recv_timeout(Duration::from_secs(30)).unwrap().1;
    assert_eq!((&told["event"], &told["job_id"]), (&json!("complete"), &events[0]["job_id"]));
    let body = json!({ "prompt": "x", "steps": 1, "webhook": format!("http://{host}/moved") });
    worker.client().run(&body);
    assert!(got.recv_timeout(Duration::from_secs(30)).unwrap().0.starts_with("post /moved"));
    assert!(got.recv_timeout(Duration::from_secs(2)).is_err(), "a redirect is an answer, and final");
    kill(worker);
    let _worker = Worker::start(&telling(&host, &state));
    assert!(got.recv_timeout(Duration::from_secs(2)).is_err(), "what is settled stays settled");
}
