//! Restart sampling (Xu et al. 2023): Heun steps that go back up to a higher noise level now and then.

use super::heun::heun_step;
use crate::level::Level;
use crate::run::{Run, Trace};
use crate::schedule::karras;
use crate::vector::add;

/// Noise level near which the run goes back up, and the level it goes up to (A1111's choice).
const RESTART_AT: f64 = 0.1;
const RESTART_TO: f64 = 2.0;

/// Restart with A1111's division of the steps: runs of 20 steps or more give some of them to the way back down.
pub(crate) fn restart<E>(run: &mut Run<'_, '_, E>, mut x: Vec<f32>) -> Trace<E> {
    let mut last: Option<f64> = None;
    for (step, (from, to)) in run.steps().zip(steps(run)) {
        if let Some(last) = last.filter(|last| *last < from.sigma) {
            let noise = run.fresh_noise(step);
            add(&mut x, (from.sigma * from.sigma - last * last).sqrt() * run.options.s_noise, &noise);
        }
        let (next, denoised) = heun_step(run, &x, from, to, step)?;
        x = next;
        run.report_at(step, &mut x, &denoised, to.sigma)?;
        last = Some(to.sigma);
    }
    Ok(x)
}

/// The steps as pairs of levels, as many as the plan has.
fn steps<E>(run: &Run<'_, '_, E>) -> Vec<(Level, Level)> {
    let range = run.steps();
    let plain: Vec<Level> = (range.start..=range.end).map(|i| run.level(i)).collect();
    let total = plain.len() - 1;
    let (length, times) = match total {
        0..20 => return pairs(&plain),
        20..36 => (9, 1),
        _ => (total / 4, 2),
    };
    let level = |sigma: &f64| run.level_at(*sigma);
    let mut sigmas = karras(total - length * times, plain[total - 1].sigma, plain[0].sigma);
    sigmas.push(0.0);
    let nearest = |target: f64| {
        (0..sigmas.len())
            .min_by(|a, b| (sigmas[*a] - target).abs().total_cmp(&(sigmas[*b] - target).abs()))
            .unwrap_or(0)
    };
    let (low, high) = (nearest(RESTART_AT), nearest(RESTART_TO));
    // A run that begins below the upper level (a weak img2img) has nowhere to go back to.
    if high >= low || low == 0 || sigmas[low] <= 0.0 {
        return pairs(&plain);
    }
    let down: Vec<Level> = sigmas.iter().map(level).collect();
    let again: Vec<Level> = karras(length + 1, sigmas[low], sigmas[high]).iter().map(level).collect();
    let mut steps = pairs(&down[..=low]);
    for _ in 0..times {
        steps.extend(pairs(&again));
    }
    steps.extend(pairs(&down[low..]));
    steps
}

fn pairs(levels: &[Level]) -> Vec<(Level, Level)> {
    levels.windows(2).map(|pair| (pair[0], pair[1])).collect()
}
