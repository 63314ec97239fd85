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
