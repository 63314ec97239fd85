//! `sd-worker backend check`: the conformance kit on the command line.
//!
//! The checks run in a process of their own, this same program with `--inside`, so that a library that crashes or hangs
//! fails one check and the report is still told.

use super::terminal::say;
use crate::{
    app,
    config::{BackendArgs, Isolate, ModelArgs},
    fault::{Fault, FaultCode},
    library::Library,
};
use backend_api::{ModelSource, Param};
use clap::{Args, ValueEnum};
use sd_plugins::{
    Opened, Search,
    conformance::{self, Check, Event, Plan, Report, Verdict},
};
use std::path::{Path, PathBuf};

/// Loads of `--quick`.
const QUICK: u32 = 40;

/// The file beside a model's parts that holds diffusers' answers for it.
const GOLDEN: &str = "conformance.safetensors";

/// The conformance kit.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The plugin's file
    pub(crate) file: PathBuf,
    /// Largest difference from the reference, relative to its largest value: 0.001 suits f32, 0.02 half precision
    #[arg(long, default_value_t = 0.001)]
    pub(crate) tolerance: f32,
    /// How often the model is loaded and dropped to look for leaks
    #[arg(long, default_value_t = 1000)]
    pub(crate) loads: u32,
    /// A first look: 40 loads instead
    #[arg(long, conflicts_with = "loads")]
    pub(crate) quick: bool,
    /// The backend to compare with, or `none`
    #[arg(long, default_value = "candle-cpu")]
    pub(crate) reference: String,
    /// How the report is printed
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) report: ReportFormat,
    /// Longest time for one check, in seconds; a longer one is taken for a hang
    #[arg(long, default_value_t = 1800)]
    pub(crate) patience_secs: u64,
    /// The device to open: the plugin's best offer without this
    #[arg(long)]
    pub(crate) device: Option<String>,
    /// An option for the plugin as `name=value`; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_delimiter = ',', value_parser = crate::config::pair)]
    pub(crate) backend_option: Vec<String>,
    /// A folder with the backend to compare with; without it, where the worker itself looks
    #[arg(long, env = "SD_WORKER_PLUGIN_DIR", value_delimiter = ':')]
    pub(crate) plugin_dir: Vec<PathBuf>,
    /// Runs the checks in this process, for the command that started it
    #[arg(long, hide = true)]
    pub(crate) inside: bool,
    #[command(flatten)]
    pub(crate) models: ModelArgs,
}

/// How a report is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    /// A line for each check
    Text,
    /// One JSON object
    Json,
    /// Tables for a document: the sum, then every check
    Markdown,
}

pub(super) fn run(args: &CheckArgs) -> Result<(), Fault> {
    let passed = |report: &Report| {
        if report.passed() { Ok(()) } else { Err(Fault::new(FaultCode::BackendError, "the plugin does not conform")) }
    };
    #[cfg(unix)]
    if args.inside {
        // The parent judges the report.
        inside(args);
        return Ok(());
    }
    let mut heard = |event: Event<'_>| {
        if let (Event::Ends(check), ReportFormat::Text) = (event, args.report) {
            line(check);
        }
    };
    #[cfg(unix)]
    let report = {
        let exe = std::env::current_exe().map_err(|e| Fault::internal(e.to_string()))?;
        let mut command = std::process::Command::new(exe);
        command.args(std::env::args_os().skip(1)).arg("--inside");
        let patience = std::time::Duration::from_secs(args.patience_secs.max(1));
        conformance::watch(command, patience, &mut heard).map_err(|e| Fault::internal(e.to_string()))?
    };
    #[cfg(not(unix))]
    let report = in_process(args, &mut heard)?;
    match args.report {
        ReportFormat::Text => say(&format!("\n{}", sum(&report, ", "))),
        ReportFormat::Markdown => markdown(&report),
        ReportFormat::Json => {
            say(&serde_json::to_string_pretty(&report).map_err(|e| Fault::internal(e.to_string()))?);
        }
    }
    passed(&report)
}

/// In the kit's own process.
#[cfg(unix)]
fn inside(args: &CheckArgs) {
    conformance::report_to_parent(|heard| {
        in_process(args, heard).unwrap_or_else(|e| {
            let check =
                Check { name: "prepares".to_owned(), verdict: Verdict::Failed, detail: e.to_string(), millis: 0 };
            heard(Event::Ends(&check));
            let file = args.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Report { file, checks: vec![check], ..Report::default() }
        })
    });
}

fn in_process(args: &CheckArgs, heard: &mut dyn FnMut(Event<'_>)) -> Result<Report, Fault> {
    let (library, named) = Library::new(app::model_places(&args.models), args.models.model.as_deref())?;
    let source = library.resolve(&named.unwrap_or_else(|| app::BUNDLED_MODEL.to_owned()))?.source();
    let reference = reference(args)?;
    let child = std::env::current_exe().ok().map(|exe| vec![exe.into_os_string(), "plugin-child".into()]);
    let options = args.backend_option.iter().filter_map(|o| o.split_once('='));
    let plan = Plan {
        search: Search { child, ..Search::default() },
        device: args.device.clone(),
        options: options.map(|(k, v)| Param::new(k, v)).collect(),
        golden: golden(&source),
        source,
        reference: reference.as_ref().map(|r| (r.id.as_str(), &r.backend)),
        tolerance: args.tolerance,
        loads: if args.quick { QUICK } else { args.loads },
    };
    Ok(conformance::run(&args.file, &plan, heard))
}

/// Opens the backend to compare with. None is an answer too: when it is the very file under test, or not there.
fn reference(args: &CheckArgs) -> Result<Option<Opened>, Fault> {
    if args.reference == "none" {
        return Ok(None);
    }
    let wanted = BackendArgs {
        plugin_dir: args.plugin_dir.clone(),
        plugin_manifest: None,
        backend: Some(args.reference.clone()),
        device: None,
        backend_option: Vec::new(),
        isolate: Isolate::Never,
        plugin_memory_mib: None,
    };
    let (catalog, choice) = app::scan(&wanted, None);
    let chosen = catalog.report(&choice).plugins.into_iter().find(|p| p.state == sd_plugins::State::Chosen);
    let itself = |path: &Path| std::fs::canonicalize(&args.file).is_ok_and(|file| file == path);
    if chosen.is_none_or(|plugin| itself(&plugin.path)) {
        return Ok(None);
    }
    Ok(Some(catalog.open(&choice, &|id| sd_plugins::tracing_host(id))?))
}

/// The golden file beside the model's parts, where there is one.
fn golden(source: &ModelSource) -> Option<PathBuf> {
    let file = Path::new(source.files.first()?.value.as_str());
    let path = file.parent()?.parent()?.join(GOLDEN);
    path.is_file().then_some(path)
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "passed",
        Verdict::Failed => "FAILED",
        Verdict::Skipped => "skipped",
    }
}

fn line(check: &Check) {
    say(&format!("{:<8} {:<45} {:>6} ms  {}", word(check.verdict), check.name, check.millis, check.detail));
}

/// The report in a line: what, where, beside what, how many of each verdict.
fn sum(report: &Report, between: &str) -> String {
    let count = |verdict| report.checks.iter().filter(|c| c.verdict == verdict).count();
    let name = if report.id.is_empty() { report.file.clone() } else { format!("{} {}", report.id, report.version) };
    let or = |text: &str, other: &str| if text.is_empty() { other.to_owned() } else { text.to_owned() };
    let counts = [Verdict::Passed, Verdict::Failed, Verdict::Skipped].map(|v| format!("{} {}", count(v), word(v)));
    let parts = [
        name,
        or(&report.device, "no device"),
        format!("beside {}", or(&report.reference, "no other backend")),
        counts.join(", "),
    ];
    parts.join(between)
}

fn markdown(report: &Report) {
    say(&format!("| {} |\n", sum(report, " | ")));
    say("| check | | |\n|---|---|---|");
    for check in &report.checks {
        let detail = check.detail.replace('|', "\\|");
        say(&format!("| {} | {} | {detail} |", check.name, word(check.verdict)));
    }
}
