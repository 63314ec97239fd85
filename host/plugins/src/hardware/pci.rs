//! Graphics processors and other accelerators on the PCI bus, with the driver that holds them.

use super::read;
use backend_api::{HwDevice, HwKind, Param};
use std::path::Path;

const NVIDIA: u32 = 0x10de;
const AMD: u32 = 0x1002;
const INTEL: u32 = 0x8086;

pub(super) fn devices(root: &Path) -> Vec<HwDevice> {
    let bus = root.join("sys/bus/pci/devices");
    let mut addresses: Vec<_> =
        std::fs::read_dir(&bus).map(|d| d.flatten().map(|e| e.file_name()).collect()).unwrap_or_default();
    addresses.sort();
    let mut found: Vec<HwDevice> = Vec::new();
    for address in addresses.iter().filter_map(|a| a.to_str()) {
        let taken = |prefix: &str| found.iter().filter(|d| super::label(d).split(':').next() == Some(prefix)).count();
        if let Some(device) = device(root, &bus.join(address), address, taken) {
            found.push(device);
        }
    }
    found
}

fn device(root: &Path, folder: &Path, address: &str, taken: impl Fn(&str) -> usize) -> Option<HwDevice> {
    let hex = |file: &str| u32::from_str_radix(read(&folder.join(file))?.strip_prefix("0x")?, 16).ok();
    let (class, vendor, id) = (hex("class")?, hex("vendor")?, hex("device")?);
    // PCI class codes: 0x0300 VGA, 0x0302 3D controller, 0x0380 other display; 0x1200 processing accelerator.
    let accelerator = match class >> 8 {
        0x0300 | 0x0302 | 0x0380 => false,
        0x1200 => true,
        _ => return None,
    };
    let (kind, prefix, maker) = match (vendor, accelerator) {
        (_, true) => (HwKind::NPU, "npu", "accelerator"),
        (NVIDIA, _) => (HwKind::GPU, "cuda", "NVIDIA GPU"),
        (AMD, _) => (HwKind::GPU, "rocm", "AMD GPU"),
        // Intel's integrated graphics sit at this fixed address; its cards do not.
        (INTEL, _) if address == "0000:00:02.0" => (HwKind::IGPU, "xpu", "Intel integrated graphics"),
        (INTEL, _) => (HwKind::GPU, "xpu", "Intel GPU"),
        // Virtual displays (QEMU, VMware, Hyper-V) and server management chips compute nothing.
        _ => return None,
    };
    let index = taken(prefix);
    let driver = std::fs::read_link(folder.join("driver")).ok().and_then(|p| Some(p.file_name()?.to_str()?.to_owned()));
    let mut features: Vec<String> = driver.iter().map(|d| format!("driver={d}")).collect();
    let mut params = Vec::new();
    let mut name = format!("{maker} [{vendor:04x}:{id:04x}]");
    if vendor == NVIDIA && driver.as_deref() == Some("nvidia") {
        let about = read(&root.join("proc/driver/nvidia/gpus").join(address).join("information")).unwrap_or_default();
        let field = |key: &str| about.lines().find_map(|l| Some(l.strip_prefix(key)?.trim().to_owned()));
        name = field("Model:").unwrap_or(name);
        // In a container the bus shows every card, the device files only those that were handed in.
        let minor = field("Device Minor:").unwrap_or_else(|| index.to_string());
        if root.join(format!("dev/nvidia{minor}")).exists() {
            features.push("device_node".to_owned());
        }
        if let Some(version) = read(&root.join("sys/module/nvidia/version")) {
            params.push(Param::new("driver_version", version));
        }
    }
    let mut device = super::device(kind, &format!("{prefix}:{index}"), index, name, features, params);
    (device.vendor_id, device.device_id, device.bus_id) = (vendor, id, address.into());
    device.mem_total = read(&folder.join("mem_info_vram_total")).and_then(|v| v.parse().ok()).unwrap_or(0);
    Some(device)
}
