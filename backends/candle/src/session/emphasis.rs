//! Emphasis: token weights applied to a text's states.

use crate::{Error, Result};

/// What weights do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Emphasis {
    /// Scale each state, then bring the chunk's mean back (A1111).
    RestoreMean,
    /// Scale each state.
    Scale,
    /// Go from the empty text's state to this one by the weight (ComfyUI).
    Interpolate,
    /// Nothing.
    Ignore,
}

impl Emphasis {
    pub(crate) fn parse(name: Option<&str>) -> Result<Self> {
        match name {
            None | Some("a1111") => Ok(Emphasis::RestoreMean),
            Some("no_norm") => Ok(Emphasis::Scale),
            Some("comfy") => Ok(Emphasis::Interpolate),
            Some("none") => Ok(Emphasis::Ignore),
            Some(other) => Err(Error::invalid(format!(
                "`emphasis` is a1111, no_norm, comfy or none, not `{}`",
                other.escape_debug()
            ))),
        }
    }

    /// Applies to one chunk: `states` is `[length, width]`, `empty` the states of the empty text for `Interpolate`.
    pub(crate) fn apply(self, states: &mut [f32], weights: &[f32], empty: &[f32]) {
        let width = states.len() / weights.len().max(1);
        if weights.iter().all(|w| *w == 1.0) {
            return;
        }
        match self {
            Emphasis::Ignore => {}
            Emphasis::Interpolate => {
                for (i, value) in states.iter_mut().enumerate() {
                    *value = empty[i] + (*value - empty[i]) * weights[i / width];
                }
            }
            Emphasis::Scale => scale(states, weights, width),
            Emphasis::RestoreMean => {
                let before = mean(states);
                scale(states, weights, width);
                let after = mean(states);
                let ratio = (before / after) as f32;
                if ratio.is_finite() {
                    states.iter_mut().for_each(|v| *v *= ratio);
                }
            }
        }
    }
}

fn scale(states: &mut [f32], weights: &[f32], width: usize) {
    for (state, weight) in states.chunks_exact_mut(width).zip(weights) {
        state.iter_mut().for_each(|v| *v *= weight);
    }
}

fn mean(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mode: &str, weights: &[f32], expected: &[f32]) {
        let mut states = [1.0, 2.0, 3.0, 6.0];
        Emphasis::parse(Some(mode)).unwrap().apply(&mut states, weights, &[1.0, 1.0, 1.0, 1.0]);
        for (found, wanted) in states.iter().zip(expected) {
            assert!((found - wanted).abs() < 1e-6, "{mode} {weights:?}: {states:?} for {expected:?}");
        }
    }

    #[test]
    fn modes_weigh_as_their_origins_do() {
        check("none", &[2.0, 1.0], &[1.0, 2.0, 3.0, 6.0]);
        check("no_norm", &[2.0, 1.0], &[2.0, 4.0, 3.0, 6.0]);
        // The mean is 3 before and 3.75 after.
        check("a1111", &[2.0, 1.0], &[1.6, 3.2, 2.4, 4.8]);
        check("comfy", &[2.0, 0.5], &[1.0, 3.0, 2.0, 3.5]);
        check("a1111", &[1.0, 1.0], &[1.0, 2.0, 3.0, 6.0]);
        assert_eq!(Emphasis::parse(Some("loud")).unwrap_err().code(), "invalid");
    }
}
