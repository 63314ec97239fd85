//! Checks over the life of objects: drops, leaks, threads, a process of its own, a lack of memory.

use super::{
    Outcome, Plan, Run, Trouble, close, not_tried,
    subject::{Odd, Subject, quiet},
    wrong,
};
use crate::{Catalog, Choice, Isolate, Limits, Search, host_ref};
use backend_api::{AbiError, BackendBox, Code, HostRef, LogLevel};
use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// What is watched from before the device is opened until it is gone.
pub(super) struct Watched {
    threads: Option<usize>,
    /// Lines about panics that the author's guard caught: in a drop nobody else hears of them.
    panics: Arc<Mutex<Vec<String>>>,
}

impl Watched {
    pub(super) fn start() -> Self {
        Watched { threads: threads(), panics: Arc::default() }
    }

    /// The host's services for the device.
    pub(super) fn host(&self) -> HostRef {
        let panics = Arc::clone(&self.panics);
        host_ref(move |level, target, message| {
            if level == LogLevel::ERROR && target == "panic" {
                panics.lock().unwrap_or_else(PoisonError::into_inner).push(message.to_owned());
            }
        })
    }
}

/// Threads of this process; `None` where the kernel does not say.
fn threads() -> Option<usize> {
    std::fs::read_dir("/proc/self/task").ok().map(|tasks| tasks.count())
}

/// Resident memory that is no file's, in bytes; `None` where the kernel does not say. Pages of weight files that the
/// kernel maps are not counted: it takes them back by itself.
fn resident() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = statm.split_whitespace().skip(1).map_while(|n| n.parse::<u64>().ok());
    Some((pages.next()? - pages.next()?) * 4096)
}

/// A step and a picture, to compare other ways of running with.
pub(super) struct Sample(Vec<f32>);

pub(super) fn sample(s: &mut Subject) -> Result<Sample, AbiError> {
    let cond = s.encode(&[320, 1125, 539], Odd::Nothing)?;
    let x = s.latents(1, 1);
    let mut all = s.predict(&x, &[(cond, 500.0)], &quiet())?;
    all.extend(s.decode(&x, &quiet())?);
    s.free(cond);
    Ok(Sample(all))
}

/// Several sessions of one model, dropped in every order.
pub(super) fn sessions(run: &mut Run<'_>, backend: &BackendBox, plan: &Plan<'_>) {
    run.check("keeps sessions apart, in any order of drops", || {
        let mut results = Vec::new();
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let model = backend.load(&plan.source, &quiet()).into_result()?;
            let mut parts = [Some(Subject::open(&model)?), Some(Subject::open(&model)?)];
            let mut model = Some(model);
            // A text of one session is none of the other's: ids may be the same, meanings not.
            let mut conds = Vec::new();
            for (part, words) in parts.iter_mut().flatten().zip([&[320u32, 1125, 539][..], &[2368]]) {
                conds.push(part.encode(words, Odd::Nothing)?);
            }
            for gone in order {
                for (i, part) in parts.iter_mut().enumerate() {
                    if let Some(part) = part {
                        let x = part.latents(1, 1);
                        results.push((i, part.predict(&x, &[(conds[i], 500.0)], &quiet())?));
                    }
                }
                match gone {
                    0 => model = None,
                    i => parts[i - 1] = None,
                }
            }
            drop((model, parts));
        }
        let first = |i| results.iter().find(|(j, _)| *j == i).map(|(_, out)| out);
        if results.iter().any(|(i, out)| first(*i) != Some(out)) {
            return wrong("what one session answers depends on another");
        }
        if first(0) == first(1) { wrong("one session takes the other's text") } else { Ok(String::new()) }
    });
}

/// Opens the plugin in a process of its own, as the worker does by default. `room`: bytes it may take after that.
fn child(file: &Path, choice: &Choice, plan: &Plan<'_>, room: Option<u64>) -> Result<BackendBox, Trouble> {
    let Some(command) = &plan.search.child else { return not_tried("no command for a process was given") };
    let limits = Limits { room, ..Limits::default() };
    let search =
        Search { isolate: Isolate::Always, child: Some(command.clone()), cache: None, limits, ..plan.search.clone() };
    let opened = Catalog::of_file(&search, file).open(choice, &|_| host_ref(|_, _, _| ()));
    let opened = opened.or_else(|e| wrong(e.to_string()))?;
    if opened.isolated { Ok(opened.backend) } else { not_tried("this system isolates no plugins") }
}

pub(super) fn isolated(run: &mut Run<'_>, file: &Path, choice: &Choice, plan: &Plan<'_>, here: &Sample) {
    run.check("works in a process of its own", || {
        let backend = child(file, choice, plan, None)?;
        let there = sample(&mut Subject::load(&backend, &plan.source)?)?;
        close(&there.0, &here.0, 1e-5)
    });
}

/// A process that may take less memory than the model needs: the backend answers `OOM`, or at worst its process ends.
pub(super) fn short_of_memory(
    run: &mut Run<'_>,
    file: &Path,
    choice: &Choice,
    cpu: bool,
    plan: &Plan<'_>,
    here: &Sample,
) {
    run.check("answers a lack of memory", || {
        if !cpu {
            return not_tried("the memory of this device cannot be limited from outside");
        }
        for room in [8u64 << 20, 1 << 20] {
            let backend = child(file, choice, plan, Some(room))?;
            let tried = Subject::load(&backend, &plan.source).and_then(|mut s| sample(&mut s));
            match tried {
                Ok(there) if there.0 == here.0 => {}
                Ok(_) => return wrong(format!("with {} MiB it answers something else", room >> 20)),
                Err(e) if e.code == Code::OOM => return Ok(format!("with {} MiB it answers OOM", room >> 20)),
                Err(e) if [Code::WORKER_DIED, Code::PANICKED].contains(&e.code) => {
                    let how = if e.code == Code::PANICKED { "it panics" } else { "its process ends" };
                    return Ok(format!("with {} MiB {how}, which costs one job; OOM is kinder", room >> 20));
                }
                Err(e) => return wrong(format!("with {} MiB it answers {e}; the code is OOM", room >> 20)),
            }
        }
        not_tried("1 MiB was enough for this model")
    });
}

/// Loads and drops the model again and again and watches this process's memory and threads.
pub(super) fn leaks(run: &mut Run<'_>, backend: &BackendBox, plan: &Plan<'_>) {
    let life = || -> Result<(), AbiError> {
        let mut subject = Subject::load(backend, &plan.source)?;
        let cond = subject.encode(&[1, 2], Odd::Nothing)?;
        let x = subject.latents(1, 1);
        subject.predict(&x, &[(cond, 500.0)], &quiet())?;
        subject.decode(&x, &quiet())?;
        subject.free(cond);
        Ok(())
    };
    let mut left = None;
    run.check("does not leak", || {
        if plan.loads == 0 {
            return not_tried("not asked for");
        }
        // The allocator and lazily made tables settle first.
        for _ in 0..(plan.loads / 5).clamp(3, 20) {
            life()?;
        }
        let Some(before) = resident() else { return not_tried("this system does not tell") };
        let crew = threads();
        for _ in 0..plan.loads {
            life()?;
        }
        left = crew.zip(threads()).map(|(before, after)| after.saturating_sub(before));
        let grown = resident().unwrap_or(before).saturating_sub(before);
        let words = format!("{} KiB more than {} MiB after {} loads", grown >> 10, before >> 20, plan.loads);
        // One percent, or a MiB where a percent is less than the allocator's own play.
        if grown <= (before / 100).max(1 << 20) { Ok(words) } else { wrong(words) }
    });
    run.check("leaves no threads behind", || match left {
        None => not_tried("models were not loaded again and again, or this system does not tell"),
        Some(0) => Ok(String::new()),
        Some(left) => wrong(format!("{left} more after {} loads", plan.loads)),
    });
}

/// The end of the device, of its threads, and what drops had to say.
pub(super) fn ends(run: &mut Run<'_>, backend: BackendBox, watched: &Watched) {
    run.check("drops without a panic", || {
        drop(backend);
        let panics = watched.panics.lock().unwrap_or_else(PoisonError::into_inner);
        panics.first().map_or(Ok(String::new()), |line| wrong(line.clone()))
    });
    run.check("joins its threads", || joined(watched));
}

fn joined(watched: &Watched) -> Outcome {
    // The kernel forgets a joined thread a moment later.
    std::thread::sleep(Duration::from_millis(50));
    let (Some(before), Some(after)) = (watched.threads, threads()) else {
        return not_tried("this system does not tell");
    };
    match after.saturating_sub(before) {
        0 => Ok(String::new()),
        // A pool of a thread per core or two that lives as long as the process is usual, and harmless.
        left if left <= 2 * std::thread::available_parallelism().map_or(1, usize::from) => {
            Ok(format!("{left} threads of a pool stay"))
        }
        left => wrong(format!("{left} threads are left")),
    }
}
