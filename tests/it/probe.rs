//! `sd-worker healthcheck`: it asks where a worker with the same environment listens, and nobody in between.

use crate::support::gauss;
use sd_tests::{Worker, program};
use std::{net::TcpListener, process::Command};

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
