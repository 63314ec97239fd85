//! `sd-worker backend`: what plugins there are.

use super::{
    BackendCommand, check,
    terminal::{bytes, say},
};
use crate::{app, config::BackendArgs, fault::Fault};
use sd_plugins::Report;

pub(super) fn run(command: &BackendCommand) -> Result<(), Fault> {
    match command {
        BackendCommand::List { json, backends } => list(*json, backends),
        BackendCommand::Check(args) => check::run(args),
    }
}

fn list(json: bool, backends: &BackendArgs) -> Result<(), Fault> {
    let (catalog, choice) = app::scan(backends, None);
    let report = catalog.report(&choice);
    if json {
        say(&serde_json::to_string_pretty(&report).map_err(|e| Fault::internal(e.to_string()))?);
    } else {
        print(&report);
    }
    Ok(())
}

/// The report for people.
pub(super) fn print(report: &Report) {
    say("Hardware");
    for device in &report.hardware {
        let memory = if device.memory_bytes == 0 { "memory unknown".to_owned() } else { bytes(device.memory_bytes) };
        say(&format!("  {:<8} {} ({memory})", device.device, device.name));
    }
    say("\nPlugins");
    if report.plugins.is_empty() {
        say(
            "  none found; put libsd_backend_*.so into `plugins` beside the program, or name a folder with --plugin-dir",
        );
    }
    for plugin in &report.plugins {
        let state = plugin.state.as_str();
        let name = if plugin.id.is_empty() { plugin.file.clone() } else { format!("{} {}", plugin.id, plugin.version) };
        say(&format!("  {state:<10} {name}: {}", plugin.reason));
        for offer in &plugin.offers {
            say(&format!("             {} score {}: {}", offer.device, offer.score, offer.why));
        }
        if let Some(remedy) = &plugin.remedy {
            say(&format!("             remedy: {remedy}"));
        }
    }
}
