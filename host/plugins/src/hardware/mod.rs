//! What the machine has, from files of the kernel and from the processor itself. No device is touched.

mod cpu;
mod pci;

use backend_api::{HwDevice, HwKind, Param, abi_stable::std_types::RVec, find};
use std::path::Path;

/// The machine's devices: the processor first, then accelerators in bus order. Every device has the params `label`
/// (`cpu`, `cuda:0`, `rocm:0`, `xpu:0`, `metal`, `npu:0`), `index` and `cores`.
pub fn hardware() -> Vec<HwDevice> {
    from(Path::new("/"))
}

/// The same, with the kernel's `proc` and `sys` below another root. Processor features are always this processor's.
pub fn from(root: &Path) -> Vec<HwDevice> {
    let mut devices = vec![cpu::device(root)];
    devices.extend(pci::devices(root));
    #[cfg(all(target_os = "macos", target_arch = "aarch64"))]
    devices.push(device(HwKind::IGPU, "metal", 0, "Apple GPU".to_owned(), vec!["metal".to_owned()], vec![]));
    devices
}

/// The label of a device, as `--device` takes it.
pub fn label(device: &HwDevice) -> &str {
    find(&device.params, "label").unwrap_or("?")
}

/// Whether a wish such as `cpu`, `cuda`, `cuda:1`, `gpu` or `0000:01:00.0` means this device. A wish without a number
/// means the first of its kind.
pub fn matches(device: &HwDevice, wish: &str) -> bool {
    let (wish, label) = (wish.trim().to_ascii_lowercase(), label(device));
    wish == label
        || (!wish.contains(':') && label.strip_suffix(":0") == Some(wish.as_str()))
        || (!device.bus_id.is_empty() && wish == device.bus_id.as_str())
        || (wish == "gpu" && matches!(device.kind, HwKind::GPU | HwKind::IGPU))
}

/// What of these processor features none of the machine's processors has, in the words of the list.
pub fn lacking(needs: &[String], devices: &[HwDevice]) -> Vec<String> {
    // The kernel writes amx_tile where a compiler writes amx-tile.
    let plain = |name: &str| -> String {
        name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
    };
    let processors = || devices.iter().filter(|d| d.kind == HwKind::CPU);
    let has = |need: &String| processors().any(|cpu| cpu.features.iter().any(|f| plain(f) == plain(need)));
    needs.iter().filter(|need| !has(need)).cloned().collect()
}

fn device(
    kind: HwKind,
    label: &str,
    index: usize,
    name: String,
    features: Vec<String>,
    params: Vec<Param>,
) -> HwDevice {
    let mut all = vec![Param::new("label", label), Param::new("index", index)];
    all.extend(params);
    if find(&all, "cores").is_none() {
        all.push(Param::new("cores", 0));
    }
    HwDevice {
        kind,
        vendor_id: 0,
        device_id: 0,
        bus_id: "".into(),
        name: name.into(),
        mem_total: 0,
        features: features.into_iter().map(Into::into).collect::<RVec<_>>(),
        params: all.into(),
    }
}

/// A kernel file's text without the line's end, up to 64 KiB; `None` when there is none.
fn read(path: &Path) -> Option<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(64 << 10).read_to_string(&mut text).ok()?;
    Some(text.trim_end().to_owned())
}
