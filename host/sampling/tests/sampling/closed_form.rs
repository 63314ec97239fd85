//! Samplers against what theory says for Gaussian data, where the denoiser and the flow are known exactly.
//!
//! For x₀ ~ N(μ, s²) the probability flow from σ to σ' takes x to μ + (x − μ)·√((s²+σ'²)/(s²+σ²)).

use crate::support::Denoiser;
use sd_sampling::noise::TorchCpu;
use sd_sampling::{ModelSampling, Options, Plan, Prediction, Sampler, SchedulerConfig, Settings};

const MEAN: f64 = 0.3;
const DEVIATION: f64 = 0.5;

fn model(prediction: Prediction) -> ModelSampling {
    let config = SchedulerConfig { prediction_type: Some(prediction.name().to_owned()), ..SchedulerConfig::default() };
    ModelSampling::new(&config).unwrap()
}

/// Runs over `sigmas` from `x` (in the plain form x₀ + σ·ε) and gives the end in the same form.
fn run(sampler: Sampler, eta: Option<f64>, sigmas: &[f64], x: &[f32], prediction: Prediction) -> Vec<f64> {
    let model = model(prediction);
    let options = Options { eta, ..Options::default() };
    let settings = Settings { sampler, sigmas: Some(sigmas.to_vec()), options, ..Settings::default() };
    let plan = Plan::new(&model, &settings).unwrap();
    let variance_preserving = plan.begin_levels().0 < 1.0;
    let signal = |sigma: f64| if variance_preserving { 1.0 / (1.0 + sigma * sigma).sqrt() } else { 1.0 };
    let start = x.iter().map(|x| (f64::from(*x) * signal(sigmas[0])) as f32).collect();
    let mut generator = TorchCpu::new(9);
    let result: Result<Vec<f32>, ()> = plan.run(
        start,
        &mut |eval| Ok(Denoiser::Gauss.network(eval, prediction)),
        &mut |_| generator.randn(x.len()),
        &mut |_| Ok(()),
    );
    let end = signal(sigmas[sigmas.len() - 1]);
    result.unwrap().iter().map(|x| f64::from(*x) / end).collect()
}

/// `n` steps from σ = 8 to σ = 0.2, even in ln σ.
fn sigmas(n: usize) -> Vec<f64> {
    (0..=n).map(|i| 8.0 * (0.2f64 / 8.0).powf(i as f64 / n as f64)).collect()
}

/// The largest distance from the exact flow after `n` steps.
fn error(sampler: Sampler, eta: Option<f64>, n: usize) -> f64 {
    let x = [-9.0f32, -2.0, 0.5, 4.0, 12.0];
    let variance = DEVIATION * DEVIATION;
    let shrink = ((variance + 0.04) / (variance + 64.0)).sqrt();
    let end = run(sampler, eta, &sigmas(n), &x, Prediction::Epsilon);
    x.iter().zip(&end).map(|(x, end)| (end - (MEAN + (f64::from(*x) - MEAN) * shrink)).abs()).fold(0.0, f64::max)
}

#[test]
fn deterministic_samplers_converge_with_their_order() {
    let (none, zero) = (None, Some(0.0));
    for (sampler, eta, order) in [
        (Sampler::Euler, none, 1.0),
        (Sampler::EulerAncestral, zero, 1.0),
        (Sampler::Ddim, none, 1.0),
        (Sampler::Heun, none, 2.0),
        (Sampler::Dpm2, none, 2.0),
        (Sampler::Dpm2Ancestral, zero, 2.0),
        (Sampler::Dpmpp2sAncestral, zero, 2.0),
        (Sampler::Dpmpp2m, none, 2.0),
        (Sampler::Dpmpp2mSde, zero, 2.0),
        (Sampler::Dpmpp2mSdeHeun, zero, 2.0),
        // Methods of higher order begin with lower ones, which leaves second order overall.
        (Sampler::Dpmpp3mSde, zero, 2.0),
        (Sampler::Lms, none, 2.0),
        (Sampler::Deis, none, 2.0),
        (Sampler::UniPcBh1, none, 2.0),
        (Sampler::UniPcBh2, none, 2.0),
        (Sampler::DpmFast, none, 2.0),
    ] {
        // Rounding to float32 leaves some 5e-5 here, however many the steps.
        let (coarse, fine) = (error(sampler, eta, 16), error(sampler, eta, 64));
        let largest = coarse * 4f64.powf(0.35 - order) + 5e-5;
        assert!(fine < largest, "{sampler:?}: {coarse:.2e} with 16 steps, {fine:.2e} with 64, not below {largest:.2e}");
        let close = if order < 2.0 { 0.1 } else { 5e-3 };
        assert!(fine < close, "{sampler:?}: {fine:.2e} away from the flow");
    }
    // These weigh uneven steps as if they were even: better than Euler, of no certain order.
    for sampler in [Sampler::Plms, Sampler::Ipndm] {
        assert!(error(sampler, None, 64) < 0.5 * error(Sampler::Euler, None, 64), "{sampler:?}");
    }
    // It allows itself an error of 5 % a step.
    assert!(error(Sampler::DpmAdaptive, None, 10) < 0.1, "{:.2e}", error(Sampler::DpmAdaptive, None, 10));
    assert!(error(Sampler::Restart, None, 10) < 0.05, "{:.2e}", error(Sampler::Restart, None, 10));
}

#[test]
fn stochastic_samplers_keep_mean_and_deviation() {
    const COUNT: usize = 5_000;
    let mut sigmas: Vec<f64> = (0..=300).map(|i| 8.0 * (0.01f64 / 8.0).powf(f64::from(i) / 300.0)).collect();
    sigmas.push(0.0);
    let from = (DEVIATION * DEVIATION + 64.0).sqrt();
    let x: Vec<f32> = TorchCpu::new(5).randn(COUNT).iter().map(|n| (MEAN + from * f64::from(*n)) as f32).collect();
    let (none, one) = (None, Some(1.0));
    for (sampler, eta) in [
        (Sampler::EulerAncestral, none),
        (Sampler::EulerAncestral, Some(0.5)),
        (Sampler::Dpm2Ancestral, none),
        (Sampler::Dpmpp2sAncestral, none),
        (Sampler::DpmppSde, none),
        (Sampler::Dpmpp2mSde, none),
        (Sampler::Dpmpp2mSdeHeun, none),
        (Sampler::Dpmpp3mSde, none),
        (Sampler::Ddim, one),
        (Sampler::Ddpm, none),
        (Sampler::Restart, none),
        (Sampler::DpmFast, one),
        (Sampler::DpmAdaptive, one),
        (Sampler::Tcd, none),
    ] {
        let end = run(sampler, eta, &sigmas, &x, Prediction::V);
        let mean = end.iter().sum::<f64>() / COUNT as f64;
        let deviation = (end.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / COUNT as f64).sqrt();
        assert!((mean - MEAN).abs() < 0.02, "{sampler:?} {eta:?}: mean {mean:.4}");
        // TCD jumps far below the next level in one first-order step.
        let close = if sampler == Sampler::Tcd { 0.1 } else { 0.06 };
        assert!((deviation / DEVIATION - 1.0).abs() < close, "{sampler:?} {eta:?}: deviation {deviation:.4}");
    }
}

#[test]
fn predictions_of_every_kind_mean_the_same() {
    let x = [-3.0f32, 0.1, 7.0];
    for sampler in Sampler::ALL {
        let plain = run(sampler, None, &sigmas(12), &x, Prediction::Epsilon);
        for prediction in [Prediction::V, Prediction::Sample] {
            for (a, b) in plain.iter().zip(run(sampler, None, &sigmas(12), &x, prediction)) {
                // PLMS mixes the outputs themselves, as diffusers does; mixed velocities are not mixed noises.
                let close = match sampler {
                    Sampler::Plms => 0.05,
                    // Its steps are chosen by errors that are rounded differently.
                    Sampler::DpmAdaptive => 2e-3,
                    _ => 2e-4,
                };
                assert!((a - b).abs() < close, "{sampler:?} {prediction:?}: {a} {b}");
            }
        }
    }
}
