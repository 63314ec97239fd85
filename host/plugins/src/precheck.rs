//! What a file is, before the system's loader sees it: a loader crashes on a truncated library.

use crate::error::clean;
use std::{
    collections::BTreeSet,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

/// The most bytes of names that a library may export; candle's CUDA plugin has well under one MiB.
const MAX_NAMES: u64 = 64 << 20;

/// The most processor features that a library may state; x86-64 has about a hundred.
const MAX_NEEDS: usize = 256;

/// Checks that a file is a whole shared library for this system and processor which exports a backend's entry symbol.
/// Answers the open file, so that what was checked is what runs, and the processor features that it states to need
/// ([`backend_api::NEEDS`]), each once; they are read from ELF files only. The error is one line that says what the file
/// is instead.
pub fn check(path: &Path) -> Result<(File, Vec<String>), String> {
    let kind = path.metadata().map_err(|e| unreadable(&e))?;
    if !kind.is_file() {
        return Err(if kind.is_dir() { "is a folder" } else { "is no regular file" }.to_owned());
    }
    let mut file = File::open(path).map_err(|e| unreadable(&e))?;
    let length = file.metadata().map_err(|e| unreadable(&e))?.len();
    let mut head = Vec::with_capacity(1024);
    file.by_ref().take(1024).read_to_end(&mut head).map_err(|e| unreadable(&e))?;
    let found = identify(&head);
    let wanted = format!("{} for {}", FORMAT, std::env::consts::ARCH);
    let needs = match &found {
        Kind::Elf { machine } if FORMAT == "ELF" => {
            if *machine != std::env::consts::ARCH {
                return Err(format!("is {found}; wanted is {wanted}"));
            }
            elf(&mut file, &head, length)?
        }
        Kind::MachO { machine }
            if FORMAT == "Mach-O" && (*machine == std::env::consts::ARCH || *machine == "several processors") =>
        {
            Vec::new()
        }
        Kind::Pe { machine } if FORMAT == "PE" && *machine == std::env::consts::ARCH => Vec::new(),
        _ => return Err(format!("is {found}; wanted is {wanted}")),
    };
    Ok((file, needs))
}

const FORMAT: &str = if cfg!(target_os = "macos") {
    "Mach-O"
} else if cfg!(windows) {
    "PE"
} else {
    "ELF"
};

fn unreadable(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "does not exist, or is a link to a file that does not".to_owned(),
        kind => format!("cannot be read: {kind}"),
    }
}

/// What the first bytes of a file say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Linux and most Unixes, 64 bit little-endian.
    Elf {
        /// The processor, in Rust's names.
        machine: &'static str,
    },
    /// Another ELF: 32 bit or big-endian.
    OtherElf,
    /// macOS.
    MachO {
        /// The processor, in Rust's names.
        machine: &'static str,
    },
    /// Windows.
    Pe {
        /// The processor, in Rust's names.
        machine: &'static str,
    },
    /// An archive of objects (`.a`, `.rlib`).
    Archive,
    /// Readable text.
    Text,
    /// Nothing.
    Empty,
    /// Anything else.
    Unknown,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Kind::Elf { machine } => write!(f, "an ELF file for {machine}"),
            Kind::OtherElf => f.write_str("an ELF file for a 32-bit or big-endian processor"),
            Kind::MachO { machine } => write!(f, "a macOS library (Mach-O) for {machine}"),
            Kind::Pe { machine } => write!(f, "a Windows library (PE) for {machine}"),
            Kind::Archive => f.write_str("a static library"),
            Kind::Text => f.write_str("a text file"),
            Kind::Empty => f.write_str("an empty file"),
            Kind::Unknown => f.write_str("no library of a known format"),
        }
    }
}

/// Recognises a file by its first kilobyte.
pub fn identify(head: &[u8]) -> Kind {
    let u16_at = |at: usize| head.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let u32_at = |at: usize| head.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    match head {
        [] => Kind::Empty,
        [0x7f, b'E', b'L', b'F', 2, 1, ..] => Kind::Elf {
            // e_machine, from the ELF gABI.
            machine: match u16_at(18) {
                Some(62) => "x86_64",
                Some(183) => "aarch64",
                Some(243) => "riscv64",
                Some(21) => "powerpc64",
                _ => "another processor",
            },
        },
        [0x7f, b'E', b'L', b'F', ..] => Kind::OtherElf,
        [0xcf, 0xfa, 0xed, 0xfe, ..] => Kind::MachO {
            machine: match u32_at(4) {
                Some(0x0100_0007) => "x86_64",
                Some(0x0100_000c) => "aarch64",
                _ => "another processor",
            },
        },
        // A fat binary; Java classes share the magic but have a version above 40 where the count of parts stands.
        [0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, parts, ..] if *parts < 40 => Kind::MachO { machine: "several processors" },
        [b'M', b'Z', ..] => {
            let at = u32_at(0x3c).map_or(usize::MAX, |v| v as usize);
            match head.get(at..at.saturating_add(4)) {
                Some(b"PE\0\0") => Kind::Pe {
                    machine: match u16_at(at + 4) {
                        Some(0x8664) => "x86_64",
                        Some(0xaa64) => "aarch64",
                        _ => "another processor",
                    },
                },
                _ => Kind::Unknown,
            }
        }
        [b'!', b'<', b'a', b'r', b'c', b'h', b'>', ..] => Kind::Archive,
        _ if std::str::from_utf8(head).map_or_else(|e| e.valid_up_to() + 3 >= head.len(), |_| true)
            && !head.contains(&0) =>
        {
            Kind::Text
        }
        _ => Kind::Unknown,
    }
}

/// A loadable segment: address, offset in the file, bytes in the file.
struct Load {
    address: u64,
    offset: u64,
    size: u64,
}

/// Checks an ELF library: every segment inside the file, a dynamic section, the entry symbol among its names. Answers what
/// it needs.
fn elf(file: &mut File, head: &[u8], len: u64) -> Result<Vec<String>, String> {
    let truncated = || "is a truncated library".to_owned();
    let half = |at: usize| head.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]])).ok_or_else(truncated);
    if half(16)? != 3 {
        return Err("is an ELF file, but no shared library".to_owned());
    }
    let table = word(head, 32).ok_or_else(truncated)?;
    let (entry, count) = (u64::from(half(54)?), u64::from(half(56)?));
    if entry < 56 || count == 0 {
        return Err("is a broken library: it has no segments".to_owned());
    }
    let headers = slice(file, table, entry * count, len).ok_or_else(truncated)?;
    let (mut loads, mut dynamic) = (Vec::new(), None);
    for header in headers.chunks_exact(entry as usize) {
        let (kind, offset, address, size) = (half_word(header, 0), word(header, 8), word(header, 16), word(header, 32));
        let (Some(kind), Some(offset), Some(address), Some(size)) = (kind, offset, address, size) else {
            return Err(truncated());
        };
        match kind {
            1 if offset.checked_add(size).is_none_or(|end| end > len) => return Err(truncated()),
            1 => loads.push(Load { address, offset, size }),
            2 => dynamic = Some((offset, size)),
            _ => {}
        }
    }
    let (offset, size) = dynamic.ok_or("is no dynamic library")?;
    let entries = slice(file, offset, size.min(1 << 20), len).ok_or_else(truncated)?;
    let value = |tag: u64| entries.chunks_exact(16).find(|e| word(e, 0) == Some(tag)).and_then(|e| word(e, 8));
    // DT_STRTAB and DT_STRSZ: the names of all imported and exported symbols.
    let (Some(names), Some(size)) = (value(5), value(10)) else { return Err("exports nothing".to_owned()) };
    let inside = |l: &&Load| names >= l.address && names - l.address <= l.size && size <= l.size - (names - l.address);
    let place = loads.iter().find(inside).ok_or("is a broken library: its names lie outside of it")?;
    let names = slice(file, place.offset + (names - place.address), size.min(MAX_NAMES), len).ok_or_else(truncated)?;
    entry_symbol(&names)?;
    needs(&names)
}

/// The processor features among the names of a library.
fn needs(names: &[u8]) -> Result<Vec<String>, String> {
    let stated = names.split(|b| *b == 0).filter_map(|name| name.strip_prefix(backend_api::NEEDS.as_bytes()));
    let mut found = BTreeSet::new();
    for name in stated {
        found.insert(clean(String::from_utf8_lossy(name), 40));
        if found.len() > MAX_NEEDS {
            return Err(format!("is a broken library: it needs more than {MAX_NEEDS} processor features"));
        }
    }
    Ok(found.into_iter().collect())
}

fn entry_symbol(names: &[u8]) -> Result<(), String> {
    let wanted = backend_api::ENTRY_SYMBOL;
    if names.split(|b| *b == 0).any(|name| name == wanted.as_bytes()) {
        return Ok(());
    }
    let stem = wanted.trim_end_matches(|c: char| c.is_ascii_digit()).as_bytes();
    let other = names.split(|b| *b == 0).find(|name| name.len() > stem.len() && name.starts_with(stem));
    Err(match other.map(|name| String::from_utf8_lossy(&name[stem.len()..]).into_owned()) {
        Some(version) if version.bytes().all(|b| b.is_ascii_digit()) => {
            format!(
                "is a backend for version {version} of the interface; this program speaks version {}",
                &wanted[stem.len()..]
            )
        }
        _ => format!("is a library, but no sd-worker backend: it does not export {wanted}"),
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn half_word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Part of the file; `None` when it does not lie inside.
fn slice(file: &mut File, offset: u64, size: u64, len: u64) -> Option<Vec<u8>> {
    if offset.checked_add(size)? > len {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(size).ok()?];
    file.seek(SeekFrom::Start(offset)).ok()?;
    file.read_exact(&mut bytes).ok()?;
    Some(bytes)
}
