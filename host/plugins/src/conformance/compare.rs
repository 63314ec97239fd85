//! The subject beside another backend on the same model: answers and times.

use super::{
    Outcome, Plan, Run, close, not_tried,
    subject::{Odd, Subject, quiet},
    wrong,
};
use backend_api::{AbiError, BackendBox, Code, find};
use std::time::{Duration, Instant};

pub(super) fn checks(run: &mut Run<'_>, backend: &BackendBox, s: &mut Subject, plan: &Plan<'_>) {
    let Some((name, reference)) = plan.reference else {
        run.check("agrees with the reference", || not_tried("no other backend was given"));
        run.check("times", || Ok(Times::take(backend, s, plan)?.words(None)));
        return;
    };
    let mut other = None;
    run.check("the reference loads the model", || match Subject::load(reference, &plan.source) {
        Ok(subject) => {
            other = Some(subject);
            Ok(name.to_owned())
        }
        // A model in a format that is the subject's alone.
        Err(e) if [Code::UNSUPPORTED, Code::NOT_FOUND].contains(&e.code) => not_tried(format!("{name}: {}", e.message)),
        Err(e) => wrong(e.to_string()),
    });
    let Some(mut r) = other else {
        run.check("times", || Ok(Times::take(backend, s, plan)?.words(None)));
        return;
    };
    run.check("predicts as the reference", || {
        let x = s.latents(7, 1);
        let mut outputs = Vec::new();
        for subject in [&mut *s, &mut r] {
            let cond = subject.encode(&[320, 1125, 539], Odd::Nothing)?;
            let mut all = Vec::new();
            for timestep in [999.0, 500.0, 1.0] {
                all.extend(subject.predict(&x, &[(cond, timestep)], &quiet())?);
            }
            subject.free(cond);
            outputs.push(all);
        }
        close(&outputs[0], &outputs[1], plan.tolerance)
    });
    run.check("decodes as the reference", || {
        let latents = s.latents(8, 1);
        close(&s.decode(&latents, &quiet())?, &r.decode(&latents, &quiet())?, plan.tolerance)
    });
    run.check("encodes as the reference", || both_encode(s, &mut r, plan.tolerance));
    run.check("times", || {
        let ours = Times::take(backend, s, plan)?;
        Ok(ours.words(Some(&Times::take(reference, &mut r, plan)?)))
    });
}

fn both_encode(s: &mut Subject, r: &mut Subject, tolerance: f32) -> Outcome {
    let offers = |subject: &Subject| find(&subject.desc.params, "encode") == Some("1");
    if !offers(s) || !offers(r) {
        return not_tried("one of both does not offer it");
    }
    let picture = r.decode(&s.latents(8, 1), &quiet())?;
    close(&s.encode_picture(&picture, &quiet())?, &r.encode_picture(&picture, &quiet())?, tolerance)
}

/// Medians of a few calls each.
struct Times {
    load: Duration,
    text: Duration,
    step: Duration,
    batch: Option<Duration>,
    decode: Duration,
}

impl Times {
    fn take(backend: &BackendBox, s: &mut Subject, plan: &Plan<'_>) -> Result<Self, AbiError> {
        let cond = s.encode(&[320, 1125, 539], Odd::Nothing)?;
        let (one, four) = (s.latents(1, 1), s.latents(1, 4));
        let times = Times {
            load: median(|| Subject::load(backend, &plan.source).map(drop))?,
            text: median(|| s.encode(&[320, 1125], Odd::Nothing).map(|cond| s.free(cond)))?,
            step: median(|| s.predict(&one, &[(cond, 500.0)], &quiet()).map(drop))?,
            batch: if s.desc.max_batch < 4 {
                None
            } else {
                Some(median(|| s.predict(&four, &[(cond, 500.0); 4], &quiet()).map(drop))?)
            },
            decode: median(|| s.decode(&one, &quiet()).map(drop))?,
        };
        s.free(cond);
        Ok(times)
    }

    /// In milliseconds, those of the reference in brackets.
    fn words(&self, reference: Option<&Times>) -> String {
        let ms = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1e3);
        let part = |what: &str, ours: Option<Duration>, theirs: Option<Duration>| {
            let theirs = theirs.map(|t| format!(" ({})", ms(t))).unwrap_or_default();
            ours.map(|t| format!("{what} {}{theirs}", ms(t)))
        };
        let parts = [
            part("load", Some(self.load), reference.map(|r| r.load)),
            part("text", Some(self.text), reference.map(|r| r.text)),
            part("step", Some(self.step), reference.map(|r| r.step)),
            part("step of 4", self.batch, reference.and_then(|r| r.batch)),
            part("decode", Some(self.decode), reference.map(|r| r.decode)),
        ];
        let list: Vec<String> = parts.into_iter().flatten().collect();
        let whose = if reference.is_some() { ", the reference's in brackets" } else { "" };
        format!("ms: {}{whose}", list.join(", "))
    }
}

fn median(mut call: impl FnMut() -> Result<(), AbiError>) -> Result<Duration, AbiError> {
    let mut times = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        call()?;
        times.push(start.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}
