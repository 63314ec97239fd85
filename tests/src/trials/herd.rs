//! A herd of readers on one job's stream.

use super::block_on;
use crate::{
    Worker,
    meter::{quantile, usage},
    wire,
};
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    task::JoinSet,
};

/// When each event came to one reader.
type Seen = Vec<(u64, Instant)>;

/// The worker must have a slow backend (200 ms a step). `count` readers follow one job from its beginning to its end;
/// each must see every event once and the end, for at most 25 KiB each. `quiet`: whether times are held to their bounds.
pub fn herd(worker: &Worker, count: usize, quiet: bool) -> String {
    let client = worker.client();
    // The first readers cost what the allocator keeps.
    client.run(&json!({ "prompt": "x", "steps": 1 }));
    let before = usage(worker.pid());
    let job = client.submit(&json!({ "prompt": "x", "steps": 150 }));
    let (url, path) = (worker.url.clone(), format!("/v1/jobs/{job}/stream"));
    let open = Arc::new(AtomicUsize::new(0));
    let (each, busy, seen) = block_on(async {
        let mut readers = JoinSet::new();
        for _ in 0..count {
            let (address, path, open) = (wire::address(&url).to_owned(), path.clone(), open.clone());
            readers.spawn(async move { follow(&address, &path, &open).await });
            // The listening socket's backlog is bounded.
            if readers.len() % 256 == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        while open.load(Ordering::Relaxed) < count {
            assert!(!readers.is_empty());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let full = usage(worker.pid());
        tokio::time::sleep(Duration::from_secs(2)).await;
        let later = usage(worker.pid());
        let cancel = worker.client();
        let id = job.clone();
        tokio::task::spawn_blocking(move || cancel.delete(&format!("/v1/jobs/{id}")))
            .await
            .expect("the cancel is sent");
        let mut seen: Vec<Seen> = Vec::with_capacity(count);
        while let Some(reader) = readers.join_next().await {
            seen.push(reader.expect("a reader ends well"));
        }
        let each = full.rss_kib.saturating_sub(before.rss_kib) as f64 / count as f64;
        (each, (later.cpu_ms - full.cpu_ms) as f64 / 20.0, seen)
    });
    let last = seen.first().and_then(|s| s.last()).map_or(0, |(id, _)| *id);
    for reader in &seen {
        let ids: Vec<u64> = reader.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, (1..=last).collect::<Vec<_>>(), "every event once");
    }
    assert!(each <= 25.0, "{each:.1} KiB for each of {count} readers");
    let delay = delay_p99_ms(&seen, count);
    assert!(!quiet || delay < 250.0, "events were late by {delay:.0} ms");
    format!(
        "{count} readers, {last} events each, {each:.1} KiB each, {busy:.0} % of a core with 5 steps/s, delay p99 {delay:.0} ms"
    )
}

/// How far behind the first reader the others were, of the events that came when all were there.
fn delay_p99_ms(seen: &[Seen], count: usize) -> f64 {
    let joined = seen.iter().filter_map(|s| s.first().map(|(_, at)| *at)).max();
    let last = seen.iter().filter_map(|s| s.last().map(|(id, _)| *id)).max().unwrap_or(0);
    let mut late = Vec::with_capacity(count * 8);
    for id in 1..=last {
        let times: Vec<Instant> = seen.iter().filter_map(|s| s.get(id as usize - 1)).map(|(_, at)| *at).collect();
        let Some(first) = times.iter().min().filter(|first| joined.is_some_and(|j| **first > j)) else { continue };
        late.extend(times.iter().map(|at| (*at - *first).as_secs_f64() * 1e3));
    }
    quantile(&late, 0.99)
}

async fn follow(address: &str, path: &str, open: &AtomicUsize) -> Seen {
    let mut stream = TcpStream::connect(address).await.expect("the worker accepts");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("the request goes out");
    let mut lines = BufReader::with_capacity(1024, stream).lines();
    let (mut seen, mut done) = (Vec::new(), false);
    while let Some(line) = lines.next_line().await.expect("the stream goes on") {
        if let Some(id) = line.strip_prefix("id: ") {
            if seen.is_empty() {
                open.fetch_add(1, Ordering::Relaxed);
            }
            seen.push((id.trim().parse().expect("a number"), Instant::now()));
        }
        done |= line.starts_with("data: [DONE]");
    }
    assert!(done, "a stream ended without its marker");
    seen
}
