//! The one thing a plugin exports.

use crate::{BackendBox, HostRef, HwDevice, Offer, Param, PluginInfo, Res};
use abi_stable::{
    StableAbi,
    library::RootModule,
    package_version_strings,
    sabi_types::VersionStrings,
    std_types::{RSlice, RVec},
};

/// The root module: three functions. Written by [`crate::export_backend!`].
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = Plugin_Ref)))]
#[sabi(missing_field(option))]
pub struct Plugin {
    /// Says who made the plugin.
    pub info: extern "C" fn() -> PluginInfo,
    /// Claims devices from the host's list. Creates no device context and allocates nothing on a device.
    pub probe: extern "C" fn(hardware: RSlice<'_, HwDevice>) -> RVec<Offer>,
    /// Opens a device.
    #[sabi(last_prefix_field)]
    pub open: extern "C" fn(hardware: &HwDevice, options: RSlice<'_, Param>, host: HostRef) -> Res<BackendBox>,
    /// New in 1.1.
    pub self_test: extern "C" fn() -> u32,
}

impl RootModule for Plugin_Ref {
    abi_stable::declare_root_module_statics! {Plugin_Ref}
    const BASE_NAME: &'static str = "sd_backend";
    const NAME: &'static str = "sd-worker backend";
    const VERSION_STRINGS: VersionStrings = package_version_strings!();
}
