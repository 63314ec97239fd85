//! Linear multistep methods on the slope d = (x − x₀)/σ = ε: LMS, IPNDM and DEIS.

use std::collections::VecDeque;

use super::euler::line;
use crate::run::{Run, Trace};
use crate::vector::{add, sum};

/// Adams-Bashforth of order 4 with the true, uneven step sizes (k-diffusion's LMS).
pub(crate) fn lms<E>(run: &mut Run<'_, '_, E>, x: Vec<f32>) -> Trace<E> {
    multistep(run, x, 4, false, |sigmas, to| (0..sigmas.len()).map(|j| lagrange_integral(sigmas, j, to)).collect())
}

/// Adams-Bashforth of order 4 with the coefficients of even steps (Zhang and Chen 2022; the form of ComfyUI, which
/// ends with x₀ itself).
pub(crate) fn ipndm<E>(run: &mut Run<'_, '_, E>, x: Vec<f32>) -> Trace<E> {
    multistep(run, x, 4, true, |sigmas, to| {
        let h = to - sigmas[0];
        adams_bashforth(sigmas.len()).iter().map(|weight| weight * h).collect()
    })
}

/// DEIS with polynomials in log ρ (Zhang and Chen 2023; diffusers' "logrho"), where ρ = σ.
pub(crate) fn deis<E>(run: &mut Run<'_, '_, E>, x: Vec<f32>) -> Trace<E> {
    let order = run.sampling().config().solver_order.unwrap_or(2).clamp(1, 3);
    multistep(run, x, order, true, log_rho_integrals)
}

/// Weights of the last `order` slopes, the newest first, for one even step of length 1.
pub(super) fn adams_bashforth(order: usize) -> &'static [f64] {
    match order {
        0 | 1 => &[1.0],
        2 => &[3.0 / 2.0, -1.0 / 2.0],
        3 => &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
        _ => &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
    }
}

/// `weights` gives one weight per sigma of the history (newest first) for a step to the second argument.
fn multistep<E>(
    run: &mut Run<'_, '_, E>,
    mut x: Vec<f32>,
    order: usize,
    ends_with_denoised: bool,
    weights: impl Fn(&[f64], f64) -> Vec<f64>,
) -> Trace<E> {
    let mut slopes: VecDeque<Vec<f32>> = VecDeque::new();
    let mut sigmas: VecDeque<f64> = VecDeque::new();
    for step in run.steps() {
        let (from, to) = (run.level(step), run.level(step + 1).sigma);
        let denoised = run.denoise(&x, from, step)?;
        slopes.push_front(sum([(1.0 / from.sigma, &x), (-1.0 / from.sigma, &denoised)]));
        sigmas.push_front(from.sigma);
        slopes.truncate(order);
        sigmas.truncate(order);
        if to == 0.0 && ends_with_denoised {
            x = line(&x, &denoised, from.sigma, to);
        } else {
            let keep = run.order_at_end(step, order);
            let history: Vec<f64> = sigmas.iter().take(keep).copied().collect();
            for (weight, slope) in weights(&history, to).iter().zip(&slopes) {
                add(&mut x, *weight, slope);
            }
        }
        run.report(step, &mut x, &denoised)?;
    }
    Ok(x)
}

/// ∫ over σ from `sigmas[0]` to `to` of the Lagrange polynomial that is 1 at `sigmas[j]` and 0 at the others.
fn lagrange_integral(sigmas: &[f64], j: usize, to: f64) -> f64 {
    // Gauss-Legendre with four points is exact up to degree 7.
    const NODES: [(f64, f64); 4] = [
        (-0.861_136_311_594_052_6, 0.347_854_845_137_453_85),
        (-0.339_981_043_584_856_26, 0.652_145_154_862_546_1),
        (0.339_981_043_584_856_26, 0.652_145_154_862_546_1),
        (0.861_136_311_594_052_6, 0.347_854_845_137_453_85),
    ];
    let (middle, half) = (0.5 * (to + sigmas[0]), 0.5 * (to - sigmas[0]));
    let polynomial = |tau: f64| {
        (0..sigmas.len()).filter(|k| *k != j).map(|k| (tau - sigmas[k]) / (sigmas[j] - sigmas[k])).product::<f64>()
    };
    NODES.iter().map(|(node, weight)| weight * polynomial(middle + half * node)).sum::<f64>() * half
}

/// ∫ over ρ from `rho[0]` to `to` of the Lagrange polynomials in ln ρ.
fn log_rho_integrals(rho: &[f64], to: f64) -> Vec<f64> {
    let log: Vec<f64> = rho.iter().map(|r| r.ln()).collect();
    let from = rho[0];
    match *log.as_slice() {
        [_, b] => {
            let a = log[0];
            let integral = |t: f64, other: f64, own: f64| t * (t.ln() - other - 1.0) / (own - other);
            vec![integral(to, b, a) - integral(from, b, a), integral(to, a, b) - integral(from, a, b)]
        }
        [a, b, c] => {
            let integral = |t: f64, own: f64, p: f64, q: f64| {
                let l = t.ln();
                t * (p * (q - l + 1.0) - q * l + q + l * l - 2.0 * l + 2.0) / ((own - p) * (own - q))
            };
            [(a, b, c), (b, c, a), (c, a, b)]
                .map(|(own, p, q)| integral(to, own, p, q) - integral(from, own, p, q))
                .to_vec()
        }
        _ => vec![to - from],
    }
}
