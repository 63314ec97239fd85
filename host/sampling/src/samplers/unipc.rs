//! UniPC (Zhao et al. 2023): a multistep predictor whose every step is corrected by the next evaluation.
//! On variance-exploding latents, where λ = −ln σ and the data estimate is integrated.

use crate::run::{Run, Trace};
use crate::vector::{add, sum};

/// The two choices of B(h) in the paper.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// B(h) = h.
    Bh1,
    /// B(h) = eʰ − 1.
    Bh2,
}

/// An evaluation of an earlier level.
struct Past {
    denoised: Vec<f32>,
    sigma: f64,
}

/// UniPC of the order the model's configuration asks for (2 if it does not), 1 to 3.
pub(crate) fn unipc<E>(run: &mut Run<'_, '_, E>, mut x: Vec<f32>, variant: Variant) -> Trace<E> {
    let highest = run.sampling().config().solver_order.unwrap_or(2).clamp(1, 3);
    let lower_at_end = run.sampling().config().lower_order_final.unwrap_or(true);
    let mut past: Vec<Past> = Vec::new(); // newest first
    let mut predicted_from: Option<(Vec<f32>, usize)> = None; // latents and order of the last prediction
    for step in run.steps() {
        let (from, to) = (run.level(step), run.level(step + 1).sigma);
        let denoised = run.denoise(&x, from, step)?;
        if let Some((start, order)) = &predicted_from {
            x = correct(start, &past, &denoised, from.sigma, *order, variant);
        }
        past.insert(0, Past { denoised, sigma: from.sigma });
        past.truncate(highest);
        let mut order = highest.min(past.len());
        if lower_at_end {
            order = order.min(run.steps_left(step));
        }
        // No polynomial through a step to λ = ∞, or of no length.
        if to == 0.0 || to == from.sigma {
            order = 1;
        }
        let next = predict(&x, &past, to, order, variant);
        predicted_from = Some((std::mem::replace(&mut x, next), order));
        run.report(step, &mut x, &past[0].denoised)?;
    }
    Ok(x)
}

/// UniP: from `x` at the newest evaluation's level to sigma `to`.
fn predict(x: &[f32], past: &[Past], to: f64, order: usize, variant: Variant) -> Vec<f32> {
    let step = Step::new(past, to, order, variant);
    let mut next = sum([(to / past[0].sigma, x), (-step.phi_1, &past[0].denoised)]);
    // The paper's simplification for order 2.
    let weights = if order == 2 { vec![0.5] } else { step.weights(order - 1) };
    step.add_differences(&mut next, past, &weights);
    next
}

/// UniC: the step that `predict` took from `start`, done again with the evaluation `at_end` of its result.
fn correct(start: &[f32], past: &[Past], at_end: &[f32], sigma: f64, order: usize, variant: Variant) -> Vec<f32> {
    let step = Step::new(past, sigma, order, variant);
    let newest = &past[0];
    let mut x = sum([(sigma / newest.sigma, start), (-step.phi_1, &newest.denoised)]);
    let weights = if order == 1 { vec![0.5] } else { step.weights(order) };
    step.add_differences(&mut x, past, &weights[..order - 1]);
    let last = -step.scale * weights[order - 1];
    add(&mut x, last, at_end);
    add(&mut x, -last, &newest.denoised);
    x
}

/// The coefficients of one step.
struct Step {
    /// e⁻ʰ − 1.
    phi_1: f64,
    /// B(−h).
    scale: f64,
    /// Distances of the earlier evaluations in steps of h, then 1.
    ratios: Vec<f64>,
    /// Right-hand sides of the order conditions.
    targets: Vec<f64>,
}

impl Step {
    fn new(past: &[Past], to: f64, order: usize, variant: Variant) -> Self {
        let h = (past[0].sigma / to).ln();
        let mut ratios: Vec<f64> = past[1..order].iter().map(|p| (past[0].sigma / p.sigma).ln() / h).collect();
        ratios.push(1.0);
        let phi_1 = (-h).exp_m1();
        let scale = match variant {
            Variant::Bh1 => -h,
            Variant::Bh2 => phi_1,
        };
        let mut phi = phi_1 / -h - 1.0;
        let mut factorial = 1.0;
        let targets = (1..=order)
            .map(|i| {
                let target = phi * factorial / scale;
                factorial *= (i + 1) as f64;
                phi = phi / -h - 1.0 / factorial;
                target
            })
            .collect();
        Self { phi_1, scale, ratios, targets }
    }

    /// Solves Σⱼ ratioⱼⁱ · weightⱼ = targetᵢ for the first `n` ratios (Gauss-Jordan; n ≤ 3).
    fn weights(&self, n: usize) -> Vec<f64> {
        let mut rows: Vec<Vec<f64>> = (0..n)
            .map(|i| {
                let mut row: Vec<f64> = self.ratios[..n].iter().map(|r| r.powi(i as i32)).collect();
                row.push(self.targets[i]);
                row
            })
            .collect();
        for column in 0..n {
            let pivot = (column..n).max_by(|a, b| rows[*a][column].abs().total_cmp(&rows[*b][column].abs()));
            rows.swap(column, pivot.unwrap_or(column));
            let pivot_row: Vec<f64> = rows[column].iter().map(|v| v / rows[column][column]).collect();
            for (i, row) in rows.iter_mut().enumerate() {
                let factor = if i == column { 0.0 } else { row[column] };
                row.iter_mut().zip(&pivot_row).for_each(|(v, p)| *v -= factor * p);
            }
            rows[column] = pivot_row;
        }
        rows.iter().map(|row| row[n]).collect()
    }

    fn add_differences(&self, x: &mut [f32], past: &[Past], weights: &[f64]) {
        for ((weight, ratio), p) in weights.iter().zip(&self.ratios).zip(&past[1..]) {
            let amount = -self.scale * weight / ratio;
            add(x, amount, &p.denoised);
            add(x, -amount, &past[0].denoised);
        }
    }
}
