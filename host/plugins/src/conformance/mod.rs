//! The conformance kit: one command that tells a vendor whether a backend keeps the contract.
//!
//! ```text
//! run ─ file (loads, probes, opens) ─ device ─ session (texts, steps) ─ pictures ─ golden ─ compare ─ life
//! watch ─ the same in a process of its own: a crash or a hang becomes the line of the check that it happened in
//! ```
//!
//! Each check is one line of the report: what was tried, and what came of it. A check that cannot run is reported as
//! skipped with the reason, never as passed.

mod compare;
mod device;
mod file;
mod golden;
mod life;
mod pictures;
mod session;
mod subject;
#[cfg(unix)]
mod watch;

use crate::{Search, error::clean, vetted::vetted};
use backend_api::{AbiError, BackendBox, Code, ModelSource, Param};
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    time::Instant,
};

#[cfg(unix)]
pub use watch::{report_to_parent, watch};

/// What to check a backend with.
pub struct Plan<'a> {
    /// Trust, hardware, and the command for a process of its own; the checks themselves run in this process.
    pub search: Search,
    /// The device; `None` = its best offer.
    pub device: Option<String>,
    /// Options for `open`.
    pub options: Vec<Param>,
    /// The model to load.
    pub source: ModelSource,
    /// A backend to compare with on the same model, and its name; usually the CPU backend.
    pub reference: Option<(&'a str, &'a BackendBox)>,
    /// Answers of diffusers for this model: a safetensors file that `tests/golden/conformance.py` writes.
    pub golden: Option<PathBuf>,
    /// The largest difference from the reference, relative to the reference's largest value. 1e-3 suits `f32`, 2e-2 half
    /// precision.
    pub tolerance: f32,
    /// How often the model is loaded and dropped to look for leaks. 0 = not.
    pub loads: u32,
}

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Check {
    /// What was tried: stable, for programs.
    pub name: String,
    /// What came of it.
    pub verdict: Verdict,
    /// A figure, or what was wrong.
    pub detail: String,
    /// How long it took.
    pub millis: u64,
}

/// The lines of a run, in order.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// The file's name.
    pub file: String,
    /// The plugin's id; empty when it could not be asked.
    pub id: String,
    /// The plugin's version.
    pub version: String,
    /// The device that was used; empty when none was opened.
    pub device: String,
    /// What it was compared with.
    pub reference: String,
    /// The checks.
    pub checks: Vec<Check>,
}

impl Report {
    /// Whether a device was opened, a model ran on it, and no check failed.
    pub fn passed(&self) -> bool {
        let ran = self.checks.iter().any(|c| c.name == session::PREDICTS && c.verdict == Verdict::Passed);
        ran && self.checks.iter().all(|c| c.verdict != Verdict::Failed)
    }
}

/// What a run tells while it goes on.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A check begins: its name.
    Begins(&'a str),
    /// A check ended: its line.
    Ends(&'a Check),
}

/// What a check answers: a detail, or why it failed or could not run.
type Outcome = Result<String, Trouble>;

/// Why a check did not pass.
enum Trouble {
    Wrong(String),
    NotTried(String),
}

impl From<AbiError> for Trouble {
    fn from(e: AbiError) -> Self {
        Trouble::Wrong(e.to_string())
    }
}

fn wrong<T>(why: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble::Wrong(why.into()))
}

fn not_tried<T>(why: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble::NotTried(why.into()))
}

/// Passes when a call fails with one of the codes.
fn refused<T>(result: Result<T, AbiError>, codes: &[Code]) -> Outcome {
    match result {
        Err(e) if codes.contains(&e.code) => Ok(e.message.to_string()),
        Err(e) => wrong(format!("it answered {e}")),
        Ok(_) => wrong("it answered as if all were well"),
    }
}

/// The largest difference relative to the largest value of `b`.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    let most = b.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).fold(0.0f32, |d, (a, b)| d.max((a - b).abs())) / most
}

fn close(a: &[f32], b: &[f32], tolerance: f32) -> Outcome {
    let d = difference(a, b);
    if a.len() == b.len() && d <= tolerance {
        Ok(format!("differs by {d:.1e}, allowed {tolerance:.0e}"))
    } else {
        wrong(format!("differs by {d:.1e}, allowed {tolerance:.0e}"))
    }
}

/// The report under way.
struct Run<'a> {
    report: Report,
    heard: &'a mut dyn FnMut(Event<'_>),
}

impl Run<'_> {
    /// Runs a check and adds its line; answers whether it passed.
    fn check(&mut self, name: &'static str, check: impl FnOnce() -> Outcome) -> bool {
        (self.heard)(Event::Begins(name));
        let start = Instant::now();
        let (verdict, detail) = match check() {
            Ok(detail) => (Verdict::Passed, detail),
            Err(Trouble::Wrong(detail)) => (Verdict::Failed, detail),
            Err(Trouble::NotTried(detail)) => (Verdict::Skipped, detail),
        };
        let millis = start.elapsed().as_millis() as u64;
        let line = Check { name: name.to_owned(), verdict, detail: clean(detail, 400), millis };
        (self.heard)(Event::Ends(&line));
        self.report.checks.push(line);
        verdict == Verdict::Passed
    }
}

/// Runs every check on a library in this process, and tells `heard` of each. Takes seconds on a small model, and then
/// as long as the loads for leaks take.
pub fn run(file: &Path, plan: &Plan<'_>, heard: &mut dyn FnMut(Event<'_>)) -> Report {
    let reference = plan.reference.map(|(name, _)| name.to_owned()).unwrap_or_default();
    let report = Report { file: crate::load::file_name(file), reference, ..Report::default() };
    let mut run = Run { report, heard };
    let watched = life::Watched::start();
    let Some(opened) = file::checks(&mut run, file, plan, &watched) else { return run.report };
    device::memory(&mut run, &opened.backend);
    let backend = vetted(opened.backend);
    device::checks(&mut run, &backend, plan);
    if let Some(mut subject) = session::checks(&mut run, &backend, plan) {
        pictures::checks(&mut run, &mut subject);
        golden::checks(&mut run, &mut subject, plan);
        compare::checks(&mut run, &backend, &mut subject, plan);
        let sample = life::sample(&mut subject);
        drop(subject);
        life::sessions(&mut run, &backend, plan);
        if let Ok(sample) = sample {
            life::isolated(&mut run, file, &opened.choice, plan, &sample);
            life::short_of_memory(&mut run, file, &opened.choice, opened.cpu, plan, &sample);
        }
        life::leaks(&mut run, &backend, plan);
    }
    life::ends(&mut run, backend, &watched);
    run.report
}
