//! What the host tells a plugin about the machine, and what the plugin answers.

use crate::{HwKind, Param};
use abi_stable::{
    StableAbi,
    std_types::{RString, RVec},
};

/// Who made a plugin.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct PluginInfo {
    /// A short stable name such as `candle-cpu`; what `--backend` takes.
    pub id: RString,
    /// Who ships it.
    pub vendor: RString,
    /// The plugin's own version, free text.
    pub version: RString,
    /// Room to grow. `test_only=1` keeps a plugin out of the automatic choice.
    pub params: RVec<Param>,
}

/// One piece of hardware as the **host** found it. Probing never creates a device context.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct HwDevice {
    /// What kind of processor.
    pub kind: HwKind,
    /// PCI vendor, or 0.
    pub vendor_id: u32,
    /// PCI device, or 0.
    pub device_id: u32,
    /// PCI address such as `0000:01:00.0`, or empty.
    pub bus_id: RString,
    /// The device's name for people.
    pub name: RString,
    /// Its memory in bytes; 0 where unknown.
    pub mem_total: u64,
    /// What it can do: `avx2`, `avx512f`, `avx512bf16`, `amx_tile`, `neon`, `driver=nvidia` …
    pub features: RVec<RString>,
    /// Room to grow. `cores` and `index` (the number among devices of its kind) are always there.
    pub params: RVec<Param>,
}

/// A plugin's claim to drive one device.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct Offer {
    /// The index into the list that `probe` was given.
    pub hw_index: u32,
    /// How well it would do: 0 = cannot; 1–99 generic CPU; 100–199 CPU tuned for this machine; 1000 and more GPU.
    pub score: u32,
    /// Why, in one sentence for the operator. With score 0: what is missing.
    pub why: RString,
    /// Room to grow. Known: `remedy`, how to get what is missing; `part` (`a-z`, `0-9`, `-`), by which a plugin offers one
    /// device as several that work beside each other, such as a processor's memory nodes; `open` finds the chosen one
    /// among its options.
    pub params: RVec<Param>,
}
