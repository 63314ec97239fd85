//! The checks themselves.

use super::{
    Outcome, Plan, Report, Trouble,
    subject::{Odd, Subject, noise, quiet},
};
use crate::{Cancel, Catalog, Choice, Search, control};
use backend_api::{AbiError, BackendBox, Code, ModelSource, abi_stable::std_types::RVec, find};
use std::{path::Path, time::Instant};

fn wrong<T>(why: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble::Wrong(why.into()))
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

pub(super) fn probe(search: &Search, file: &Path, first: &Catalog) -> Outcome {
    let offers = |catalog: &Catalog| {
        let report = catalog.report(&Choice::default());
        let offers = report.plugins.into_iter().flat_map(|p| p.offers);
        offers.map(|o| format!("{} {} {}", o.device, o.score, o.why)).collect::<Vec<_>>()
    };
    let again = Search { cache: None, ..search.clone() };
    let found = offers(first);
    if offers(&Catalog::of_file(&again, file)) != found {
        return wrong("it answers differently when asked twice");
    }
    let none = Search { hardware: Some(Vec::new()), cache: None, ..search.clone() };
    if !offers(&Catalog::of_file(&none, file)).is_empty() {
        return wrong("it claims devices that are not in the list");
    }
    if found.iter().any(|o| o.ends_with(' ')) { wrong("an offer gives no reason") } else { Ok(found.join("; ")) }
}

/// Checks of the opened device.
pub(super) fn device(report: &mut Report, backend: &BackendBox, plan: &Plan<'_>) {
    report.check("inspects", || {
        let plan = backend.inspect(&plan.source).into_result()?;
        Ok(format!("{} MiB of weights, {} MiB at most", plan.weight_bytes >> 20, plan.peak_bytes >> 20))
    });
    report.check("answers memory from any thread", || {
        let ask = || {
            (0..100).map(|_| backend.memory()).for_each(|report| {
                std::hint::black_box(report);
            })
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().for_each(|t| drop(t.join()));
        });
        Ok(format!("{} MiB in all", backend.memory().device_total >> 20))
    });
    report.check("refuses a model with a broken config", || {
        let mut broken = plan.source.clone();
        broken.configs.iter_mut().for_each(|c| c.value = "{\"broken".into());
        if broken.configs.is_empty() {
            return Err(Trouble::NotTried("the model has no config".to_owned()));
        }
        refused(backend.load(&broken, &quiet()).into_result(), &[Code::INVALID, Code::DATA_LOSS, Code::UNSUPPORTED])
    });
    report.check("refuses a model with missing weights", || {
        let mut broken: ModelSource = plan.source.clone();
        if broken.files.is_empty() {
            return Err(Trouble::NotTried("the model has no weights".to_owned()));
        }
        broken.files = RVec::new();
        refused(backend.load(&broken, &quiet()).into_result(), &[Code::INVALID, Code::NOT_FOUND, Code::UNSUPPORTED])
    });
    report.check("stops a load when cancelled", || {
        let cancel = Cancel::new();
        cancel.cancel();
        let ctl = control(&cancel, |_, _, _| ());
        refused(backend.load(&plan.source, &ctl).into_result(), &[Code::CANCELLED])
    });
}

/// Checks of the loaded model.
pub(super) fn model(report: &mut Report, backend: &BackendBox, plan: &Plan<'_>) {
    let mut loaded = None;
    report.check("loads the model", || {
        let start = Instant::now();
        let subject = Subject::load(backend, &plan.source)?;
        let words = format!(
            "{} channels, factor {}, {} encoders, up to {} items, {} ms",
            subject.channels(),
            subject.desc.vae_factor,
            subject.desc.encoders.len(),
            subject.desc.max_batch,
            start.elapsed().as_millis()
        );
        loaded = Some(subject);
        Ok(words)
    });
    let Some(mut s) = loaded else { return };
    let mut conds = Vec::new();
    report.check("encodes texts", || {
        for words in [&[320u32, 1125, 539][..], &[320, 2368], &[]] {
            conds.push(s.encode(words, Odd::Nothing)?);
        }
        if conds.windows(2).any(|w| w[0] == w[1]) { wrong("two texts share an id") } else { Ok(format!("{conds:?}")) }
    });
    report.check("refuses tokens outside the vocabulary", || refused(s.encode(&[1], Odd::Token), &[Code::INVALID]));
    report.check("refuses a weight too few", || refused(s.encode(&[1], Odd::Weights), &[Code::INVALID]));
    let [a, b, ..] = conds[..] else { return };
    predictions(report, &mut s, a, b);
    pictures(report, &mut s);
    report.check("forgets a freed text", || {
        s.free(a);
        s.free(u64::MAX);
        let x = s.latents(1, 1);
        refused(s.predict(&x, &[(a, 500.0)], &quiet()), &[Code::INVALID, Code::NOT_FOUND])
    });
    match plan.reference {
        Some(reference) => compare(report, &mut s, reference, plan),
        None => {
            report.check("agrees with the reference", || Err(Trouble::NotTried("no reference was given".to_owned())));
        }
    }
}

fn predictions(report: &mut Report, s: &mut Subject, a: u64, b: u64) {
    let x = s.latents(1, 1);
    let mut single = Vec::new();
    report.check("predicts", || {
        let start = Instant::now();
        single = s.predict(&x, &[(a, 500.0)], &quiet())?;
        Ok(format!("{:.1} ms", start.elapsed().as_secs_f64() * 1e3))
    });
    if single.is_empty() {
        return;
    }
    report.check("predicts the same twice", || {
        let again = s.predict(&x, &[(a, 500.0)], &quiet())?;
        if again == single {
            Ok("every bit".to_owned())
        } else {
            wrong(format!("differs by {:.1e}", difference(&again, &single)))
        }
    });
    report.check("heeds the text and the timestep", || {
        for other in [(b, 500.0), (a, 20.0)] {
            if s.predict(&x, &[other], &quiet())? == single {
                return wrong("another text or timestep changes nothing");
            }
        }
        Ok(String::new())
    });
    report.check("predicts a batch as single items", || {
        if s.desc.max_batch < 2 {
            return Err(Trouble::NotTried("it takes one item at a time".to_owned()));
        }
        let mixed = find(&s.desc.params, "mixed_batch") != Some("0");
        let items = [(a, 500.0), (b, if mixed { 20.0 } else { 500.0 })];
        let pair = s.latents(2, 2);
        let together = s.predict(&pair, &items, &quiet())?;
        let mut apart = Vec::new();
        for (x, item) in pair.chunks_exact(s.item()).zip(items) {
            apart.extend(s.predict(x, &[item], &quiet())?);
        }
        // Sums in another order: a few units in the last place.
        close(&together, &apart, 1e-4)
    });
    report.check("refuses an unknown text", || {
        refused(s.predict(&x, &[(u64::MAX - 1, 500.0)], &quiet()), &[Code::INVALID, Code::NOT_FOUND])
    });
    report.check("refuses another number of channels", || {
        let (c, side) = (s.channels() + 1, s.side as u64);
        let x = noise(3, c * s.side * s.side);
        refused(s.predict_shaped(&x, [1, c as u64, side, side], &[(a, 500.0)], &quiet()), &[Code::INVALID])
    });
    report.check("stops or ends a cancelled step", || {
        let cancel = Cancel::new();
        cancel.cancel();
        match s.predict(&x, &[(a, 500.0)], &control(&cancel, |_, _, _| ())) {
            Ok(_) => Ok("it ends the step".to_owned()),
            Err(e) if e.code == Code::CANCELLED => Ok("it stops within the step".to_owned()),
            Err(e) => wrong(e.to_string()),
        }
    });
    report.check("works on after errors", || {
        let again = s.predict(&x, &[(a, 500.0)], &quiet())?;
        if again == single { Ok(String::new()) } else { wrong("it answers differently after an error") }
    });
}

fn pictures(report: &mut Report, s: &mut Subject) {
    let latents = s.latents(5, 1);
    let mut picture = Vec::new();
    report.check("decodes", || {
        let start = Instant::now();
        picture = s.decode(&latents, &quiet())?;
        if picture.iter().all(|v| (0.0..=1.0).contains(v)) {
            Ok(format!("{:.1} ms", start.elapsed().as_secs_f64() * 1e3))
        } else {
            wrong("values outside 0–1")
        }
    });
    if picture.is_empty() {
        return;
    }
    report.check("decodes bytes as it decodes numbers", || {
        let bytes = s.decode_bytes(&latents)?;
        let off = bytes.iter().zip(&picture).map(|(b, v)| (f32::from(*b) - v * 255.0).abs()).fold(0.0, f32::max);
        if off <= 1.0 { Ok(format!("within {off:.2} of 255")) } else { wrong(format!("off by {off:.1} of 255")) }
    });
    report.check("encodes pictures", || {
        if find(&s.desc.params, "encode") != Some("1") {
            return Err(Trouble::NotTried("it does not offer it".to_owned()));
        }
        let moments = s.encode_picture(&picture)?;
        let (_, deviations) = moments.split_at(moments.len() / 2);
        if deviations.iter().any(|d| *d < 0.0) { wrong("a deviation is below 0") } else { Ok(String::new()) }
    });
}

/// Compares with another backend on the same model and inputs.
fn compare(report: &mut Report, s: &mut Subject, reference: &BackendBox, plan: &Plan<'_>) {
    let mut other = None;
    report.check("the reference loads the model", || {
        other = Some(Subject::load(reference, &plan.source)?);
        Ok(String::new())
    });
    let Some(mut r) = other else { return };
    report.check("predicts as the reference", || {
        let x = s.latents(7, 1);
        let mut outputs = Vec::new();
        for subject in [&mut *s, &mut r] {
            let cond = subject.encode(&[320, 1125, 539], Odd::Nothing)?;
            let mut all = Vec::new();
            for timestep in [999.0, 500.0, 1.0] {
                all.extend(subject.predict(&x, &[(cond, timestep)], &quiet())?);
            }
            outputs.push(all);
        }
        close(&outputs[0], &outputs[1], plan.tolerance)
    });
    report.check("decodes as the reference", || {
        let latents = s.latents(8, 1);
        close(&s.decode(&latents, &quiet())?, &r.decode(&latents, &quiet())?, plan.tolerance)
    });
}

/// Loads and drops the model again and again and watches this process's memory.
pub(super) fn leaks(backend: &BackendBox, plan: &Plan<'_>, isolated: bool) -> Outcome {
    let resident = || -> Option<u64> {
        let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
        statm.split_whitespace().nth(1)?.parse::<u64>().ok().map(|pages| pages * 4096)
    };
    if isolated || plan.loads == 0 {
        let why =
            if isolated { "it runs in a process of its own; check with --isolate never" } else { "not asked for" };
        return Err(Trouble::NotTried(why.to_owned()));
    }
    let life = || -> Result<(), AbiError> {
        let mut subject = Subject::load(backend, &plan.source)?;
        let cond = subject.encode(&[1, 2], Odd::Nothing)?;
        let x = subject.latents(1, 1);
        subject.predict(&x, &[(cond, 500.0)], &quiet())?;
        subject.free(cond);
        Ok(())
    };
    // The allocator and lazily made tables settle first.
    for _ in 0..(plan.loads / 5).max(3) {
        life()?;
    }
    let Some(before) = resident() else { return Err(Trouble::NotTried("this system does not tell".to_owned())) };
    for _ in 0..plan.loads {
        life()?;
    }
    let grown = resident().unwrap_or(before).saturating_sub(before);
    let words = format!("{} KiB more after {} loads", grown >> 10, plan.loads);
    // One percent, or a MiB where a percent is less than the allocator's own play.
    if grown <= (before / 100).max(1 << 20) { Ok(words) } else { wrong(words) }
}

/// After the device is gone, so are its threads.
pub(super) fn joined(before: Option<usize>, isolated: bool) -> Outcome {
    let (Some(before), Some(after)) = (before, super::threads()) else {
        return Err(Trouble::NotTried("this system does not tell".to_owned()));
    };
    if isolated {
        return Err(Trouble::NotTried("it ran in a process of its own".to_owned()));
    }
    match after.saturating_sub(before) {
        0 => Ok(String::new()),
        // A pool of one thread per core that lives as long as the process is usual, and harmless.
        left if left <= std::thread::available_parallelism().map_or(1, usize::from) => {
            Ok(format!("{left} threads of a pool stay"))
        }
        left => wrong(format!("{left} threads are left")),
    }
}
