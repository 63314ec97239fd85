//! The macro that writes a plugin's one export.

/// Exports a type that implements [`crate::author::Plugin`] as this library's backend. Use it once, in the cdylib.
///
/// It writes the static [`crate::ENTRY_SYMBOL`] and three functions that no panic can leave, and states the processor
/// features that the library was compiled for ([`crate::NEEDS`]). The crate needs no dependency on `abi_stable` of its own.
#[macro_export]
macro_rules! export_backend {
    ($plugin:ty) => {
        $crate::__each_feature!($crate::__state_needs);

        const _: () = {
            extern "C" fn info() -> $crate::PluginInfo {
                $crate::author::info_guarded::<$plugin>()
            }

            extern "C" fn probe(
                hardware: $crate::abi_stable::std_types::RSlice<'_, $crate::HwDevice>,
            ) -> $crate::abi_stable::std_types::RVec<$crate::Offer> {
                $crate::author::probe_guarded::<$plugin>(hardware.as_slice())
            }

            extern "C" fn open(
                hardware: &$crate::HwDevice,
                options: $crate::abi_stable::std_types::RSlice<'_, $crate::Param>,
                host: $crate::HostRef,
            ) -> $crate::Res<$crate::BackendBox> {
                $crate::author::open_guarded::<$plugin>(hardware, options.as_slice(), host)
            }

            fn root() -> $crate::Plugin_Ref {
                $crate::abi_stable::prefix_type::PrefixTypeTrait::leak_into_prefix($crate::Plugin { info, probe, open })
            }

            extern "C" fn construct() -> $crate::abi_stable::library::RootModuleResult {
                $crate::abi_stable::library::__call_root_module_loader(root)
            }

            // The name is `backend_api::ENTRY_SYMBOL`; an attribute takes a literal only.
            // SAFETY: `construct` answers the erased prefix of a `Plugin_Ref`, as `from_constructor` demands; a cdylib
            // calls this macro once, and a second call is a duplicate symbol, which does not link.
            #[unsafe(export_name = "SD_BACKEND_V1")]
            static HEADER: $crate::abi_stable::library::LibHeader = unsafe {
                $crate::abi_stable::library::LibHeader::from_constructor::<$crate::Plugin_Ref>(
                    construct,
                    $crate::abi_stable::library::CheckTypeLayout::Yes,
                )
            };
        };
    };
}
