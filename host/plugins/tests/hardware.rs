//! The list of hardware, on this machine and on invented ones.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use backend_api::{HwDevice, HwKind, find};
use sd_plugins::hardware::{from, hardware, label, matches};
use std::{fs, os::unix::fs::symlink, path::Path};

fn file(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("{text}\n")).unwrap();
}

/// Puts a PCI device into an invented `sys`.
fn pci(root: &Path, address: &str, ids: [&str; 3], driver: Option<&str>) {
    for (name, value) in ["class", "vendor", "device"].iter().zip(ids) {
        file(root, &format!("sys/bus/pci/devices/{address}/{name}"), value);
    }
    if let Some(driver) = driver {
        symlink(format!("../../drivers/{driver}"), root.join(format!("sys/bus/pci/devices/{address}/driver"))).unwrap();
    }
}

fn features(device: &HwDevice) -> Vec<&str> {
    device.features.iter().map(|f| f.as_str()).collect()
}

#[test]
fn this_machine_has_a_processor() {
    let devices = hardware();
    let cpu = &devices[0];
    assert_eq!((cpu.kind, label(cpu)), (HwKind::CPU, "cpu"));
    assert!(cpu.mem_total > 64 << 20 && !cpu.name.is_empty(), "{cpu:?}");
    let number = |key| find(&cpu.params, key).unwrap().parse::<usize>().unwrap();
    assert!(number("cores") >= 1 && number("threads") >= number("cores") && number("numa_nodes") >= 1);
    for device in &devices {
        assert!(["label", "index", "cores"].iter().all(|key| find(&device.params, key).is_some()), "{device:?}");
    }
}

#[test]
fn an_invented_machine_is_read_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    file(root, "proc/cpuinfo", "processor\t: 0\nmodel name\t: Invented 9000\nflags\t\t: fpu amx_tile amx_bf16");
    file(root, "proc/meminfo", "MemTotal:       16384 kB\nMemFree: 1 kB");
    for (cpu, core) in [("cpu0", "0"), ("cpu1", "0"), ("cpu2", "1"), ("cpu3", "1")] {
        file(root, &format!("sys/devices/system/cpu/{cpu}/topology/core_id"), core);
        file(root, &format!("sys/devices/system/cpu/{cpu}/topology/physical_package_id"), "0");
    }
    for node in ["node0", "node1", "possible"] {
        fs::create_dir_all(root.join("sys/devices/system/node").join(node)).unwrap();
    }
    pci(root, "0000:00:02.0", ["0x030000", "0x8086", "0x1234"], Some("i915"));
    pci(root, "0000:01:00.0", ["0x030200", "0x10de", "0x2335"], Some("nvidia"));
    file(root, "proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t\t NVIDIA H200\nDevice Minor: \t 0");
    file(root, "sys/module/nvidia/version", "580.1");
    file(root, "dev/nvidia0", "");
    pci(root, "0000:02:00.0", ["0x030000", "0x10de", "0x2335"], None);
    pci(root, "0000:03:00.0", ["0x030000", "0x1002", "0x744c"], Some("amdgpu"));
    file(root, "sys/bus/pci/devices/0000:03:00.0/mem_info_vram_total", "8589934592");
    pci(root, "0000:04:00.0", ["0x120000", "0x1da3", "0x1020"], Some("habanalabs"));
    // A network card and a virtual display compute nothing.
    pci(root, "0000:05:00.0", ["0x020000", "0x8086", "0x1000"], None);
    pci(root, "0000:06:00.0", ["0x030000", "0x1234", "0x1111"], None);
    let devices = from(root);
    let labels: Vec<&str> = devices.iter().map(label).collect();
    assert_eq!(labels, ["cpu", "xpu:0", "cuda:0", "cuda:1", "rocm:0", "npu:0"]);
    let [cpu, igpu, with, without, amd, npu] = &devices[..] else { unreachable!() };
    assert_eq!((cpu.name.as_str(), cpu.mem_total), ("Invented 9000", 16 << 20));
    assert_eq!(find(&cpu.params, "numa_nodes"), Some("2"));
    if cfg!(target_arch = "x86_64") {
        assert!(features(cpu).ends_with(&["amx_tile", "amx_bf16"]), "{cpu:?}");
    }
    assert_eq!((igpu.kind, npu.kind, amd.mem_total), (HwKind::IGPU, HwKind::NPU, 8 << 30));
    assert_eq!((with.name.as_str(), features(with)), ("NVIDIA H200", vec!["driver=nvidia", "device_node"]));
    assert_eq!(find(&with.params, "driver_version"), Some("580.1"));
    assert_eq!((without.name.as_str(), features(without)), ("NVIDIA GPU [10de:2335]", vec![]));
    for (wish, device, wanted) in [
        ("cpu", cpu, true),
        ("cuda", with, true),
        ("cuda", without, false),
        ("CUDA:1", without, true),
        ("cuda:1", with, false),
        ("gpu", igpu, true),
        ("gpu", cpu, false),
        ("0000:03:00.0", amd, true),
        ("", cpu, false),
    ] {
        assert_eq!(matches(device, wish), wanted, "{wish} for {}", label(device));
    }
}

#[test]
fn a_limit_of_the_control_group_counts_as_memory() {
    let dir = tempfile::tempdir().unwrap();
    file(dir.path(), "proc/meminfo", "MemTotal:       16384 kB");
    file(dir.path(), "sys/fs/cgroup/memory.max", "max");
    assert_eq!(from(dir.path())[0].mem_total, 16 << 20);
    file(dir.path(), "sys/fs/cgroup/memory.max", "1048576");
    assert_eq!(from(dir.path())[0].mem_total, 1 << 20);
}

#[test]
fn a_machine_that_says_nothing_still_has_a_processor() {
    let dir = tempfile::tempdir().unwrap();
    let devices = from(dir.path());
    assert_eq!(devices.len(), 1);
    assert_eq!(devices[0].mem_total, 0);
}
