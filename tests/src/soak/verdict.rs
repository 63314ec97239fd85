//! What the samples say: a line for each bound, and whether all of them hold.

use super::chaos::Chaos;
use crate::{
    Client,
    meter::{Usage, quantile},
};
use std::{fmt, time::Duration};

/// The process at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) at: Duration,
    pub(super) usage: Usage,
    /// Jobs taken by then.
    pub(super) jobs: usize,
}

/// What the worker's own books say of jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Books {
    accepted: u64,
    ended: u64,
    /// Jobs that have not ended, as the list of jobs tells them.
    open: Vec<String>,
}

impl Books {
    pub(super) fn read(client: &Client) -> Books {
        let text = String::from_utf8_lossy(&client.get("/metrics").body).into_owned();
        let sum = |name: &str| -> u64 {
            let values =
                text.lines().filter(|l| l.starts_with(name)).filter_map(|l| l.rsplit(' ').next()?.parse().ok());
            values.map(|v: f64| v as u64).sum()
        };
        let (accepted, ended) = (sum("sd_worker_jobs_accepted_total"), sum("sd_worker_jobs_finished_total"));
        let lists = ["queued", "running"].map(|state| client.get(&format!("/v1/jobs?status={state}")).json());
        let open = lists.iter().flat_map(|list| list["data"].as_array().cloned().unwrap_or_default());
        Books { accepted, ended, open: open.map(|job| job.to_string()).collect() }
    }

    /// Whether every job has ended that was accepted.
    pub(super) fn are_closed(&self) -> bool {
        self.accepted > 0 && self.ended == self.accepted && self.open.is_empty()
    }
}

/// The process before and after, and its books at the end.
pub(super) struct End {
    pub(super) idle: Usage,
    pub(super) settled: Usage,
    pub(super) books: Books,
}

/// The first part of a run, in which caches, pools and the allocator fill up.
const WARM_UP: f64 = 0.3;
/// What the mean of resident memory may move between two parts of a run without anything being lost, in KiB.
const NOISE_KIB: f64 = 8.0 * 1024.0;
/// What resident memory may grow in an hour, in percent.
const SLOPE_PERCENT: f64 = 0.1;
/// What may be lost by each job, in KiB, before it counts as a leak (a run of 1,000 jobs hides 8 MiB in the noise).
const LEAK_KIB: f64 = 16.0;

/// One figure and its bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What was measured.
    pub what: &'static str,
    /// The figure.
    pub figure: String,
    /// What it is held to; empty for what is only told.
    pub bound: String,
    /// Whether it holds.
    pub holds: bool,
}

/// The result of a soak.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// All figures.
    pub lines: Vec<Line>,
    /// What went otherwise than it may.
    pub surprises: Vec<String>,
}

impl Verdict {
    /// Whether every bound holds.
    pub fn holds(&self) -> bool {
        self.lines.iter().all(|l| l.holds)
    }

    /// Whether the bound of this figure holds.
    pub fn line_holds(&self, what: &str) -> bool {
        self.lines.iter().filter(|l| l.what == what).all(|l| l.holds)
    }

    pub(super) fn of(end: &End, samples: &[Sample], chaos: &Chaos, quiet: bool, log: &str) -> Verdict {
        let End { idle, settled, books } = end;
        let mut lines = Vec::new();
        let mut line = |what, figure: String, bound: &str, holds| {
            lines.push(Line { what, figure, bound: bound.to_owned(), holds });
        };
        let warm = &samples[((samples.len() as f64 * WARM_UP) as usize).min(samples.len())..];
        let (first, last) = (part(warm, 0.0, 0.34), part(warm, 0.66, 1.0));
        let growth = mean(last, |u| u.rss_kib) - mean(first, |u| u.rss_kib);
        let apart = middle(last, |s| s.at.as_secs_f64()) - middle(first, |s| s.at.as_secs_f64());
        let jobs = middle(last, |s| s.jobs as f64) - middle(first, |s| s.jobs as f64);
        let allowed = NOISE_KIB + mean(first, |u| u.rss_kib) * SLOPE_PERCENT / 100.0 * apart / 3600.0;
        let restarts = usize::from(*settled == Usage::default());
        line("restarts", restarts.to_string(), "0", restarts == 0);
        line("surprises", chaos.surprises().len().to_string(), "0", chaos.surprises().is_empty());
        let panics = log.matches("panicked").count();
        line("panics in the log", panics.to_string(), "0", panics == 0);
        line("jobs taken", chaos.jobs().to_string(), "at least 1", chaos.jobs() > 0);
        line(
            "jobs that ended, of those accepted",
            format!(
                "{} of {}{}",
                books.ended,
                books.accepted,
                books.open.iter().map(|j| format!("; {j:.300}")).collect::<String>()
            ),
            "all",
            books.are_closed(),
        );
        line(
            "memory growth",
            format!(
                "{:+.1} MiB in {apart:.0} s ({:.1} to {:.1} MiB)",
                growth / 1024.0,
                mean(first, |u| u.rss_kib) / 1024.0,
                mean(last, |u| u.rss_kib) / 1024.0
            ),
            &format!("{:.1} MiB: {SLOPE_PERCENT} %/h and {:.0} MiB of noise", allowed / 1024.0, NOISE_KIB / 1024.0),
            growth <= allowed,
        );
        let leak = growth / jobs.max(1.0);
        line("memory growth per job", format!("{leak:+.2} KiB"), &format!("{LEAK_KIB} KiB"), leak <= LEAK_KIB);
        let most = samples.iter().map(|s| s.usage.rss_kib).max().unwrap_or(0);
        line(
            "memory before, most, after the end",
            [idle.rss_kib, most, settled.rss_kib].map(|kib| format!("{:.1} MiB", kib as f64 / 1024.0)).join(", "),
            "",
            true,
        );
        line(
            "files after the end",
            format!("{} (before: {})", settled.fds, idle.fds),
            "before + 8",
            settled.fds <= idle.fds + 8,
        );
        line(
            "threads after the end",
            format!("{} (before: {})", settled.threads, idle.threads),
            "before + 16",
            // The runtime's blocking threads go after ten idle seconds.
            settled.threads <= idle.threads + 16,
        );
        let (fds, later) = (mean(first, |u| u.fds as u64), mean(last, |u| u.fds as u64));
        line("files in the first and last third", format!("{fds:.0}, {later:.0}"), "+ 20", later <= fds + 20.0);
        let (threads, later) = (mean(first, |u| u.threads as u64), mean(last, |u| u.threads as u64));
        line("threads in the first and last third", format!("{threads:.0}, {later:.0}"), "+ 8", later <= threads + 8.0);
        for (what, times) in chaos.times() {
            let third = |n: usize| times.chunks(times.len().div_ceil(3).max(1)).nth(n).unwrap_or_default();
            let (early, late) = (quantile(third(0), 0.99), quantile(third(2), 0.99));
            // Other programs on a machine move these more than the worker does.
            line(
                what,
                format!(
                    "{} times, p50 {:.1} ms, p99 {early:.1} ms in the first third, {late:.1} ms in the last",
                    times.len(),
                    quantile(&times, 0.5)
                ),
                if quiet { "4 × + 50 ms" } else { "" },
                !quiet || late <= 4.0 * early + 50.0,
            );
        }
        let outcomes: Vec<String> = chaos.outcomes().iter().map(|(what, n)| format!("{what} {n}")).collect();
        line("what went on", outcomes.join(", "), "", true);
        Verdict { lines, surprises: chaos.surprises() }
    }
}

fn part(samples: &[Sample], from: f64, to: f64) -> &[Sample] {
    let at = |part: f64| ((samples.len() as f64 * part) as usize).min(samples.len());
    &samples[at(from)..at(to)]
}

fn middle(samples: &[Sample], value: impl Fn(&Sample) -> f64) -> f64 {
    samples.iter().map(value).sum::<f64>() / samples.len().max(1) as f64
}

fn mean(samples: &[Sample], value: impl Fn(&Usage) -> u64) -> f64 {
    middle(samples, |s| value(&s.usage) as f64)
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            let mark = if line.bound.is_empty() {
                "    "
            } else if line.holds {
                "ok  "
            } else {
                "FAIL"
            };
            write!(f, "{mark}  {:<36} {}", line.what, line.figure)?;
            if !line.bound.is_empty() {
                write!(f, "  [{}]", line.bound)?;
            }
            writeln!(f)?;
        }
        for surprise in self.surprises.iter().take(10) {
            writeln!(f, "      surprise: {surprise}")?;
        }
        Ok(())
    }
}
