//! The ONNX Runtime plugin: runs a diffusers model that was exported to ONNX (a folder for each part, `model.onnx` in it).
//!
//! ONNX Runtime is not linked and not shipped: its library is found and opened at run time (see [`runtime`]), so the plugin
//! builds without it and says what is missing where it is not there. Networks in `f32`, one text encoder, no extra inputs.

mod device;
mod network;
mod runtime;
mod session;

use backend_api::{
    AbiError, HostRef, HwDevice, HwKind, Offer, Param, PluginInfo, abi_stable::std_types::RVec, author, find,
};

/// The library as a whole.
struct Onnx;

impl author::Plugin for Onnx {
    fn info() -> PluginInfo {
        PluginInfo {
            id: "onnx".into(),
            vendor: "sd-worker".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            params: RVec::new(),
        }
    }

    /// Looks for the runtime's file only; it is opened with the device.
    fn probe(hardware: &[HwDevice]) -> Vec<Offer> {
        let (score, why, params) = match runtime::find(None) {
            // Below the backends that read the usual weights: it is for those who ask for it.
            Ok(_) => (50, "models exported to ONNX, on ONNX Runtime".to_owned(), RVec::new()),
            Err(missing) => (0, missing.reason, vec![Param::new("remedy", missing.remedy)].into()),
        };
        let offer = |i: usize| Offer { hw_index: i as u32, score, why: why.as_str().into(), params: params.clone() };
        (0..hardware.len()).filter(|i| hardware[*i].kind == HwKind::CPU).map(offer).collect()
    }

    fn open(hardware: &HwDevice, options: &[Param], _: HostRef) -> Result<Box<dyn author::Backend>, AbiError> {
        let threads = find(options, "threads").map(str::parse::<usize>).transpose();
        let threads = threads.map_err(|_| AbiError::invalid("option `threads` must be a whole number"))?;
        let path = runtime::find(find(options, "runtime"))
            .map_err(|missing| AbiError::new(backend_api::Code::NOT_FOUND, missing.to_string()))?;
        runtime::open(&path)?;
        Ok(Box::new(device::Device { total: hardware.mem_total, threads: threads.unwrap_or(0) }))
    }
}

backend_api::export_backend!(Onnx);
