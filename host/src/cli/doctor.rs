//! `sd-worker doctor`: what was found, and what to do about what was not. `healthcheck`: is a worker ready.

use super::{backends, models, terminal::say};
use crate::{
    app,
    config::{BackendArgs, ModelArgs},
    fault::{Fault, FaultCode},
};
use sd_plugins::State;
use std::time::Duration;

pub(super) fn run(backend_args: &BackendArgs, model_args: &ModelArgs) -> Result<(), Fault> {
    let (catalog, choice) = app::scan(backend_args, None);
    let report = catalog.report(&choice);
    backends::print(&report);
    say("\nModels");
    let places = app::model_places(model_args);
    for dir in &places.dirs {
        say(&format!("  in {}", dir.display()));
    }
    let listed = models::print(&places);
    say("");
    let chosen = report.plugins.iter().any(|p| p.state == State::Chosen);
    let mut problems = Vec::new();
    if !chosen {
        problems.push("no plugin can drive a device of this machine: build one (`cargo xtask serve` builds the CPU plugin) or install one");
    }
    if listed == 0 {
        problems
            .push("no usable model: name a folder with --models-dir, or fetch one with `sd-worker models pull NAME`");
    }
    if problems.is_empty() {
        say("All is well: `sd-worker` will serve.");
        return Ok(());
    }
    Err(Fault::new(FaultCode::NotReady, problems.join("; ")))
}

/// Ends well when `/ready` answers 200. No proxy of the environment stands between.
pub(super) fn healthcheck(url: &str) -> Result<(), Fault> {
    let config = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(5))).proxy(None).build();
    let agent: ureq::Agent = config.into();
    agent
        .get(format!("{}/ready", url.trim_end_matches('/')))
        .call()
        .map(|_| ())
        .map_err(|e| Fault::new(FaultCode::NotReady, format!("the worker is not ready: {e}")))
}
