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
        let builds = report.plugins.iter().filter(|other| other.id == plugin.id).count();
        let name = match (plugin.id.as_str(), builds) {
            ("", _) => plugin.file.clone(),
            (id, 1) => format!("{id} {}", plugin.version),
            (id, _) => format!("{id} {} ({})", plugin.version, plugin.file),
        };
        // What may not run is told of by its file's name already.
        let reason = plugin.reason.strip_prefix(&format!("{}: ", plugin.file)).unwrap_or(&plugin.reason);
        say(&format!("  {state:<10} {name}: {reason}"));
        if !plugin.needs.is_empty() {
            say(&format!("             built for {}", plugin.needs.join(", ")));
        }
        for offer in &plugin.offers {
            say(&format!("             {} score {}: {}", offer.device, offer.score, offer.why));
        }
        if let Some(remedy) = &plugin.remedy {
            say(&format!("             remedy: {remedy}"));
        }
    }
}
