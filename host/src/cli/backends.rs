//! `sd-worker backend`: what plugins there are.

use super::{
    BackendCommand, check,
    generate::remote::Worker,
    terminal::{bytes, say},
};
use crate::{
    app,
    config::BackendArgs,
    fault::{Fault, FaultCode},
};
use sd_plugins::Report;
use serde_json::Value;

pub(super) fn run(command: &BackendCommand) -> Result<(), Fault> {
    match command {
        BackendCommand::List { json, backends } => list(*json, backends),
        BackendCommand::Reload { url, token, token_file, json } => {
            reload(&Worker::new(url, token.as_deref(), token_file.as_deref())?, *json)
        }
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

/// Has a running worker look for plugins again. A fault when something should have taken over and is not fit.
fn reload(worker: &Worker, json: bool) -> Result<(), Fault> {
    let answer = worker.send("/v1/backends/reload", b"{}")?;
    let changes = answer["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    if json {
        say(&serde_json::to_string_pretty(&answer).map_err(|e| Fault::internal(e.to_string()))?);
    }
    let mut unfit = 0;
    for change in changes {
        let told = ["device", "outcome", "backend", "version", "reason"].map(|key| text(change, key));
        if !json {
            say(&format!("{:<8} {:<10} {} {}: {}", told[0], told[1], told[2], told[3], told[4]));
        }
        for one in change["unfit"].as_array().into_iter().flatten() {
            unfit += 1;
            if !json {
                say(&format!(
                    "         unfit: {} {}: {}",
                    text(one, "file"),
                    text(one, "version"),
                    text(one, "reason")
                ));
                say(&format!("         remedy: {}", text(one, "remedy")));
            }
        }
    }
    match unfit {
        0 => Ok(()),
        n => {
            Err(Fault::new(FaultCode::BackendError, format!("{n} not fit to take over; what served before serves on")))
        }
    }
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
