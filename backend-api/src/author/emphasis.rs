//! Emphasis: token weights applied to a text's states, the same in every backend.

use crate::AbiError;

/// What the weights of a text's tokens do, by the text request's parameter `emphasis`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emphasis {
    /// `a1111`, the default: scale each state, then bring the chunk's mean back (A1111's `sd_emphasis.py`).
    RestoreMean,
    /// `no_norm`: scale each state.
    Scale,
    /// `comfy`: go from the empty text's state to this one by the weight (ComfyUI's `sd1_clip.py`).
    Interpolate,
    /// `none`: nothing.
    Ignore,
}

impl Emphasis {
    /// Reads the parameter; without one, A1111's.
    ///
    /// # Errors
    /// [`Code::INVALID`](crate::Code::INVALID) for any other name.
    pub fn parse(name: Option<&str>) -> Result<Self, AbiError> {
        match name {
            None | Some("a1111") => Ok(Emphasis::RestoreMean),
            Some("no_norm") => Ok(Emphasis::Scale),
            Some("comfy") => Ok(Emphasis::Interpolate),
            Some("none") => Ok(Emphasis::Ignore),
            Some(other) => Err(AbiError::invalid(format!(
                "`emphasis` is a1111, no_norm, comfy or none, not `{}`",
                other.escape_debug()
            ))),
        }
    }

    /// Applies to one chunk: `states` is `[length, width]`, `weights` `[length]`, `empty` the states of the empty text in
    /// the shape of `states`; only [`Emphasis::Interpolate`] reads it.
    pub fn apply(self, states: &mut [f32], weights: &[f32], empty: &[f32]) {
        let width = states.len() / weights.len().max(1);
        if width == 0 || weights.iter().all(|w| *w == 1.0) {
            return;
        }
        match self {
            Emphasis::Ignore => {}
            Emphasis::Interpolate => {
                for (i, (value, empty)) in states.iter_mut().zip(empty).enumerate() {
                    *value = empty + (*value - empty) * weights[i / width];
                }
            }
            Emphasis::Scale => scale(states, weights, width),
            Emphasis::RestoreMean => {
                let before = mean(states);
                scale(states, weights, width);
                let ratio = (before / mean(states)) as f32;
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
        assert_eq!(Emphasis::parse(Some("loud")).unwrap_err().code, crate::Code::INVALID);
    }
}
