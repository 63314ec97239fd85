//! How others find a worker: `sd-worker healthcheck` asks where one with the same environment listens, a hive is told.

use crate::support::gauss;
use sd_tests::{Worker, program, wire};
use std::{
    io::{BufReader, Write},
    net::TcpListener,
    process::Command,
    sync::mpsc::channel,
    time::Duration,
};

fn check(environment: &[(&str, &str)]) -> bool {
    let mut command = Command::new(program("sd-worker"));
    command.arg("healthcheck").envs(environment.iter().copied());
    command.output().unwrap().status.success()
}

#[test]
fn the_health_check_finds_the_worker_of_its_environment() {
    let worker = Worker::start(&gauss(0, &[]));
    let port = worker.url.rsplit_once(':').unwrap().1;
    // A proxy that answers nobody.
    let proxy = "http://127.0.0.1:1";
    let proxies = [("HTTP_PROXY", proxy), ("HTTPS_PROXY", proxy), ("ALL_PROXY", proxy), ("NO_PROXY", "")];
    let with = |more: &[(&'static str, &str)]| check(&[&proxies[..], more].concat());
    assert!(with(&[("SD_WORKER_PORT", port)]));
    assert!(with(&[("SD_WORKER_PORT", port), ("SD_WORKER_BIND_ADDR", "0.0.0.0")]));
    assert!(with(&[("SD_WORKER_PORT", "1"), ("SD_WORKER_URL", &worker.url)]), "a URL says it better");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("worker.toml");
    std::fs::write(&file, format!("port = {port}\n")).unwrap();
    assert!(with(&[("SD_WORKER_CONFIG", file.to_str().unwrap())]));
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    assert!(!with(&[("SD_WORKER_PORT", &free)]), "nobody listens there");
    assert!(!with(&[("SD_WORKER_PORT", "0")]), "nobody knows where");
}

#[test]
fn a_hive_is_told_at_once_where_a_ready_worker_is() {
    let hive = TcpListener::bind("127.0.0.1:0").unwrap();
    let callback = format!("http://{}", hive.local_addr().unwrap());
    let (sender, told) = channel();
    std::thread::spawn(move || {
        let mut stream = BufReader::new(hive.accept().unwrap().0);
        let (_, body) = wire::request(&mut stream).unwrap();
        stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
        sender.send(serde_json::from_slice::<serde_json::Value>(&body).unwrap()).unwrap();
    });
    // It becomes ready only after the first heartbeat; the next one would come half a minute later.
    let worker = Worker::start(&gauss(0, &["--backend-option", "load_ms=1500", "--callback-url", &callback]));
    let told = told.recv_timeout(Duration::from_secs(15)).expect("the callback");
    assert_eq!(told["url"], worker.url.as_str(), "{told}");
}
