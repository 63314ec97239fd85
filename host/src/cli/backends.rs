//! `sd-worker backend`: what plugins there are.

use super::{
    BackendCommand,
    terminal::{bytes, say},
};
use crate::{
    app,
    config::{BackendArgs, ModelArgs},
    fault::{Fault, FaultCode},
    library::Library,
};
use sd_plugins::{
    Choice, Report, Search, State,
    conformance::{self, Plan, Verdict},
};
use std::path::Path;

pub(super) fn run(command: &BackendCommand) -> Result<(), Fault> {
    match command {
        BackendCommand::List { json, backends } => list(*json, backends),
        BackendCommand::Check { file, tolerance, loads, json, backends, models } => {
            check(file, *tolerance, *loads, *json, backends, models)
        }
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

/// Runs the conformance kit on one file, beside the best other backend as the reference.
fn check(
    file: &Path,
    tolerance: f32,
    loads: u32,
    json: bool,
    backends: &BackendArgs,
    models: &ModelArgs,
) -> Result<(), Fault> {
    let (library, named) = Library::new(app::model_places(models), models.model.as_deref())?;
    let source = library.resolve(&named.unwrap_or_else(|| app::BUNDLED_MODEL.to_owned()))?.source();
    let (catalog, choice) = app::scan(backends, None);
    let options = choice.options.clone();
    let reference = catalog.open(&Choice { options: Vec::new(), ..choice }, &|id| sd_plugins::tracing_host(id)).ok();
    let search = Search { isolate: sd_plugins::Isolate::Never, ..Search::default() };
    let plan = Plan {
        search,
        device: backends.device.clone(),
        options,
        source,
        reference: reference.as_ref().map(|r| &r.backend),
        tolerance,
        loads,
    };
    let report = conformance::run(file, &plan);
    if json {
        say(&serde_json::to_string_pretty(&report).map_err(|e| Fault::internal(e.to_string()))?);
    } else {
        for check in &report.checks {
            let verdict = match check.verdict {
                Verdict::Passed => "passed",
                Verdict::Failed => "FAILED",
                Verdict::Skipped => "skipped",
            };
            say(&format!("{verdict:<8} {:<32} {:>6} ms  {}", check.name, check.millis, check.detail));
        }
    }
    if report.passed() { Ok(()) } else { Err(Fault::new(FaultCode::BackendError, "the plugin does not conform")) }
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
        let state = match plugin.state {
            State::Chosen => "chosen",
            State::Available => "available",
            State::Skipped => "skipped",
            State::Refused => "refused",
        };
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
