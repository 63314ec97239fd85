//! The processor: name, features, cores, memory nodes, memory.

use super::read;
use backend_api::{HwDevice, HwKind, Param, author::memory_below};
use std::{collections::BTreeSet, path::Path};

pub(super) fn device(root: &Path) -> HwDevice {
    let info = read(&root.join("proc/cpuinfo")).unwrap_or_default();
    let field = |key: &str| {
        info.lines().filter_map(|l| l.split_once(':')).find(|(k, _)| k.trim() == key).map(|(_, v)| v.trim().to_owned())
    };
    let name = field("model name")
        .or_else(|| field("Model"))
        .unwrap_or_else(|| format!("{} processor", std::env::consts::ARCH));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = physical_cores(root).map_or(threads, |cores| cores.min(threads)).max(1);
    let params = vec![
        Param::new("cores", cores),
        Param::new("threads", threads),
        Param::new("numa_nodes", count(&root.join("sys/devices/system/node"), "node").max(1)),
    ];
    let mut device = super::device(HwKind::CPU, "cpu", 0, name, features(&field("flags").unwrap_or_default()), params);
    device.mem_total = memory_below(root).0;
    device
}

/// Different (package, core) pairs. `None` where the kernel does not say.
fn physical_cores(root: &Path) -> Option<usize> {
    let entries = std::fs::read_dir(root.join("sys/devices/system/cpu")).ok()?;
    let cores: BTreeSet<_> = entries
        .flatten()
        .filter_map(|entry| {
            let topology = entry.path().join("topology");
            Some((read(&topology.join("physical_package_id"))?, read(&topology.join("core_id"))?))
        })
        .collect();
    (!cores.is_empty()).then_some(cores.len())
}

/// Entries `prefix` + number in a folder.
fn count(folder: &Path, prefix: &str) -> usize {
    let numbered =
        |name: &str| name.strip_prefix(prefix).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    std::fs::read_dir(folder)
        .map_or(0, |entries| entries.flatten().filter(|e| e.file_name().to_str().is_some_and(numbered)).count())
}

/// Instruction sets that the processor has *and* the system saves registers for: all that a library may state to need
/// ([`backend_api::NEEDS`]), under Rust's names, and AMX under the kernel's.
fn features(flags: &str) -> Vec<String> {
    let mut found: Vec<&str> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! detect { ($($flag:tt)*) => { $(if std::is_x86_feature_detected!($flag) { found.push($flag); })* } }
        backend_api::__each_feature!(detect);
        // The standard library does not detect these in stable Rust; the kernel lists what it supports.
        let listed = |flag: &&str| flags.split_ascii_whitespace().any(|f| f == *flag);
        found.extend(["amx_tile", "amx_bf16", "amx_int8", "amx_fp16"].iter().filter(|f| listed(f)));
    }
    #[cfg(target_arch = "aarch64")]
    {
        let _ = flags;
        macro_rules! detect { ($($flag:tt)*) => { $(if std::arch::is_aarch64_feature_detected!($flag) { found.push($flag); })* } }
        found.push("neon");
        backend_api::__each_feature!(detect);
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = flags;
    found.into_iter().map(str::to_owned).collect()
}
