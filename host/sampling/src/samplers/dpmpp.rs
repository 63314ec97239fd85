//! DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095), on variance-exploding latents, where λ = −ln σ.

use crate::run::{Run, Trace};
use crate::vector::sum;

/// Second order from the last two evaluations (2M, midpoint form).
pub(crate) fn multistep_2<E>(run: &mut Run<'_, '_, E>, mut x: Vec<f32>) -> Trace<E> {
    let mut previous: Option<(Vec<f32>, f64)> = None;
    for step in run.steps() {
        let (from, to) = (run.level(step), run.level(step + 1).sigma);
        let denoised = run.denoise(&x, from, step)?;
        let h = (from.sigma / to).ln();
        let keep = to / from.sigma;
        let estimate = match &previous {
            Some((old, h_last)) if to > 0.0 && !run.ends_first_order(step) => {
                let half = h / (2.0 * h_last);
                sum([(1.0 + half, &denoised), (-half, old)])
            }
            _ => denoised.clone(),
        };
        x = sum([(keep, &x), (1.0 - keep, &estimate)]);
        run.report(step, &mut x, &denoised)?;
        previous = Some((denoised, h));
    }
    Ok(x)
}
