//! DPM-Solver++ multistep (Lu et al. 2022, arXiv:2211.01095) and its SDE form, orders 1 to 3, on variance-exploding
//! latents, where λ = −ln σ.

use crate::run::{Run, Trace};
use crate::vector::{add, sum};

/// Forms of the second-order term.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Midpoint,
    Heun,
}

/// A solver: DPM++ 2M is order 2 in midpoint form without noise, 3M SDE is order 3 in Heun's form with η = 1.
#[derive(Clone, Copy)]
pub(crate) struct Multistep {
    pub(crate) order: usize,
    pub(crate) form: Form,
    /// η if the request does not say.
    pub(crate) eta: f64,
}

impl Multistep {
    pub(crate) fn run<E>(self, run: &mut Run<'_, '_, E>, mut x: Vec<f32>) -> Trace<E> {
        let eta = run.options.eta.unwrap_or(self.eta);
        // Estimates of the last steps and the lengths of these steps in λ, newest first.
        let mut past: Vec<(Vec<f32>, f64)> = Vec::new();
        for step in run.steps() {
            let (from, to) = (run.level(step), run.level(step + 1).sigma);
            let denoised = run.denoise(&x, from, step)?;
            let h = (from.sigma / to).ln();
            if to == 0.0 {
                x.clone_from(&denoised);
            } else {
                let first_order = run.ends_first_order(step);
                let order = if first_order { 1 } else { run.order_at_end(step, self.order).min(past.len() + 1) };
                self.step(&mut x, &denoised, &past[..order - 1], h, eta);
                // A step of no length (a schedule that ends where it is) has no noise either.
                let up = to * (-(-2.0 * eta * h).exp_m1()).sqrt();
                if up > 0.0 {
                    let noise = run.path_noise(step, from.sigma, to);
                    add(&mut x, up * run.options.s_noise, &noise);
                }
            }
            run.report(step, &mut x, &denoised)?;
            past.insert(0, (denoised, h));
            past.truncate(self.order - 1);
        }
        Ok(x)
    }

    /// The deterministic part of a step of length `h`; `past` sets the order.
    fn step(self, x: &mut Vec<f32>, denoised: &[f32], past: &[(Vec<f32>, f64)], h: f64, eta: f64) {
        let decay = h * (1.0 + eta);
        let fresh = -(-decay).exp_m1();
        *x = sum([((-decay).exp(), &*x), (fresh, denoised)]);
        if h == 0.0 {
            return;
        }
        let phi_2 = 1.0 - fresh / decay;
        match past {
            [] => {}
            [(one, h_1)] => {
                let amount = match self.form {
                    Form::Midpoint => 0.5 * fresh,
                    Form::Heun => phi_2,
                } * h
                    / h_1;
                add(x, amount, denoised);
                add(x, -amount, one);
            }
            [(one, h_1), (two, h_2), ..] => {
                let phi_3 = phi_2 / decay - 0.5;
                let (r0, r1) = (h_1 / h, h_2 / h);
                let first = sum([(1.0 / r0, denoised), (-1.0 / r0, one)]);
                let second = sum([(1.0 / r1, one), (-1.0 / r1, two)]);
                // φ₂·(first + (first − second)·r₀/(r₀+r₁)) − φ₃·(first − second)/(r₀+r₁)
                let difference = (phi_2 * r0 - phi_3) / (r0 + r1);
                add(x, phi_2 + difference, &first);
                add(x, -difference, &second);
            }
        }
    }
}
