//! Readers that open a stream and never read it, where each would get megabytes.

use crate::{Worker, meter, wire};
use base64::Engine as _;
use serde_json::json;
use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

/// Side of the picture: of noise, so that its file has 4 MB and its event 5.3 MB, more than the sockets hold.
const SIDE: u32 = 1152;
/// When the last of them must be gone.
const BOUND: Duration = Duration::from_secs(30);

/// A picture that does not compress, as base64 of a PNG.
fn noise_png() -> String {
    let mut random = crate::Random::new(7);
    let mut rgb = image::RgbImage::new(SIDE, SIDE);
    rgb.pixels_mut().for_each(|p| p.0 = [random.byte(), random.byte(), random.byte()]);
    let mut png = std::io::Cursor::new(Vec::new());
    rgb.write_to(&mut png, image::ImageFormat::Png).expect("a PNG");
    base64::engine::general_purpose::STANDARD.encode(png.into_inner())
}

/// A job whose last event has 5.3 MB: noise of which one corner is repainted. The worker needs a fast backend.
fn heavy_job(worker: &Worker) -> (String, usize) {
    let mut mask = image::GrayImage::new(SIDE, SIDE);
    (0..16).for_each(|i| mask.put_pixel(i % 4, i / 4, image::Luma([255])));
    let mut png = std::io::Cursor::new(Vec::new());
    mask.write_to(&mut png, image::ImageFormat::Png).expect("a PNG");
    let client = worker.client();
    let job = client.submit(&json!({
        "operation": "image_inpaint", "prompt": "x", "init_image": noise_png(),
        "mask_image": base64::engine::general_purpose::STANDARD.encode(png.into_inner()),
        "width": SIDE, "height": SIDE, "steps": 1,
    }));
    let events = client.events(&job, 0).rest();
    let last = events.last().expect("an end");
    assert_eq!(last["event"], "complete", "{last:.300}");
    let size = last["image_base64"].as_str().map_or(0, str::len);
    assert!(size > 2_000_000, "the event has {size} bytes");
    (job, size)
}

/// A connection that takes in little by itself.
fn small_socket(address: &str) -> TcpStream {
    use socket2::{Domain, Socket, Type};
    let address: std::net::SocketAddr = address.parse().expect("an address");
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    socket.connect(&address.into()).expect("the worker accepts");
    socket.into()
}

/// `count` clients that ask for the heavy stream and never read. All are cut within 30 s, with a reason in the metrics;
/// a reader beside them is served meanwhile; they share one copy of the events.
pub fn stalled_readers(worker: &Worker, count: usize) -> String {
    let client = worker.client();
    let (job, size) = heavy_job(worker);
    client.events(&job, 0).rest();
    let closed = |name: &str| -> u64 {
        let text = String::from_utf8_lossy(&client.get("/metrics").body).into_owned();
        let line = text.lines().find(|l| l.contains(&format!("reason=\"{name}\"")));
        line.and_then(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or(0.0) as u64
    };
    let counted = || closed("stalled_reader") + closed("peer_timeout");
    let (before, reasons) = (meter::usage(worker.pid()), counted());
    let since = Instant::now();
    let request = format!("GET /v1/jobs/{job}/stream HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut stalled: Vec<TcpStream> = (0..count)
        .map(|_| {
            let mut stream = small_socket(wire::address(&worker.url));
            stream.write_all(request.as_bytes()).expect("the request goes out");
            stream
        })
        .collect();
    let (mut grown, mut slowest) = (0, Duration::ZERO);
    while counted() - reasons < count as u64 {
        assert!(since.elapsed() < BOUND, "only {} of {count} were cut", counted() - reasons);
        grown = grown.max(meter::usage(worker.pid()).rss_kib.saturating_sub(before.rss_kib));
        let asked = Instant::now();
        let events = client.run(&json!({ "prompt": "x", "steps": 2 }));
        assert_eq!(events.last().expect("an end")["event"], "complete");
        slowest = slowest.max(asked.elapsed());
        std::thread::sleep(Duration::from_millis(200));
    }
    let took = since.elapsed();
    for stream in &mut stalled {
        stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
        // What the sockets hold may still be read; then comes the end or a reset.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    // Each reader has its connection's own buffers, and none a copy of the event.
    let bound = 128 * count as u64 + 16 * 1024;
    assert!(grown < bound, "{grown} KiB more for {count} readers of {size} bytes each");
    format!(
        "{count} readers of {:.1} MB cut after {:.0} s, +{:.1} MiB together; a job beside them took at most {:.0} ms",
        size as f64 / 1e6,
        took.as_secs_f64(),
        grown as f64 / 1024.0,
        slowest.as_secs_f64() * 1e3
    )
}
