//! The macro that writes a plugin's exports.

/// Exports a type that implements [`crate::author::Plugin`] as this library's backend. Use it once, in the cdylib.
#[macro_export]
macro_rules! export_backend {
    ($plugin:ty) => {
        mod sd_backend_export {
            use $crate::abi_stable::{
                self,
                prefix_type::PrefixTypeTrait,
                std_types::{RSlice, RVec},
            };
            use $crate::{BackendBox, HostRef, HwDevice, Offer, Param, PluginInfo, Res};

            #[$crate::abi_stable::export_root_module]
            fn root() -> $crate::Plugin_Ref {
                $crate::Plugin { info, probe, open }.leak_into_prefix()
            }

            extern "C" fn info() -> PluginInfo {
                <$plugin as $crate::author::Plugin>::info()
            }

            extern "C" fn probe(hardware: RSlice<'_, HwDevice>) -> RVec<Offer> {
                $crate::author::probe_guarded::<$plugin>(hardware.as_slice())
            }

            extern "C" fn open(hardware: &HwDevice, options: RSlice<'_, Param>, host: HostRef) -> Res<BackendBox> {
                $crate::author::open_guarded::<$plugin>(hardware, options.as_slice(), host)
            }
        }
    };
}
