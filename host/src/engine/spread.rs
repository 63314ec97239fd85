//! Which device does a job soonest, by what was measured on each.
//!
//! A device that is free takes the next job unless another one, busy as it is, would end it earlier: because it is so
//! much faster, or has the model already. Work is counted in pixels times steps; what is unknown about a device is taken
//! from its other models, or from the fastest device, so that every device is tried.

use crate::jobs::{JobId, JobSpec};
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// What a job must gain by waiting for another device: a share, and seconds.
const GAIN: (f64, f64) = (0.9, 0.05);
/// The weight of a new measurement.
const NEW: f64 = 0.3;
/// Models whose figures are kept for one device.
const MAX_MODELS: usize = 256;

/// What is known of a model on a device, in seconds.
#[derive(Debug, Clone, Copy, Default)]
struct Rate {
    /// For a million pixels and one step.
    work: Option<f64>,
    /// For loading it.
    load: Option<f64>,
}

#[derive(Debug)]
struct Running {
    job: JobId,
    models: Vec<String>,
    since: Instant,
    expected: f64,
}

/// The measurements of one device, and what runs there.
#[derive(Debug, Default)]
pub(super) struct Pace {
    models: Mutex<HashMap<String, Rate>>,
    running: Mutex<Vec<Running>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn blend(old: &mut Option<f64>, new: f64) {
    *old = Some(old.map_or(new, |old| old + NEW * (new - old)));
}

/// What a job asks of a device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Task<'j> {
    model: &'j str,
    /// In millions of pixels times steps.
    work: f64,
}

impl<'j> From<&'j JobSpec> for Task<'j> {
    fn from(spec: &'j JobSpec) -> Self {
        let pixels = f64::from(spec.width) * f64::from(spec.height) / 1e6;
        Task { model: &spec.model, work: pixels * f64::from(spec.steps.max(1)) * f64::from(spec.n.max(1)) }
    }
}

impl Pace {
    fn note(&self, model: &str, change: impl FnOnce(&mut Rate)) {
        let mut models = locked(&self.models);
        if models.len() >= MAX_MODELS && !models.contains_key(model) {
            models.clear();
        }
        change(models.entry(model.to_owned()).or_default());
    }

    /// A model was loaded.
    pub(super) fn loaded(&self, model: &str, seconds: f64) {
        self.note(model, |rate| blend(&mut rate.load, seconds));
    }

    /// A job was drawn.
    pub(super) fn drawn(&self, task: Task<'_>, seconds: f64) {
        self.note(task.model, |rate| blend(&mut rate.work, seconds / task.work));
    }

    /// A job begins.
    pub(super) fn begin<'m>(&self, job: &JobId, models: impl Iterator<Item = &'m str>, expected: f64) {
        let models = models.map(str::to_owned).collect();
        locked(&self.running).push(Running { job: job.clone(), models, since: Instant::now(), expected });
    }

    /// The models of the jobs that run, the one that began last first. One may still be on its way into memory.
    pub(super) fn running_models(&self) -> Vec<String> {
        locked(&self.running).iter().rev().flat_map(|r| r.models.iter().rev()).cloned().collect()
    }

    /// A job ended.
    pub(super) fn end(&self, job: &JobId) {
        locked(&self.running).retain(|r| r.job != *job);
    }

    /// What can be expected of the device, which runs so many jobs at a time. `holds`: its models.
    pub(super) fn outlook(&self, lanes: usize, holds: Vec<String>) -> Outlook {
        let running = locked(&self.running);
        // A job that takes longer than expected will take a while yet.
        let left = |r: &Running| {
            let gone = r.since.elapsed().as_secs_f64();
            if gone < r.expected { r.expected - gone } else { gone / 4.0 }
        };
        let wait = if running.len() < lanes { 0.0 } else { running.iter().map(left).fold(f64::INFINITY, f64::min) };
        Outlook { wait, holds, models: locked(&self.models).clone() }
    }
}

/// What can be expected of a device at one moment.
#[derive(Debug)]
pub(super) struct Outlook {
    /// Seconds until it can begin something.
    wait: f64,
    holds: Vec<String>,
    models: HashMap<String, Rate>,
}

impl Outlook {
    /// A figure of a model, or else the mean of the others.
    fn figure(&self, model: &str, which: impl Fn(&Rate) -> Option<f64>) -> Option<f64> {
        self.models.get(model).and_then(&which).or_else(|| {
            let known: Vec<f64> = self.models.values().filter_map(&which).collect();
            (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
        })
    }

    /// Whether the model is in memory.
    pub(super) fn holds(&self, model: &str) -> bool {
        self.holds.iter().any(|m| m == model)
    }

    fn load(&self, model: &str) -> f64 {
        if self.holds(model) {
            return 0.0;
        }
        self.figure(model, |r| r.load).unwrap_or(0.0)
    }

    /// Seconds from its beginning that a job takes here, when an unknown device works as fast as `fastest`.
    fn takes(&self, task: Task<'_>, fastest: f64) -> f64 {
        self.load(task.model) + self.figure(task.model, |r| r.work).unwrap_or(fastest) * task.work
    }

    /// Seconds that a job is expected to take here.
    pub(super) fn expected(&self, task: Task<'_>) -> f64 {
        self.takes(task, 0.0)
    }
}

/// Whether the device of `mine`, which is free, leaves a job to one of the others; that one has more to do from then on.
pub(super) fn leaves(mine: &Outlook, others: &mut [Outlook], task: Task<'_>) -> bool {
    let rates = others.iter().chain([mine]).filter_map(|o| o.figure(task.model, |r| r.work));
    let fastest = rates.fold(f64::INFINITY, f64::min);
    let fastest = if fastest.is_finite() { fastest } else { 0.0 };
    let here = mine.takes(task, fastest);
    let there = others.iter_mut().map(|o| (o.wait + o.takes(task, fastest), o));
    match there.min_by(|(a, _), (b, _)| a.total_cmp(b)) {
        Some((end, other)) if end < here * GAIN.0 - GAIN.1 => {
            other.wait = end;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(model: &str) -> Task<'_> {
        Task { model, work: 10.0 }
    }

    /// A device that needs so many seconds a step and to load, and is busy for so long.
    fn device(step: f64, load: f64, wait: f64, holds: &[&str]) -> Outlook {
        let pace = Pace::default();
        pace.drawn(task("a"), step * 10.0);
        pace.loaded("a", load);
        Outlook { wait, ..pace.outlook(1, holds.iter().map(|m| (*m).to_owned()).collect()) }
    }

    #[test]
    fn a_free_device_takes_what_others_would_not_end_sooner() {
        assert!(!leaves(&device(1.0, 5.0, 0.0, &["a"]), &mut [device(1.0, 5.0, 0.0, &["a"])], task("a")));
        assert!(!leaves(&device(1.0, 5.0, 0.0, &["a"]), &mut [device(0.1, 5.0, 20.0, &["a"])], task("a")));
        assert!(!leaves(&device(1.0, 5.0, 0.0, &[]), &mut [], task("a")));
    }

    #[test]
    fn a_faster_device_is_waited_for_until_it_has_too_much_to_do() {
        // 100 s here, 1 s there: a hundred jobs fit in before the slow one is the better choice.
        let mine = device(10.0, 0.0, 0.0, &["a"]);
        let mut others = [device(0.1, 0.0, 0.0, &["a"])];
        let left = (0..200).take_while(|_| leaves(&mine, &mut others, task("a"))).count();
        assert!((85..=90).contains(&left), "{left}");
    }

    #[test]
    fn a_load_counts() {
        let loaded = || device(1.0, 30.0, 8.0, &["a"]);
        assert!(leaves(&device(1.0, 30.0, 0.0, &[]), &mut [loaded()], task("a")));
        assert!(!leaves(&device(1.0, 3.0, 0.0, &[]), &mut [loaded()], task("a")));
        // A model that neither has, and of which nothing is known: by the mean of the others, so no difference.
        assert!(!leaves(&device(1.0, 3.0, 0.0, &[]), &mut [loaded()], task("b")));
    }

    #[test]
    fn a_device_without_figures_is_tried() {
        let unknown = || Pace::default().outlook(1, Vec::new());
        assert!(!leaves(&unknown(), &mut [device(1.0, 5.0, 0.0, &["a"])], task("a")));
        assert!(!leaves(&unknown(), &mut [unknown()], task("a")));
    }

    #[test]
    fn the_wait_ends_with_the_first_of_the_running_jobs() {
        let pace = Pace::default();
        let (a, b) = (JobId::random(), JobId::random());
        pace.begin(&a, ["m"].into_iter(), 100.0);
        assert_eq!(pace.outlook(2, Vec::new()).wait, 0.0);
        pace.begin(&b, ["o", "n"].into_iter(), 10.0);
        assert_eq!(pace.running_models(), ["n", "o", "m"]);
        let wait = pace.outlook(2, Vec::new()).wait;
        assert!((9.0..=10.0).contains(&wait), "{wait}");
        pace.end(&b);
        assert_eq!(pace.outlook(2, Vec::new()).wait, 0.0);
    }
}
