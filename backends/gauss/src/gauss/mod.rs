//! The exact denoiser of data that is normal in every element.
//!
//! # The data
//! Every element of channel `c` of a clean latent is independently `N(mu_c, std²)`. With `mean` set in the options,
//! `mu_c = mean`; else it depends on the text (see [`text::mean`]), so that other prompts give other pictures.
//!
//! # The denoiser
//! A noised element is `x = a·x0 + s·e`. The posterior mean of the noise is known in closed form:
//!
//! ```text
//! e = s·(x − a·mu) / (a²·std² + s²)        x0 = mu + a·std²·(x − a·mu) / (a²·std² + s²)
//! ```
//!
//! With `epsilon`, `v_prediction` and `sample`, `a = 1/√(1+σ²)` and `s = σ/√(1+σ²)`, where σ is the item's `sigma`
//! (the variance-preserving form of a variance-exploding noise level); with `flow`, `a = 1−σ` and `s = σ`.
//! The answers are `e`, `a·e − s·x0`, `x0` and `e − x0`.
//!
//! # Pictures
//! A latent cell becomes one tile of `vae_factor` × `vae_factor` pixels: colour `j` is `0.5 + z_j/8`, clamped. Encoding
//! is the exact inverse on such tiles, with deviation 0.
//!
//! # Options
//! As JSON in the config of role `gauss`, all optional: see [`options::Options`]. No file is needed.

pub(crate) mod options;
mod picture;
mod session;
pub(crate) mod text;

use backend_api::{
    AbiError, Ctl, DiffusionDesc, HostRef, HwDevice, HwKind, MemReport, ModelPlan, ModelSource, Offer, Param,
    PluginInfo, Stage, Task, UpscalerDesc,
    abi_stable::std_types::{RString, RVec},
    author::{self, log},
};
use options::Options;
use std::time::{Duration, Instant};

/// The version. Tests change the digit behind `build.` in a copy of the file, and have another version of the plugin.
#[used]
static VERSION: [u8; 13] = *b"0.1.0+build.1";

fn version() -> &'static str {
    // Behind a black box, so that the bytes in the file are what is read.
    std::str::from_utf8(std::hint::black_box(&VERSION)).unwrap_or("unknown")
}

/// The environment variable with the number of devices as which the processor is offered.
const PARTS: &str = "SD_GAUSS_DEVICES";

/// The library.
pub(crate) struct Gauss;

impl author::Plugin for Gauss {
    fn info() -> PluginInfo {
        PluginInfo {
            id: "gauss".into(),
            vendor: "sd-worker".into(),
            version: version().into(),
            params: vec![Param::new("test_only", 1)].into(),
        }
    }

    fn probe(hardware: &[HwDevice]) -> Vec<Offer> {
        let offer = |hw_index: usize, params: RVec<Param>| Offer {
            hw_index: hw_index as u32,
            // Of several builds the one for most features wins, which the choice is tested with.
            score: 1 + backend_api::built_for!(),
            why: "draws Gaussian noise fields for tests, on any processor".into(),
            params,
        };
        let parts: Option<u32> = std::env::var(PARTS).ok().and_then(|n| n.parse().ok());
        let offers = |i: usize| match parts {
            None => vec![offer(i, RVec::new())],
            Some(n) => (0..n).map(|part| offer(i, vec![Param::new("part", part)].into())).collect(),
        };
        (0..hardware.len()).filter(|i| hardware[*i].kind == HwKind::CPU).flat_map(offers).collect()
    }

    fn open(hardware: &HwDevice, options: &[Param], _: HostRef) -> Result<Box<dyn author::Backend>, AbiError> {
        log::debug("gauss", "opened");
        let total = match options::setting(options, "total_bytes") {
            Some(text) => text.parse().map_err(|_| AbiError::invalid("option `total_bytes` must be a whole number"))?,
            None => hardware.mem_total,
        };
        Ok(Box::new(Device { total, options: options.to_vec() }))
    }
}

struct Device {
    total: u64,
    /// What was given to `open`; a model's own options win. `total_bytes` makes the device as small as wanted.
    options: Vec<Param>,
}

impl author::Backend for Device {
    fn memory(&self) -> MemReport {
        MemReport { device_total: self.total, ..MemReport::default() }
    }

    fn inspect(&self, source: &ModelSource) -> Result<ModelPlan, AbiError> {
        let options = Options::read(source, &self.options)?;
        Ok(ModelPlan {
            task: Task::DIFFUSION,
            weight_bytes: options.weight_bytes,
            peak_bytes: options.weight_bytes,
            params: RVec::new(),
        })
    }

    fn load(&self, source: &ModelSource, ctl: &Ctl) -> Result<Box<dyn author::Model>, AbiError> {
        let options = Options::read(source, &self.options)?;
        wait(options.load_ms, ctl, |done, total| ctl.progress(Stage::LOAD, done, total))?;
        Ok(Box::new(Loaded(options)))
    }
}

struct Loaded(Options);

impl author::Model for Loaded {
    fn memory(&self) -> MemReport {
        MemReport { weights: self.0.weight_bytes, ..MemReport::default() }
    }

    fn diffusion(&self, _: &[Param]) -> Result<(DiffusionDesc, Box<dyn author::Diffusion>), AbiError> {
        Ok((self.0.desc(), Box::new(session::Session::new(self.0.clone()))))
    }

    /// Every pixel becomes a square of `upscale` × `upscale`.
    fn upscaler(&self, _: &[Param]) -> Result<(UpscalerDesc, Box<dyn author::Upscaler>), AbiError> {
        let factor = self.0.upscale;
        Ok((UpscalerDesc { factor, tile: 64, overlap: 0, params: RVec::new() }, Box::new(picture::Enlarge(factor))))
    }
}

/// Waits, looking at the cancel flag every millisecond.
fn wait(ms: u64, ctl: &Ctl, report: impl Fn(u64, u64)) -> Result<(), AbiError> {
    let start = Instant::now();
    let total = Duration::from_millis(ms);
    loop {
        if ctl.cancelled() {
            return Err(AbiError::cancelled());
        }
        let gone = start.elapsed();
        report(ms.min(gone.as_millis() as u64), ms);
        match total.checked_sub(gone) {
            None | Some(Duration::ZERO) => return Ok(()),
            Some(left) => std::thread::sleep(left.min(Duration::from_millis(1))),
        }
    }
}

/// A list of texts as they cross the boundary.
fn strings(values: &[String]) -> RVec<RString> {
    values.iter().map(|v| RString::from(v.as_str())).collect()
}
