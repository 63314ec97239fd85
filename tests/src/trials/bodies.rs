//! Bodies without end: declared, chunked, in tiny pieces. They are refused at the cap, and the worker does not grow.

use crate::{Worker, meter, wire};
use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

const HEAD: &str = "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";

/// Sends `piece` again and again until the worker stops taking it or `most` bytes are sent. Answers the status, the bytes
/// that were sent, and how long the answer took after `cap` bytes had been sent.
fn pour(worker: &Worker, head: &str, piece: &[u8], most: u64, cap: u64) -> (u16, u64, Duration) {
    let mut stream = TcpStream::connect(wire::address(&worker.url)).expect("the worker accepts");
    stream.set_write_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    stream.write_all(format!("{HEAD}{head}\r\n").as_bytes()).expect("the head goes out");
    let mut reader = stream.try_clone().expect("a second handle");
    let answered = std::thread::spawn(move || {
        let mut bytes = vec![0; 64 * 1024];
        let n = reader.read(&mut bytes).unwrap_or(0);
        (wire::first_answer(&bytes[..n]).map_or(0, |a| a.status), Instant::now())
    });
    let (mut sent, mut over) = (0, Instant::now());
    while sent < most && !answered.is_finished() && stream.write_all(piece).is_ok() {
        sent += piece.len() as u64;
        if sent <= cap {
            over = Instant::now();
        }
    }
    let (status, at) = answered.join().expect("the reader ends");
    (status, sent, at.saturating_duration_since(over))
}

fn held(worker: &Worker, before: u64, cap: u64, what: &str) -> u64 {
    let grown = meter::usage(worker.pid()).rss_kib.saturating_sub(before);
    assert!(grown <= 2 * cap / 1024, "{what}: {grown} KiB more resident memory at a cap of {} KiB", cap / 1024);
    grown
}

/// A body whose declared length is one GiB is refused before it is sent. `cap`: the worker's limit in bytes.
pub fn counted_giant(worker: &Worker, cap: u64) -> String {
    let before = meter::usage(worker.pid()).rss_kib;
    let (status, sent, took) = pour(worker, "Content-Length: 1073741824\r\n", &[b' '; 0x10000], 1 << 30, 0);
    assert_eq!(status, 413, "after {sent} bytes");
    assert!(took < Duration::from_secs(1), "{took:?}");
    let grown = held(worker, before, cap, "declared giant");
    format!("413 after {:.0} ms, +{grown} KiB", took.as_secs_f64() * 1e3)
}

/// A chunked body tells no length beforehand: it is refused at the cap.
pub fn chunked_giant(worker: &Worker, cap: u64) -> String {
    let before = meter::usage(worker.pid()).rss_kib;
    let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
    let (status, sent, took) = pour(worker, "Transfer-Encoding: chunked\r\n", &chunk, 1 << 30, cap);
    assert_eq!(status, 413, "after {sent} bytes");
    assert!(took < Duration::from_secs(1), "{took:?} after the cap");
    let grown = held(worker, before, cap, "chunked giant");
    format!("413 {:.0} ms after the cap, +{grown} KiB", took.as_secs_f64() * 1e3)
}

/// `requests` bodies of `chunks` chunks of one byte each. They are bytes like others: refused as JSON or by the cap.
pub fn tiny_chunks(worker: &Worker, requests: usize, chunks: usize) -> String {
    let mut body = format!("{HEAD}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes();
    for _ in 0..chunks {
        body.extend_from_slice(b"1\r\nx\r\n");
    }
    body.extend_from_slice(b"0\r\n\r\n");
    let send = || {
        let exchange = wire::ask(wire::address(&worker.url), &body, Duration::from_secs(90));
        let answer = exchange.answer.expect("an answer");
        assert!([400, 413].contains(&answer.status), "{}", answer.status);
        wire::proper_refusal(&answer).expect("a proper refusal");
        exchange.took
    };
    // The allocator keeps what the first ones needed.
    (0..3).for_each(|_| {
        send();
    });
    let before = meter::usage(worker.pid()).rss_kib;
    let slowest = (0..requests).map(|_| send()).max().unwrap_or_default();
    let grown = meter::usage(worker.pid()).rss_kib.saturating_sub(before);
    assert!(grown < 1024, "{grown} KiB more after {requests} requests");
    format!("{requests} × {chunks} chunks, slowest {:.0} ms, +{grown} KiB", slowest.as_secs_f64() * 1e3)
}
