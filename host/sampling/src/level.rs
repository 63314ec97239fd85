//! One point of a noise schedule.

/// A noise level and the timestep that the network is told there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Level {
    /// The timestep, possibly fractional, in units of the training schedule.
    pub timestep: f64,
    /// Noise relative to a signal of size 1; infinite where there is no signal at all.
    pub sigma: f64,
}

impl Level {
    /// Size of the signal in variance-preserving latents, √ᾱ.
    #[must_use]
    pub fn alpha(&self) -> f64 {
        alpha(self.sigma)
    }

    /// Size of the noise in variance-preserving latents, √(1−ᾱ).
    #[must_use]
    pub fn noise(&self) -> f64 {
        noise(self.sigma)
    }
}

/// √ᾱ of a noise level.
pub(crate) fn alpha(sigma: f64) -> f64 {
    1.0 / (sigma * sigma + 1.0).sqrt()
}

/// √(1−ᾱ) of a noise level.
pub(crate) fn noise(sigma: f64) -> f64 {
    if sigma.is_infinite() { 1.0 } else { sigma / (sigma * sigma + 1.0).sqrt() }
}
