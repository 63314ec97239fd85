//! The soak: mixed chaos against one worker for a set time, with its memory, files, threads and answers watched.
//!
//! [`run`] answers with a [`Verdict`]. Nothing in it may be believed before it has been seen to fail: run against the
//! plugin `rogue`, which loses 1 MiB a job, it must say so.

mod chaos;
mod verdict;

pub use verdict::{Line, Verdict};

use crate::{Client, Random, Worker, meter};
use chaos::{Chaos, ROLES};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};
use verdict::{Books, End, Sample};

/// Between two looks at the process.
const LOOK: Duration = Duration::from_millis(500);

/// How a soak is made and judged.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Where it begins: the same number sends the same requests.
    pub seed: u64,
    /// Whether times are held to a bound: for a machine that does nothing else.
    pub quiet: bool,
}

/// Lets every kind of client loose on a worker for `time`. `models`: the names that may be loaded and drawn with.
/// `say` is told now and then how it goes.
pub fn run(worker: &Worker, models: &[String], time: Duration, plan: &Plan, say: &dyn Fn(&str)) -> Verdict {
    let idle = meter::usage(worker.pid());
    let chaos = Arc::new(Chaos::new(worker.client(), worker.url.clone(), models.to_vec()));
    let threads: Vec<_> = ROLES
        .iter()
        .enumerate()
        .map(|(i, (name, role))| {
            let (chaos, mut random) = (chaos.clone(), Random::new(plan.seed.wrapping_mul(31) + i as u64 + 1));
            std::thread::spawn(move || {
                while !chaos.is_over() {
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| role(&chaos, &mut random))) {
                        chaos.surprise(name, panic.as_ref());
                    }
                }
            })
        })
        .collect();
    let (start, mut samples, mut told) = (Instant::now(), Vec::new(), Instant::now());
    while start.elapsed() < time && !chaos.has_too_many_surprises() {
        std::thread::sleep(LOOK);
        let usage = meter::usage(worker.pid());
        samples.push(Sample { at: start.elapsed(), usage, jobs: chaos.jobs() });
        if told.elapsed() > Duration::from_secs(60) {
            told = Instant::now();
            say(&format!(
                "{:>4} s  {:>7.1} MiB  {:>4} files  {:>3} threads  {:>6} jobs  {} surprises",
                start.elapsed().as_secs(),
                usage.rss_kib as f64 / 1024.0,
                usage.fds,
                usage.threads,
                chaos.jobs(),
                chaos.surprises().len()
            ));
        }
    }
    chaos.stop();
    for thread in threads {
        // A role's panic was caught and kept.
        let _ = thread.join();
    }
    let books = close_books(&chaos.client);
    let settled = settle(worker, idle.fds);
    Verdict::of(&End { idle, settled, books }, &samples, &chaos, plan.quiet, &worker.log_text())
}

/// Waits until every job has ended, at most two minutes; what the books say then.
fn close_books(client: &Client) -> Books {
    let until = Instant::now() + Duration::from_secs(120);
    loop {
        let books = catch_unwind(AssertUnwindSafe(|| Books::read(client))).unwrap_or_default();
        if books.are_closed() || books == Books::default() || Instant::now() > until {
            return books;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Waits until the jobs are done and the connections closed, at most a minute.
fn settle(worker: &Worker, fds: usize) -> meter::Usage {
    let until = Instant::now() + Duration::from_secs(60);
    let client = worker.client();
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let gone = meter::usage(worker.pid()) == meter::Usage::default();
        if gone || Instant::now() > until {
            return meter::usage(worker.pid());
        }
        let waiting = catch_unwind(AssertUnwindSafe(|| client.get("/v1/queue").json()["waiting"].as_u64()));
        // Our own connection to ask with is one.
        if matches!(waiting, Ok(Some(0))) && meter::usage(worker.pid()).fds <= fds + 2 {
            return meter::usage(worker.pid());
        }
    }
}
