//! More connections than the bound.

use crate::{Worker, meter, wire};
use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

/// Opens `bound` + `more` connections on a worker that takes `bound`. The extra ones are told so or closed; the worker
/// neither spins nor runs out of files, and takes connections again within a second after they are gone.
pub fn too_many_connections(worker: &Worker, bound: usize, more: usize) -> String {
    let address = wire::address(&worker.url);
    let ask = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        // One that was refused may be closed already.
        let _ = stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let mut bytes = [0; 2048];
        let n = stream.read(&mut bytes).unwrap_or(0);
        wire::first_answer(&bytes[..n])
    };
    let mut open = Vec::new();
    let (mut taken, mut told, mut closed) = (0, 0, 0);
    for _ in 0..bound + more {
        let mut stream = TcpStream::connect(address).expect("the kernel accepts");
        match ask(&mut stream) {
            Some(answer) if answer.status == 200 => taken += 1,
            Some(answer) => {
                assert_eq!(answer.status, 503);
                assert!(answer.header("retry-after").is_some());
                wire::proper_refusal(&answer).expect("a proper refusal");
                told += 1;
            }
            None => closed += 1,
        }
        open.push(stream);
    }
    assert!(taken <= bound && taken + 2 >= bound, "{taken} connections were taken, the bound is {bound}");
    let before = meter::usage(worker.pid());
    std::thread::sleep(Duration::from_millis(500));
    let idle = meter::usage(worker.pid()).cpu_ms - before.cpu_ms;
    assert!(idle <= 250, "the worker used {idle} ms of 500 ms with a full house");
    drop(open);
    let since = Instant::now();
    while ask(&mut TcpStream::connect(address).expect("the kernel accepts")).is_none_or(|a| a.status != 200) {
        assert!(since.elapsed() < Duration::from_secs(1), "no place is free again");
    }
    assert!(!worker.log_text().contains("panicked"));
    format!(
        "{taken} taken, {told} told, {closed} closed; free again after {:.0} ms",
        since.elapsed().as_secs_f64() * 1e3
    )
}
