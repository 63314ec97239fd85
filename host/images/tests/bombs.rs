//! Bombs, measured: how long a refusal takes and how far the process grows. A file of its own, because the peak of a
//! process cannot be told apart by tests that share it.
#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail loudly")]

use flate2::{Compress, Compression, Crc, FlushCompress};
use sd_images::{Embedded, Limits, OutputFormat, Picture, decode, encode, inspect};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

/// A zlib stream of `mib` MiB of zeros: one MiB compressed and flushed, repeated. Its checksum is wrong, which nobody
/// learns who does not inflate it to the end.
fn zeros(mib: usize) -> Vec<u8> {
    let mut compressor = Compress::new(Compression::best(), false);
    let mut block = Vec::with_capacity(64 * 1024);
    compressor.compress_vec(&vec![0; MIB], &mut block, FlushCompress::Full).unwrap();
    [&[0x78, 0x01][..], &block.repeat(mib), &[3, 0, 0, 0, 0, 0]].concat()
}

fn chunk(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let mut crc = Crc::new();
    crc.update(kind);
    crc.update(content);
    [&(content.len() as u32).to_be_bytes(), kind.as_slice(), content, &crc.sum().to_be_bytes()].concat()
}

fn png(width: u32, height: u32, extra: &[Vec<u8>], data: &[u8]) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let parts = [b"\x89PNG\r\n\x1a\n".to_vec(), chunk(b"IHDR", &header), extra.concat()];
    [parts.concat(), chunk(b"IDAT", data), chunk(b"IEND", &[])].concat()
}

/// The highest resident size so far, in bytes; 0 where the system does not tell.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok()).unwrap_or(0) * 1024
}

#[test]
fn refusals_are_quick_and_small() {
    let gib = zeros(1024);
    assert!(gib.len() < 4 * MIB, "the bomb itself is {} bytes", gib.len());
    let small = zlib_row();
    let jpeg = {
        let mut jpeg =
            encode(&Picture::filled(8, 8, [9; 3]), OutputFormat::Jpeg { quality: 80 }, &Embedded::default()).unwrap();
        let frame = jpeg.windows(2).position(|window| window == [0xFF, 0xC0]).unwrap();
        jpeg[frame + 5..frame + 9].copy_from_slice(&[0xEA, 0x60, 0xEA, 0x60]);
        jpeg
    };
    let text = |kind: &[u8; 4], head: &[u8]| png(1, 1, &[chunk(kind, &[head, &gib].concat())], &small);
    let cases = [
        ("60,000 × 60,000 PNG", png(60_000, 60_000, &[], &gib), "image_dimensions"),
        ("60,000 × 60,000 JPEG", jpeg, "image_dimensions"),
        ("8192 × 8192 PNG", png(8192, 8192, &[], &gib), "image_dimensions"),
        ("1 GiB of pixels behind a 1 × 1 header", png(1, 1, &[], &gib), "image_corrupt"),
        ("1 GiB of text", text(b"zTXt", b"parameters\0\0"), "image_unpacks"),
        ("1 GiB of international text", text(b"iTXt", b"parameters\0\x01\0\0\0"), "image_unpacks"),
        ("1 GiB of colour profile", text(b"iCCP", b"profile\0\0"), "image_unpacks"),
        ("1,000,000 empty chunks", png(1, 1, &[chunk(b"teSt", &[]).repeat(1_000_000)], &small), "ok"),
    ];
    for (name, bytes, expected) in &cases {
        let before = peak();
        let mut best = Duration::MAX;
        // The best of three: other processes must not fail this test.
        for _ in 0..3 {
            let start = Instant::now();
            let code = decode(bytes, &Limits::default()).map_or_else(|error| error.code(), |_| "ok");
            let parameters = inspect(bytes, &Limits::default()).ok().and_then(|found| found.parameters);
            best = best.min(start.elapsed());
            assert!(*expected == "any" || code == *expected, "{name}: {code}");
            assert_eq!(parameters, None, "{name}");
        }
        let grown = peak() - before;
        assert!(best < Duration::from_millis(200), "{name} took {best:?}");
        assert!(grown < 64 * MIB, "{name} grew the process by {} MiB", grown / MIB);
    }
}

/// One black pixel, deflated.
fn zlib_row() -> Vec<u8> {
    let mut compressor = Compress::new(Compression::fast(), true);
    let mut out = Vec::with_capacity(64);
    compressor.compress_vec(&[0; 4], &mut out, FlushCompress::Finish).unwrap();
    out
}
