//! DPM-Solver of orders 1 to 3 with a fixed budget ("fast") or with steps chosen by their error ("adaptive").
//! Lu et al. (2022), arXiv:2206.00927, in k-diffusion's form: t = −ln σ, variance-exploding latents.
//!
//! Both end at the smallest positive sigma of the schedule, not at 0.

use super::ancestral_step;
use crate::run::{Run, Trace};
use crate::vector::{add, sum};

/// A single step of DPM-Solver that remembers its evaluations.
struct Solver {
    step: usize,
    t: f64,
    x: Vec<f32>,
    epsilon: Vec<f32>,
    denoised: Vec<f32>,
    /// ε at a third of the step, once known.
    third: Option<Vec<f32>>,
}

impl Solver {
    fn start<E>(run: &mut Run<'_, '_, E>, x: Vec<f32>, t: f64, step: usize) -> Result<Self, E> {
        let (epsilon, denoised) = epsilon(run, &x, t, step)?;
        Ok(Self { step, t, x, epsilon, denoised, third: None })
    }

    fn order_1(&self, to: f64) -> Vec<f32> {
        sum([(1.0, &self.x), (-sigma(to) * (to - self.t).exp_m1(), &self.epsilon)])
    }

    fn order_2<E>(&mut self, run: &mut Run<'_, '_, E>, to: f64, r1: f64) -> Trace<E> {
        let h = to - self.t;
        let inner = self.inner(run, r1, h)?;
        let first = sigma(to) * h.exp_m1();
        let second = first / (2.0 * r1);
        Ok(sum([(1.0, &self.x), (second - first, &self.epsilon), (-second, &inner)]))
    }

    fn order_3<E>(&mut self, run: &mut Run<'_, '_, E>, to: f64) -> Trace<E> {
        let (r1, r2) = (1.0 / 3.0, 2.0 / 3.0);
        let h = to - self.t;
        let inner = self.inner(run, r1, h)?;
        let s2 = self.t + r2 * h;
        let growth = (r2 * h).exp_m1();
        let bend = sigma(s2) * (r2 / r1) * (growth / (r2 * h) - 1.0);
        let u2 = sum([(1.0, &self.x), (bend - sigma(s2) * growth, &self.epsilon), (-bend, &inner)]);
        let (outer, _) = epsilon(run, &u2, s2, self.step)?;
        let first = sigma(to) * h.exp_m1();
        let second = sigma(to) / r2 * (h.exp_m1() / h - 1.0);
        Ok(sum([(1.0, &self.x), (second - first, &self.epsilon), (-second, &outer)]))
    }

    /// ε at the part `r1` of the step; kept when it is a third, which orders 2 and 3 share in the adaptive method.
    fn inner<E>(&mut self, run: &mut Run<'_, '_, E>, r1: f64, h: f64) -> Trace<E> {
        if let Some(third) = &self.third {
            return Ok(third.clone());
        }
        let s1 = self.t + r1 * h;
        let u1 = sum([(1.0, &self.x), (-sigma(s1) * (r1 * h).exp_m1(), &self.epsilon)]);
        let (value, _) = epsilon(run, &u1, s1, self.step)?;
        self.third = Some(value.clone());
        Ok(value)
    }
}

fn sigma(t: f64) -> f64 {
    (-t).exp()
}

fn epsilon<E>(run: &mut Run<'_, '_, E>, x: &[f32], t: f64, step: usize) -> Result<(Vec<f32>, Vec<f32>), E> {
    let level = run.level_at(sigma(t));
    let denoised = run.denoise(x, level, step)?;
    Ok((sum([(1.0 / level.sigma, x), (-1.0 / level.sigma, &denoised)]), denoised))
}

/// The end of a step that adds ancestral noise, and the size of that noise.
fn noisy_end(from: f64, to: f64, end: f64, eta: f64) -> (f64, f64) {
    if eta == 0.0 {
        return (to, 0.0);
    }
    let (down, _) = ancestral_step(sigma(from), sigma(to), eta);
    let reached = end.min(-down.ln());
    (reached, (sigma(to).powi(2) - sigma(reached).powi(2)).max(0.0).sqrt())
}

/// Exactly as many evaluations as the plan has steps, in third-order steps as far as they go.
pub(crate) fn fast<E>(run: &mut Run<'_, '_, E>, mut x: Vec<f32>) -> Trace<E> {
    let eta = run.options.eta.unwrap_or(0.0);
    let (start, end) = run.log_range();
    let budget = run.steps().len();
    let pieces = budget / 3 + 1;
    let orders: Vec<usize> = match budget % 3 {
        0 => [vec![3; pieces - 2], vec![2, 1]].concat(),
        rest => [vec![3; pieces - 1], vec![rest]].concat(),
    };
    let mut done = 0;
    for (i, order) in orders.iter().enumerate() {
        let at = |i: usize| start + (end - start) * i as f64 / pieces as f64;
        let (t, next) = (at(i), at(i + 1));
        let (reached, up) = noisy_end(t, next, end, eta);
        let first = run.steps().start + done;
        let mut solver = Solver::start(run, x, t, first)?;
        x = match order {
            1 => solver.order_1(reached),
            2 => solver.order_2(run, reached, 0.5)?,
            _ => solver.order_3(run, reached)?,
        };
        if up > 0.0 {
            let noise = run.fresh_noise(first);
            add(&mut x, up * run.options.s_noise, &noise);
        }
        // Evaluations are the steps a user counts: a piece of order k is k steps.
        for step in first..first + order {
            run.report_at(step, &mut x, &solver.denoised, sigma(next))?;
        }
        done += order;
    }
    Ok(x)
}

/// Attempts after which steps are taken whatever their error, so that no model can make a run endless.
const MAX_ATTEMPTS: usize = 400;

/// DPM-Solver-23: third-order steps, as long as their difference from the second order allows.
///
/// The plan's steps are marks along ln σ: a report is due when a mark is passed. The error is taken over the whole
/// batch, as in k-diffusion, so that here a picture depends a little on what it is batched with.
pub(crate) fn adaptive<E>(run: &mut Run<'_, '_, E>, mut x: Vec<f32>) -> Trace<E> {
    const RELATIVE: f64 = 0.05;
    const ABSOLUTE: f64 = 0.0078;
    let eta = run.options.eta.unwrap_or(0.0);
    let (start, end) = run.log_range();
    let marks = run.steps();
    let mut step = marks.start;
    let mut control = StepControl::new(0.05, if eta > 0.0 { 1.5 } else { 3.0 });
    let mut t = start;
    let mut previous = x.clone();
    let mut attempts = 0;
    while t < end - 1e-5 {
        attempts += 1;
        let forced = attempts > MAX_ATTEMPTS;
        let length = if forced { control.length.max((end - start) / 16.0) } else { control.length };
        let next = end.min(t + length);
        let (reached, up) = noisy_end(t, next, end, eta);
        let mut solver = Solver::start(run, x, t, step)?;
        let low = solver.order_2(run, reached, 1.0 / 3.0)?;
        let mut high = solver.order_3(run, reached)?;
        let squares: f64 = (0..low.len())
            .map(|i| {
                let (l, h, p) = (f64::from(low[i]), f64::from(high[i]), f64::from(previous[i]));
                ((l - h) / ABSOLUTE.max(RELATIVE * l.abs().max(p.abs()))).powi(2)
            })
            .sum();
        let accepted = control.propose((squares / low.len().max(1) as f64).sqrt()) || forced;
        if !accepted {
            x = solver.x;
            continue;
        }
        if up > 0.0 {
            let noise = run.fresh_noise(step);
            add(&mut high, up * run.options.s_noise, &noise);
        }
        previous = low;
        x = high;
        t = next;
        let passed =
            if t < end - 1e-5 { ((t - start) / (end - start) * marks.len() as f64) as usize } else { marks.len() };
        while step < marks.start + passed {
            run.report_at(step, &mut x, &solver.denoised, sigma(t))?;
            step += 1;
        }
    }
    // Only a run that begins where it ends has marks left.
    for step in step..marks.end {
        let denoised = x.clone();
        run.report_at(step, &mut x, &denoised, sigma(end))?;
    }
    Ok(x)
}

/// Chooses step lengths from errors (k-diffusion's PID controller with its default gains: integral only).
struct StepControl {
    length: f64,
    gain: f64,
}

impl StepControl {
    fn new(length: f64, order: f64) -> Self {
        Self { length, gain: 1.0 / order }
    }

    /// Adapts the length; whether the step with this error may stand.
    fn propose(&mut self, error: f64) -> bool {
        let factor = 1.0 + ((1.0 / (error + 1e-8)).powf(self.gain) - 1.0).atan();
        if !factor.is_finite() {
            // Not a number: nothing to be learnt from it. The host sees it in the result.
            return true;
        }
        self.length *= factor;
        factor >= 0.81
    }
}
