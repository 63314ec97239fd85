//! Pseudo numerical methods (Liu et al. 2022) on variance-preserving latents: PLMS, and its Runge-Kutta warm-up.

use super::multistep::adams_bashforth;
use crate::Prediction;
use crate::level::{Level, alpha, noise};
use crate::run::{Run, Trace};
use crate::vector::{add, scale, sum};

/// PLMS as Stable Diffusion uses it: the first step is done twice (like Heun's), then Adams-Bashforth up to order 4.
///
/// As in diffusers what is averaged is the network's own output, also for velocity models.
pub(crate) fn plms<E>(run: &mut Run<'_, '_, E>, mut x: Vec<f32>) -> Trace<E> {
    let warm_up = run.runge_kutta_steps();
    let mut history: Vec<Vec<f32>> = Vec::new(); // newest first
    for step in run.steps() {
        let (from, to) = (run.level(step), run.arrival(step));
        let first = history.is_empty();
        let (output, mut denoised) = if step - run.steps().start < warm_up {
            let (output, average) = runge_kutta(run, &x, from, to, step)?;
            history.insert(0, output);
            (average.0, average.1)
        } else {
            let output = run.output(&x, from, step)?;
            history.insert(0, output);
            history.truncate(4);
            let mut mixed = vec![0.0; x.len()];
            for (weight, output) in adams_bashforth(history.len()).iter().zip(&history) {
                add(&mut mixed, *weight, output);
            }
            let denoised = transfer(run, &x, &history[0], from, 0.0);
            (mixed, denoised)
        };
        let mut next = transfer(run, &x, &output, from, to);
        // One evaluation more at the end of the very first step, unless that is the end of the run.
        if first && warm_up == 0 && run.steps_left(step) > 1 {
            let again = run.output(&next, run.level(step + 1), step)?;
            let mean = sum([(0.5, &output), (0.5, &again)]);
            next = transfer(run, &x, &mean, from, to);
            denoised = transfer(run, &x, &mean, from, 0.0);
        }
        x = next;
        run.report(step, &mut x, &denoised)?;
    }
    Ok(x)
}

/// The first output, and the weighted mean of all with its x₀.
type Averaged = (Vec<f32>, (Vec<f32>, Vec<f32>));

/// Four evaluations: the classic Runge-Kutta method.
fn runge_kutta<E>(run: &mut Run<'_, '_, E>, x: &[f32], from: Level, to: f64, step: usize) -> Result<Averaged, E> {
    let middle = run.middle_of(step);
    let end = run.level(step + 1);
    let first = run.output(x, from, step)?;
    let mut mean = scale(1.0 / 6.0, &first);
    let second = run.output(&transfer(run, x, &first, from, middle.sigma), middle, step)?;
    add(&mut mean, 1.0 / 3.0, &second);
    let third = run.output(&transfer(run, x, &second, from, middle.sigma), middle, step)?;
    add(&mut mean, 1.0 / 3.0, &third);
    let fourth = run.output(&transfer(run, x, &third, from, to), end, step)?;
    add(&mut mean, 1.0 / 6.0, &fourth);
    let denoised = transfer(run, x, &mean, from, 0.0);
    Ok((first, (mean, denoised)))
}

/// Moves `x` from level `from` to sigma `to` along the network output `output` (equation 9 of the paper).
fn transfer<E>(run: &Run<'_, '_, E>, x: &[f32], output: &[f32], from: Level, to: f64) -> Vec<f32> {
    let (a, s) = (from.alpha(), from.noise());
    let (a_to, s_to) = (alpha(to), noise(to));
    match run.sampling().prediction() {
        Prediction::Epsilon => sum([(a_to / a, x), (s_to - a_to * s / a, output)]),
        Prediction::V => sum([(a_to * a + s_to * s, x), (s_to * a - a_to * s, output)]),
        Prediction::Sample => sum([(s_to / s, x), (a_to - s_to * a / s, output)]),
    }
}
