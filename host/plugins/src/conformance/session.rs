//! Checks of the loaded model: texts and steps.

use super::{
    Plan, Run, close, device, difference, not_tried, refused,
    subject::{Look, Odd, Subject, noise, quiet},
    wrong,
};
use backend_api::{BackendBox, Code, find};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// The check without which nothing was tried.
pub(super) const PREDICTS: &str = "predicts";

const UNKNOWN: &[Code] = &[Code::INVALID, Code::NOT_FOUND];

/// Answers the session for further checks, when it can encode a text and take a step.
pub(super) fn checks(run: &mut Run<'_>, backend: &BackendBox, plan: &Plan<'_>) -> Option<Subject> {
    let mut loaded = None;
    run.check("loads the model", || {
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
    let mut s = loaded?;
    let mut conds = Vec::new();
    run.check("encodes texts", || {
        for words in [&[320u32, 1125, 539][..], &[320, 2368], &[]] {
            conds.push(s.encode(words, Odd::Nothing)?);
        }
        let twins = (1..conds.len()).any(|i| conds[..i].contains(&conds[i]));
        if twins { wrong("two texts share an id") } else { Ok(format!("ids {conds:?}")) }
    });
    for (name, odd) in [
        ("refuses tokens outside the vocabulary", Odd::Token),
        ("refuses a weight too few", Odd::Weights),
        ("refuses an unknown text encoder", Odd::Encoder),
        ("refuses a text without its encoder's tokens", Odd::Missing),
    ] {
        run.check(name, || refused(s.encode(&[1], odd), UNKNOWN));
    }
    let [a, b, ..] = conds[..] else { return None };
    let single = steps(run, &mut s, backend, plan, a, b)?;
    errors(run, &mut s, a, &single);
    busy(run, &mut s, backend, a);
    run.check("forgets a freed text", || {
        s.free(a);
        s.free(u64::MAX);
        let x = s.latents(1, 1);
        refused(s.predict(&x, &[(a, 500.0)], &quiet()), UNKNOWN)
    });
    Some(s)
}

/// Steps as they should be. Answers the first one's result.
fn steps(
    run: &mut Run<'_>,
    s: &mut Subject,
    backend: &BackendBox,
    plan: &Plan<'_>,
    a: u64,
    b: u64,
) -> Option<Vec<f32>> {
    let x = s.latents(1, 1);
    let mut single = Vec::new();
    run.check(PREDICTS, || {
        let start = Instant::now();
        single = s.predict(&x, &[(a, 500.0)], &quiet())?;
        Ok(format!("{:.1} ms", start.elapsed().as_secs_f64() * 1e3))
    });
    if single.is_empty() {
        return None;
    }
    let same = |again: &[f32]| {
        if again == single {
            Ok("every bit".to_owned())
        } else {
            wrong(format!("by {:.1e}", difference(again, &single)))
        }
    };
    run.check("predicts the same twice", || same(&s.predict(&x, &[(a, 500.0)], &quiet())?));
    run.check("predicts the same when loaded again", || {
        let mut other = Subject::load(backend, &plan.source)?;
        let cond = other.encode(&[320, 1125, 539], Odd::Nothing)?;
        same(&other.predict(&x, &[(cond, 500.0)], &quiet())?)
    });
    run.check("heeds the text and the timestep", || {
        for (what, other) in [("text", (b, 500.0)), ("timestep", (a, 20.0))] {
            if s.predict(&x, &[other], &quiet())? == single {
                return wrong(format!("another {what} changes nothing"));
            }
        }
        Ok(String::new())
    });
    let mixed = find(&s.desc.params, "mixed_batch") != Some("0");
    // Sums in another order: a few units in the last place.
    let batch = |s: &mut Subject, items: &[(u64, f32)]| {
        let many = s.latents(2, items.len());
        let together = s.predict(&many, items, &quiet())?;
        let mut apart = Vec::new();
        for (x, item) in many.chunks_exact(s.item()).zip(items) {
            apart.extend(s.predict(x, &[*item], &quiet())?);
        }
        close(&together, &apart, 1e-4)
    };
    run.check("predicts a batch as single items", || {
        let most = s.desc.max_batch.min(4) as usize;
        if most < 2 {
            return not_tried("it takes one item at a time");
        }
        let items: Vec<(u64, f32)> = (0..most).map(|i| (if i % 2 == 0 { a } else { b }, 500.0)).collect();
        batch(s, &items)
    });
    run.check("heeds each item's timestep", || {
        if s.desc.max_batch < 2 || !mixed {
            return not_tried("it says that the items of a batch must share a timestep");
        }
        batch(s, &[(a, 900.0), (b, 20.0)])
    });
    run.check("takes other sizes", || {
        let mut words = Vec::new();
        for (h, w) in [(s.side, s.side * 2), (s.side * 2, s.side)] {
            let shape = [1, s.channels(), h, w];
            s.predict_shaped(&noise(9, s.channels() * h * w), shape, &[(a, 500.0)], &quiet())?;
            words.push(format!("{h} × {w}"));
        }
        Ok(words.join(", "))
    });
    Some(single)
}

/// Steps that must be refused or stopped; afterwards all is as before.
fn errors(run: &mut Run<'_>, s: &mut Subject, a: u64, single: &[f32]) {
    let x = s.latents(1, 1);
    run.check("refuses an unknown text", || refused(s.predict(&x, &[(u64::MAX - 1, 500.0)], &quiet()), UNKNOWN));
    run.check("refuses another number of channels", || {
        let shape = [1, s.channels() + 1, s.side, s.side];
        refused(s.predict_shaped(&noise(3, shape.iter().product()), shape, &[(a, 500.0)], &quiet()), UNKNOWN)
    });
    run.check("refuses fewer items than latents", || {
        let two = s.latents(3, 2);
        refused(s.predict_shaped(&two, s.shape(2), &[(a, 500.0)], &quiet()), UNKNOWN)
    });
    run.check("stops or ends a cancelled step", || {
        for after in [0, 1] {
            let (ctl, look) = Look::after(after);
            match s.predict(&x, &[(a, 500.0)], &ctl) {
                Err(e) if e.code == Code::CANCELLED => {}
                Err(e) => return wrong(e.to_string()),
                Ok(_) if look.looks() <= after => return Ok(format!("it ends the step; {} looks", look.looks())),
                Ok(out) if out == single => return wrong("it looked at the flag and went on"),
                Ok(_) => return wrong("it answers something else than without the flag"),
            }
        }
        Ok("it stops within the step".to_owned())
    });
    run.check("works on after errors", || {
        let again = s.predict(&x, &[(a, 500.0)], &quiet())?;
        if again == single { Ok(String::new()) } else { wrong("it answers differently after an error") }
    });
}

/// The device is asked for its memory while it works: `memory` may not wait for the step.
fn busy(run: &mut Run<'_>, s: &mut Subject, backend: &BackendBox, a: u64) {
    run.check("answers memory while it works", || {
        let (done, x) = (AtomicBool::new(false), s.latents(1, 1));
        let (outcome, times) = std::thread::scope(|scope| {
            let asker = scope.spawn(|| {
                let mut times = vec![device::asked(backend)];
                while !done.load(Ordering::Acquire) && times.len() < 1_000_000 {
                    times.push(device::asked(backend));
                }
                times
            });
            // The session stays on this thread, as in the worker.
            let until = Instant::now() + Duration::from_millis(100);
            let mut outcome = Ok(Vec::new());
            while outcome.is_ok() && Instant::now() < until {
                outcome = s.predict(&x, &[(a, 500.0)], &quiet());
            }
            done.store(true, Ordering::Release);
            (outcome, asker.join().unwrap_or_default())
        });
        outcome?;
        device::quick(times)
    });
}
