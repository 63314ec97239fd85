//! The training noise schedule: betas and the cumulative product of 1 − β.
//!
//! The roundings are PyTorch's (float32 betas, a double accumulator, float32 products), because sigma at timestep 0
//! comes from 1 − ᾱ₀ ≈ 10⁻³ and would otherwise differ in the fourth digit.

use super::SchedulerConfig;
use crate::Error;

/// ᾱ for every training timestep, falling from almost 1; the last one is exactly 0 with zero-SNR rescaling.
pub(crate) fn alphas_cumprod(config: &SchedulerConfig) -> Result<Vec<f64>, Error> {
    let betas = betas(config)?;
    let mut product = 1.0f64;
    let cumulated: Vec<f64> = betas
        .iter()
        .map(|beta| {
            product *= f64::from(1.0 - beta);
            f64::from(product as f32)
        })
        .collect();
    if cumulated.iter().any(|a| !(*a > 0.0 && *a < 1.0)) || cumulated.windows(2).any(|w| w[1] > w[0]) {
        let problem = "do not give a falling signal level between 0 and 1".to_owned();
        return Err(Error::Config { field: "betas", problem });
    }
    if config.rescale_betas_zero_snr == Some(true) { Ok(zero_terminal_snr(&cumulated)) } else { Ok(cumulated) }
}

fn betas(config: &SchedulerConfig) -> Result<Vec<f32>, Error> {
    if let Some(betas) = &config.trained_betas {
        config.train_timesteps()?;
        return Ok(betas.iter().map(|beta| *beta as f32).collect());
    }
    let n = config.train_timesteps()?;
    let (start, end) = (config.beta_start.unwrap_or(0.00085), config.beta_end.unwrap_or(0.012));
    match config.beta_schedule.as_deref().unwrap_or("scaled_linear") {
        "linear" => Ok(linspace_f32(start, end, n)),
        "scaled_linear" => Ok(linspace_f32(start.sqrt(), end.sqrt(), n).iter().map(|b| b * b).collect()),
        "squaredcos_cap_v2" => Ok((0..n).map(|i| cosine_beta(i, n)).collect()),
        other => {
            let problem = format!("is `{other}`; known are linear, scaled_linear and squaredcos_cap_v2");
            Err(Error::Config { field: "beta_schedule", problem })
        }
    }
}

/// Nichol and Dhariwal (2021), betas limited to 0.999.
fn cosine_beta(i: usize, n: usize) -> f32 {
    let level = |i: usize| (((i as f64 / n as f64) + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
    (1.0 - level(i + 1) / level(i)).min(0.999) as f32
}

/// `torch.linspace` in float32: from both ends towards the middle.
fn linspace_f32(start: f64, end: f64, n: usize) -> Vec<f32> {
    let (start, end) = (start as f32, end as f32);
    let step = (end - start) / (n - 1) as f32;
    (0..n)
        .map(|i| if i < n / 2 { step.mul_add(i as f32, start) } else { step.mul_add(-((n - 1 - i) as f32), end) })
        .collect()
}

/// Lin et al. (2024), "Common Diffusion Noise Schedules and Sample Steps are Flawed", algorithm 1: shift √ᾱ so that
/// the last is 0 and scale it so that the first stays.
fn zero_terminal_snr(alphas_cumprod: &[f64]) -> Vec<f64> {
    let roots: Vec<f64> = alphas_cumprod.iter().map(|a| a.sqrt()).collect();
    let (first, last) = (roots[0], roots[roots.len() - 1]);
    let rescaled = |root: &f64| f64::from((((root - last) * first / (first - last)).powi(2)) as f32);
    roots.iter().map(rescaled).collect()
}
