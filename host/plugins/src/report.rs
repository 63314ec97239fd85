//! What the search found, for people and programs: `sd-worker backend list`, `doctor`, `GET /v1/backends`.

use crate::PluginError;
use backend_api::{HwDevice, HwKind, find};
use serde::Serialize;
use std::path::PathBuf;

/// Everything found, and what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The machine.
    pub hardware: Vec<DeviceReport>,
    /// Every file, the chosen one first.
    pub plugins: Vec<PluginReport>,
}

/// One device.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceReport {
    /// What `--device` takes.
    pub device: String,
    /// `cpu`, `gpu`, `igpu` or `npu`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Its memory in bytes; 0 = unknown.
    pub memory_bytes: u64,
    /// Its PCI address, or empty.
    pub bus_id: String,
    /// What it can do.
    pub features: Vec<String>,
    /// Cores, threads, memory nodes, driver version: what is known.
    pub params: std::collections::BTreeMap<String, String>,
}

impl From<&HwDevice> for DeviceReport {
    fn from(device: &HwDevice) -> Self {
        DeviceReport {
            device: find(&device.params, "label").unwrap_or_default().to_owned(),
            kind: match device.kind {
                HwKind::CPU => "cpu",
                HwKind::GPU => "gpu",
                HwKind::IGPU => "igpu",
                HwKind::NPU => "npu",
                _ => "other",
            },
            name: device.name.to_string(),
            memory_bytes: device.mem_total,
            bus_id: device.bus_id.to_string(),
            features: device.features.iter().map(ToString::to_string).collect(),
            params: device.params.iter().map(|p| (p.key.to_string(), p.value.to_string())).collect(),
        }
    }
}

impl State {
    /// The name on the wire and in lists.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Chosen => "chosen",
            State::Failed => "failed",
            State::Available => "available",
            State::Skipped => "skipped",
            State::Refused => "refused",
        }
    }
}

impl Report {
    /// Notes that a choice failed when it was opened.
    pub fn note_failure(&mut self, error: &PluginError) {
        let Some(plugin) = self.plugins.iter_mut().find(|p| error.concerns(&p.file)) else { return };
        plugin.reason = format!("failed: {error}");
        (plugin.state, plugin.remedy, plugin.code) = (State::Failed, Some(error.remedy()), Some(error.code()));
    }

    /// Notes that a plugin was to take over, and is not fit.
    pub fn note_unfit(&mut self, file: &str, reason: &str, remedy: &str, code: &'static str) {
        let Some(plugin) = self.plugins.iter_mut().find(|p| p.file == file) else { return };
        if plugin.state != State::Refused {
            plugin.reason = format!("failed: {reason}");
            (plugin.state, plugin.remedy, plugin.code) = (State::Failed, Some(remedy.to_owned()), Some(code));
        }
    }

    /// Notes that devices are still served by what lay there before.
    pub fn note_stale(&mut self, file: &str, devices: &[String], version: &str, why: &str) {
        let Some(plugin) = self.plugins.iter_mut().find(|p| p.file == file) else { return };
        let before = format!("version {version}, opened before, serves {} on", devices.join(", "));
        if plugin.state == State::Refused {
            plugin.reason = format!("{}; {before}", plugin.reason);
        } else {
            plugin.reason = format!("failed: {why}; {before}");
            plugin.state = State::Failed;
        }
    }

    /// Notes that plugins which would be chosen at a start serve nothing.
    pub fn note_unopened(&mut self, idle: impl Fn(&str) -> bool) {
        for plugin in self.plugins.iter_mut().filter(|p| p.state == State::Chosen && idle(&p.file)) {
            plugin.state = State::Available;
            plugin.reason = format!("{} (when the worker is started again)", plugin.reason);
        }
        self.plugins.sort_by(|a, b| a.state.cmp(&b.state).then_with(|| a.file.cmp(&b.file)));
    }

    /// Notes which devices a plugin was opened on.
    pub fn note_opened(&mut self, file: &str, devices: &[String], why: &str) {
        let Some(plugin) = self.plugins.iter_mut().find(|p| p.file == file) else { return };
        let also = if plugin.state == State::Failed { format!("; {}", plugin.reason) } else { String::new() };
        plugin.reason = format!("{}: {why}{also}", devices.join(", "));
        plugin.state = State::Chosen;
        self.plugins.sort_by(|a, b| a.state.cmp(&b.state).then_with(|| a.file.cmp(&b.file)));
    }
}

/// What became of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is the first choice.
    Chosen,
    /// It was the first choice, and failed.
    Failed,
    /// It could run here, and is tried when better ones fail.
    Available,
    /// It does not fit this machine or this wish.
    Skipped,
    /// It may not run.
    Refused,
}

/// One file.
#[derive(Debug, Clone, Serialize)]
pub struct PluginReport {
    /// The file's name.
    pub file: String,
    /// Where it lies; not serialized, since answers over the network name no folders.
    #[serde(skip)]
    pub path: PathBuf,
    /// What became of it.
    pub state: State,
    /// Why.
    pub reason: String,
    /// What the operator can do, where there is something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// A stable code, for a file that may not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// Its id; empty when it could not be asked.
    pub id: String,
    /// Who ships it.
    pub vendor: String,
    /// Its version.
    pub version: String,
    /// The interface version that it was built against.
    pub interface: String,
    /// Whether it is for tests only.
    pub test_only: bool,
    /// Whether it runs in a process of its own.
    pub isolated: bool,
    /// The processor features that it was built for and does not run without.
    pub needs: Vec<String>,
    /// What it offers.
    pub offers: Vec<OfferReport>,
}

/// One offer.
#[derive(Debug, Clone, Serialize)]
pub struct OfferReport {
    /// The device.
    pub device: String,
    /// 0 = cannot; the higher the better.
    pub score: u32,
    /// The plugin's reason.
    pub why: String,
}
