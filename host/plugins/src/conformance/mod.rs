//! The conformance kit: one command that tells a vendor whether a backend keeps the contract.
//!
//! Each check is one line of the report: what was tried, and what came of it. A check that cannot run is reported as
//! skipped with the reason, never as passed.

mod checks;
mod subject;

use crate::{Catalog, Choice, PluginError, Search, host_ref};
use backend_api::{BackendBox, ModelSource, Param};
use serde::Serialize;
use std::{path::Path, time::Instant};

/// What to check a backend with.
pub struct Plan<'a> {
    /// How to open it: trust, isolation, limits.
    pub search: Search,
    /// The device; `None` = its best offer.
    pub device: Option<String>,
    /// Options for `open`.
    pub options: Vec<Param>,
    /// The model to load.
    pub source: ModelSource,
    /// A backend to compare with, on the same model; usually the CPU backend.
    pub reference: Option<&'a BackendBox>,
    /// The largest difference from the reference, relative to the reference's largest value. 1e-3 suits `f32`, 2e-2 half
    /// precision.
    pub tolerance: f32,
    /// How often the model is loaded and dropped to look for leaks. 0 = not.
    pub loads: u32,
}

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Passed,
    /// Not as it should be.
    Failed,
    /// It could not be tried.
    Skipped,
}

/// One line.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What was tried: stable, for programs.
    pub name: &'static str,
    /// What came of it.
    pub verdict: Verdict,
    /// A figure, or what was wrong.
    pub detail: String,
    /// How long it took.
    pub millis: u64,
}

/// The lines of a run, in order.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The file's name.
    pub file: String,
    /// The plugin's id; empty when it could not be asked.
    pub id: String,
    /// The device that was used.
    pub device: String,
    /// The checks.
    pub checks: Vec<Check>,
}

impl Report {
    /// Whether no check failed and at least one passed.
    pub fn passed(&self) -> bool {
        let any = |verdict| self.checks.iter().any(|c| c.verdict == verdict);
        any(Verdict::Passed) && !any(Verdict::Failed)
    }
}

/// What a check answers: a detail, or why it failed or could not run.
pub(crate) type Outcome = Result<String, Trouble>;

/// Why a check did not pass.
pub(crate) enum Trouble {
    Wrong(String),
    NotTried(String),
}

impl From<backend_api::AbiError> for Trouble {
    fn from(e: backend_api::AbiError) -> Self {
        Trouble::Wrong(e.to_string())
    }
}

/// Runs every check on a library. Takes seconds on a small model.
pub fn run(file: &Path, plan: &Plan<'_>) -> Report {
    let mut report =
        Report { file: crate::load::file_name(file), id: String::new(), device: String::new(), checks: Vec::new() };
    let threads = threads();
    let catalog = Catalog::of_file(&plan.search, file);
    let about = catalog.report(&Choice::default()).plugins.into_iter().next();
    let id = about.as_ref().map(|a| a.id.clone()).unwrap_or_default();
    report.id.clone_from(&id);
    let loaded = report.check("loads", || match about {
        Some(about) if !about.id.is_empty() => {
            Ok(format!("{} {} by {}, interface {}", about.id, about.version, about.vendor, about.interface))
        }
        Some(about) => Err(Trouble::Wrong(about.reason)),
        None => Err(Trouble::Wrong("the file was not found".to_owned())),
    });
    if !loaded {
        return report;
    }
    report.check("probes", || checks::probe(&plan.search, file, &catalog));
    let choice = Choice { backend: Some(id), device: plan.device.clone(), options: plan.options.clone() };
    let mut opened = None;
    report.check("opens", || match catalog.open(&choice, &|_| host_ref(|_, _, _| ())) {
        Ok(o) => {
            let words = format!("{}: {}", o.device, o.why);
            opened = Some(o);
            Ok(words)
        }
        Err(e @ PluginError::NoChoice { .. }) => Err(Trouble::NotTried(e.to_string())),
        Err(e) => Err(Trouble::Wrong(e.to_string())),
    });
    let Some(opened) = opened else { return report };
    report.device.clone_from(&opened.device);
    checks::device(&mut report, &opened.backend, plan);
    checks::model(&mut report, &opened.backend, plan);
    let isolated = opened.isolated;
    report.check("does not leak", || checks::leaks(&opened.backend, plan, isolated));
    report.check("joins its threads", || {
        drop(opened);
        checks::joined(threads, isolated)
    });
    report
}

impl Report {
    /// Runs a check and adds its line; answers whether it passed.
    fn check(&mut self, name: &'static str, check: impl FnOnce() -> Outcome) -> bool {
        let start = Instant::now();
        let (verdict, detail) = match check() {
            Ok(detail) => (Verdict::Passed, detail),
            Err(Trouble::Wrong(detail)) => (Verdict::Failed, detail),
            Err(Trouble::NotTried(detail)) => (Verdict::Skipped, detail),
        };
        let detail = crate::error::clean(detail, 400);
        self.checks.push(Check { name, verdict, detail, millis: start.elapsed().as_millis() as u64 });
        verdict == Verdict::Passed
    }
}

/// Threads of this process; `None` where the kernel does not say.
fn threads() -> Option<usize> {
    std::fs::read_dir("/proc/self/task").ok().map(|tasks| tasks.count())
}
