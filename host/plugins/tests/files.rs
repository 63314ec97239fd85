//! Files that are no plugin: each is refused in one clean line, and nothing crashes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use sd_plugins::{Catalog, Choice, State, precheck};
use std::path::Path;

/// Scans a folder with this one file; answers the reason for its refusal.
fn refused(content: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("libsd_backend_x.so"), content).unwrap();
    reason(dir.path())
}

fn reason(dir: &Path) -> String {
    let report = Catalog::scan(&common::search(dir)).report(&Choice::default());
    assert_eq!(report.plugins.len(), 1);
    let plugin = &report.plugins[0];
    assert_eq!(plugin.state, State::Refused, "{}", plugin.reason);
    assert!(plugin.reason.starts_with("libsd_backend_x.so: "), "{}", plugin.reason);
    assert!(plugin.reason.len() < 500 && !plugin.reason.contains('\n'), "{}", plugin.reason);
    assert!(!plugin.reason.contains(dir.to_str().unwrap()), "names a folder: {}", plugin.reason);
    assert!(plugin.remedy.is_some() && plugin.code.is_some());
    plugin.reason.clone()
}

#[test]
fn strangers_are_told_what_they_are() {
    let mut arm = std::fs::read(common::library("gauss")).unwrap();
    arm[18..20].copy_from_slice(&183u16.to_le_bytes());
    let mut future = std::fs::read(common::library("gauss")).unwrap();
    let name = b"\0SD_BACKEND_V1\0";
    let mut renamed = 0;
    for at in 0..future.len() - name.len() {
        if &future[at..at + name.len()] == name {
            future[at + name.len() - 2] = b'7';
            renamed += 1;
        }
    }
    assert!(renamed > 0);
    let mut windows = vec![0u8; 1024];
    windows[..2].copy_from_slice(b"MZ");
    windows[0x3c] = 0x80;
    windows[0x80..0x86].copy_from_slice(&[b'P', b'E', 0, 0, 0x64, 0x86]);
    for (content, part) in [
        (&b""[..], "an empty file"),
        (b"hello there, I am a text\n", "a text file"),
        (b"!<arch>\n", "a static library"),
        (&[0xcf, 0xfa, 0xed, 0xfe, 0x0c, 0, 0, 1, 0, 0], "Mach-O) for aarch64"),
        (&[0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, 2], "Mach-O) for several processors"),
        (&windows, "PE) for x86_64"),
        (&[0xfe; 4096], "no library of a known format"),
        (b"\x7fELF\x01\x01\x01", "32-bit"),
        (b"\x7fELF", "32-bit"),
        (&arm, "an ELF file for aarch64"),
        (&future, "version 7 of the interface; this program speaks version 1"),
        (&std::fs::read("/proc/self/exe").unwrap(), "no sd-worker backend"),
    ] {
        let reason = refused(content);
        assert!(reason.contains(part), "{reason} does not say `{part}`");
    }
}

#[test]
fn foreign_libraries_are_never_opened() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let libc = maps.lines().find_map(|l| Some(&l[l.find('/')?..]).filter(|p| p.contains("libc.so"))).unwrap();
    let reason = refused(&std::fs::read(libc).unwrap());
    assert!(reason.contains("it does not export SD_BACKEND_V1"), "{reason}");
}

#[test]
fn a_library_cut_anywhere_is_refused_or_whole() {
    let whole = std::fs::read(common::library("gauss")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("libsd_backend_x.so");
    let mut refusals = 0;
    // Every length of the headers, then 200 lengths over the rest.
    let lengths = (0..1100).chain((0..200).map(|i| whole.len() * i / 200));
    for len in lengths {
        std::fs::write(&path, &whole[..len]).unwrap();
        refusals += u32::from(precheck::check(&path).is_err());
    }
    assert!(refusals > 1100, "{refusals}");
    for percent in [1, 10, 25, 50, 75] {
        let cut = &whole[..whole.len() * percent / 100];
        std::fs::write(&path, cut).unwrap();
        // What the check lets pass must load: only sections for debuggers are missing.
        if precheck::check(&path).is_ok() {
            let report = Catalog::scan(&common::search(dir.path())).report(&Choice::default());
            assert_eq!(report.plugins[0].state, State::Skipped, "{percent} %: {}", report.plugins[0].reason);
        }
    }
}

#[test]
fn broken_headers_never_crash_the_check() {
    let whole = std::fs::read(common::library("gauss")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("libsd_backend_x.so");
    // A small generator with a fixed seed: each round breaks up to four bytes of the file's first 4 KiB.
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut refusals = 0;
    for _ in 0..600 {
        let mut broken = whole[..whole.len().min(1 << 20)].to_vec();
        for _ in 0..1 + next() % 4 {
            let at = (next() % 4096) as usize;
            broken[at] = next() as u8;
        }
        std::fs::write(&path, &broken).unwrap();
        refusals += u32::from(precheck::check(&path).is_err());
    }
    assert!(refusals > 15, "{refusals}");
}

#[test]
fn folders_and_dangling_links_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("libsd_backend_x.so")).unwrap();
    assert!(reason(dir.path()).contains("is a folder"));
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/nowhere/at/all", dir.path().join("libsd_backend_x.so")).unwrap();
    assert!(reason(dir.path()).contains("a link to a file that does not"));
}

#[test]
fn a_missing_dependency_is_not_for_this_machine() {
    // The name of the C library inside the plugin, renamed to one that nobody has.
    let mut bytes = std::fs::read(common::library("gauss")).unwrap();
    let name = b"\0libc.so.6\0";
    let at = bytes.windows(name.len()).position(|w| w == name).unwrap();
    bytes[at + 4] = b'~';
    let reason = refused(&bytes);
    assert!(reason.contains("not for this machine") && reason.contains("lib~.so.6"), "{reason}");
}

/// Every kind of file that was ever seen in a plugin folder, at once and in this very process: each is told apart, and
/// nothing crashes, hangs or spoils the next one.
#[test]
fn a_folder_of_every_kind_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let gauss = std::fs::read(common::library("gauss")).unwrap();
    let beside = common::library("gauss").parent().unwrap().to_owned();
    let (mut good, mut bad) = (0, 0);
    let path = |kind: &str| dir.path().join(format!("libsd_backend_{kind}.so"));
    for kind in ["gauss", "rogue", "template", "template_c", "candle_cpu", "onnx"] {
        std::fs::copy(common::library(kind), path(&format!("good_{kind}"))).unwrap();
        good += 1;
    }
    for kind in ["v1_0", "v1_1"] {
        std::fs::copy(beside.join(format!("libabi_{kind}.so")), path(&format!("good_{kind}"))).unwrap();
        good += 1;
    }
    let mut write = |kind: &str, bytes: &[u8]| {
        std::fs::write(path(kind), bytes).unwrap();
        if kind.starts_with("good") { good += 1 } else { bad += 1 }
    };
    let changed = |at: usize, value: u8| {
        let mut bytes = gauss.clone();
        bytes[at] = value;
        bytes
    };
    let replaced = |from: &[u8], to: &[u8]| {
        let mut bytes = gauss.clone();
        let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to);
        bytes
    };
    write("good_with_a_tail", &[gauss.as_slice(), b"junk behind the last section"].concat());
    write("empty", b"");
    write("zeros", &[0; 4096]);
    write("ones", &[0xff; 4096]);
    write("text", b"hello\n");
    write("script", b"#!/bin/sh\nexit 0\n");
    write("gzip", &[&[0x1f, 0x8b, 8, 0][..], &gauss[..4096]].concat());
    write("zip", b"PK\x03\x04 and so on");
    write("archive", b"!<arch>\nsd_backend.o/  0 0 0 644 10 `\n");
    write("object", &changed(16, 1));
    write("core", &changed(16, 4));
    write("arm", &changed(18, 183));
    write("bits32", &changed(4, 1));
    write("big_endian", &changed(5, 2));
    write("macho", &[0xcf, 0xfa, 0xed, 0xfe, 0x0c, 0, 0, 1, 0, 0]);
    write("magic_only", b"\x7fELF");
    write("header_only", &gauss[..64]);
    for percent in [5, 10, 25, 50] {
        write(&format!("cut_{percent}"), &gauss[..gauss.len() * percent / 100]);
    }
    write("no_library_there", &replaced(b"\0libc.so.6\0", b"\0lib~.so.6\0"));
    write("other_version", &replaced(b"\0SD_BACKEND_V1\0", b"\0SD_BACKEND_V9\0"));
    write("program", &std::fs::read("/proc/self/exe").unwrap());
    write("major_2", &std::fs::read(beside.join("libabi_v2_0.so")).unwrap());
    write("broken_layout", &std::fs::read(beside.join("libabi_v1_0_broken.so")).unwrap());
    std::fs::create_dir(path("folder")).unwrap();
    for (kind, target) in [("dangling", "/nowhere/at/all"), ("zero_device", "/dev/zero"), ("null_device", "/dev/null")]
    {
        std::os::unix::fs::symlink(target, path(kind)).unwrap();
    }
    let pipe = path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    bad += 5;

    let report = Catalog::scan(&common::search(dir.path())).report(&Choice::default());
    assert_eq!(report.plugins.len(), good + bad);
    assert!(report.plugins.len() >= 31, "{good} good and {bad} bad kinds");
    for plugin in &report.plugins {
        let wanted = plugin.file.starts_with("libsd_backend_good_");
        // A device's own name stands in the report, its link is resolved.
        assert_eq!(plugin.state != State::Refused, wanted, "{}: {}", plugin.file, plugin.reason);
        assert!(plugin.reason.len() < 500 && !plugin.reason.contains('\n'), "{}", plugin.reason);
    }
}
