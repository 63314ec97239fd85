//! The plugin for the machine's own processors: a choice of kernels and of threads, and the export.

use backend_api::{
    AbiError, HostRef, HwDevice, HwKind, LogLevel, Offer, Param, PluginInfo,
    author::{Backend, Plugin},
    find,
};
use sd_candle::{CandleBackend, Error, ops};
use std::sync::Arc;

/// The features that this build takes for granted, beyond those of every processor; what they add to a score keeps below
/// the next better kernels'.
const BUILT_FOR: u32 = {
    let features = backend_api::built_for!();
    if features < 40 { features } else { 39 }
};

/// The most threads that an option may ask for.
const MAX_THREADS: usize = 1024;

struct CandleCpu;

impl Plugin for CandleCpu {
    fn info() -> PluginInfo {
        PluginInfo {
            id: "candle-cpu".into(),
            vendor: "sd-worker".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            params: Vec::new().into(),
        }
    }

    fn probe(hardware: &[HwDevice]) -> Vec<Offer> {
        let cpus = hardware.iter().enumerate().filter(|(_, device)| device.kind == HwKind::CPU);
        cpus.map(|(index, device)| offer(index, device)).collect()
    }

    fn open(hardware: &HwDevice, options: &[Param], host: HostRef) -> Result<Box<dyn Backend>, AbiError> {
        if hardware.kind != HwKind::CPU {
            return Err(AbiError::invalid("this backend drives processors only"));
        }
        let threads = match find(options, "threads") {
            Some(text) => text.parse().ok().filter(|n| (1..=MAX_THREADS).contains(n)).ok_or_else(|| {
                AbiError::invalid(format!("the option `threads` must be a number from 1 to {MAX_THREADS}"))
            })?,
            None => default_threads(hardware),
        };
        let wanted = find(options, "kernels").unwrap_or("auto");
        let ops = ops::cpu::choose(wanted).ok_or_else(|| {
            let known = ops::cpu::available().join(", ");
            AbiError::from(Error::Invalid(format!("the option `kernels` must be auto or one of {known} here")))
        })?;
        ops::cpu::keep_freed_memory();
        let text = format!("{} kernels, {threads} threads", ops.name());
        host.log(LogLevel::INFO, "candle-cpu".into(), text.as_str().into());
        Ok(Box::new(CandleBackend::new(Arc::from(ops), threads)?))
    }
}

/// One thread a core, but no more than this process may use.
fn default_threads(hardware: &HwDevice) -> usize {
    let usable = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = find(&hardware.params, "cores").and_then(|c| c.parse::<usize>().ok()).unwrap_or(usable);
    cores.clamp(1, usable)
}

fn offer(index: usize, device: &HwDevice) -> Offer {
    let has = |feature: &str| device.features.iter().any(|f| f.as_str() == feature);
    let (score, why) = if has("avx512f") {
        (160, "its AVX-512 kernels fit this processor")
    } else if has("avx2") && has("fma") {
        (140, "its AVX2 kernels fit this processor")
    } else {
        (50, "it runs on every processor; kernels for this one's instruction set are not there")
    };
    // Of several builds the one that uses most of this processor wins.
    let why = match BUILT_FOR {
        0 => why.to_owned(),
        _ => format!("{why}, and all of it was built for what this one can do"),
    };
    Offer { hw_index: index as u32, score: score + BUILT_FOR, why: why.into(), params: Vec::new().into() }
}

backend_api::export_backend!(CandleCpu);

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: HwKind, features: &[&str], score: Option<u32>) {
        let device = HwDevice {
            kind,
            vendor_id: 0,
            device_id: 0,
            bus_id: "".into(),
            name: "a device".into(),
            mem_total: 0,
            features: features.iter().map(|f| (*f).into()).collect(),
            params: vec![Param::new("cores", 1)].into(),
        };
        let offers = CandleCpu::probe(std::slice::from_ref(&device));
        assert_eq!(offers.first().map(|o| o.score - BUILT_FOR), score, "{kind:?} {features:?}");
        assert_eq!(default_threads(&device), 1);
    }

    #[test]
    fn offers_follow_the_features() {
        check(HwKind::CPU, &["avx2", "fma", "avx512f"], Some(160));
        check(HwKind::CPU, &["avx2", "fma"], Some(140));
        check(HwKind::CPU, &["avx2"], Some(50));
        check(HwKind::CPU, &[], Some(50));
        check(HwKind::GPU, &["avx512f"], None);
    }
}
