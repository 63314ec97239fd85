//! Clients that send a byte a second: half of them in the head, half in the body.

use super::block_on;
use crate::{Worker, meter::quantile, wire};
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

/// How long a slow client may hold its connection.
const BOUND: Duration = Duration::from_secs(15);

/// `count` slow clients at once, and a good one beside them. `quiet`: whether the good client's times are held to their
/// bound too, which says something on a quiet machine only.
pub fn slow_clients(worker: &Worker, count: usize, quiet: bool) -> String {
    let url = worker.url.clone();
    let (slowest, mut good) = block_on(async move {
        let mut slow = JoinSet::new();
        for n in 0..count {
            let address = wire::address(&url).to_owned();
            slow.spawn(async move { drip(&address, n % 2 == 0).await });
        }
        let address = wire::address(&url).to_owned();
        let good = tokio::spawn(async move {
            let mut times = Vec::new();
            loop {
                times.push(ask(&address).await);
                sleep(Duration::from_millis(50)).await;
                if times.len() >= 200 {
                    return times;
                }
            }
        });
        let mut slowest = Duration::ZERO;
        while let Some(held) = slow.join_next().await {
            slowest = slowest.max(held.expect("a slow client ends"));
        }
        (slowest, good.await.expect("the good client ends"))
    });
    assert!(slowest <= BOUND, "a slow client held its connection for {slowest:?}");
    good.sort_by(f64::total_cmp);
    let p99 = quantile(&good, 0.99);
    assert!(!quiet || p99 < 100.0, "the good client waited {p99:.0} ms");
    format!("{count} slow clients, the last closed after {:.1} s; a good one's p99 {p99:.1} ms", slowest.as_secs_f64())
}

/// Sends a byte a second until the server has enough; how long that took.
async fn drip(address: &str, in_head: bool) -> Duration {
    let mut stream = TcpStream::connect(address).await.expect("the worker accepts");
    let start = if in_head {
        "GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
    } else {
        "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{"
    };
    stream.write_all(start.as_bytes()).await.expect("the start goes out");
    let since = Instant::now();
    let (mut reader, mut writer) = stream.split();
    let mut answer = Vec::new();
    let read = reader.read_to_end(&mut answer);
    let write = async {
        while writer.write_all(b" ").await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
        // A reset while writing: the reader sees the end.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        // A reset is an end as well.
        _ = timeout(Duration::from_secs(60), read) => {}
        () = write => {}
    }
    since.elapsed()
}

/// One good request on a fresh connection; milliseconds.
async fn ask(address: &str) -> f64 {
    let since = Instant::now();
    let mut stream = TcpStream::connect(address).await.expect("the worker accepts");
    stream
        .write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await
        .expect("the request goes out");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("the answer comes");
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    since.elapsed().as_secs_f64() * 1e3
}
