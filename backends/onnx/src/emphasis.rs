//! Token weights applied to a text's states, as the interface's `emphasis` says.

use backend_api::AbiError;

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
    pub(crate) fn parse(name: Option<&str>) -> Result<Self, AbiError> {
        match name {
            None | Some("a1111") => Ok(Emphasis::RestoreMean),
            Some("no_norm") => Ok(Emphasis::Scale),
            Some("comfy") => Ok(Emphasis::Interpolate),
            Some("none") => Ok(Emphasis::Ignore),
            Some(_) => Err(AbiError::invalid("`emphasis` is a1111, no_norm, comfy or none")),
        }
    }

    /// Applies to one chunk: `states` is `[length, width]`, `empty` the states of the empty text.
    pub(crate) fn apply(self, states: &mut [f32], weights: &[f32], empty: &[f32]) {
        let width = states.len() / weights.len().max(1);
        if width == 0 || weights.iter().all(|w| *w == 1.0) {
            return;
        }
        let scale = |states: &mut [f32]| {
            for (state, weight) in states.chunks_exact_mut(width).zip(weights) {
                state.iter_mut().for_each(|v| *v *= weight);
            }
        };
        match self {
            Emphasis::Ignore => {}
            Emphasis::Scale => scale(states),
            Emphasis::Interpolate => {
                for (i, (value, empty)) in states.iter_mut().zip(empty).enumerate() {
                    *value = empty + (*value - empty) * weights[i / width];
                }
            }
            Emphasis::RestoreMean => {
                let mean = |values: &[f32]| values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64;
                let before = mean(states);
                scale(states);
                let ratio = (before / mean(states)) as f32;
                if ratio.is_finite() {
                    states.iter_mut().for_each(|v| *v *= ratio);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_weigh_as_their_origins_do() {
        for (mode, weights, expected) in [
            ("none", [2.0, 1.0], [1.0, 2.0, 3.0, 6.0]),
            ("no_norm", [2.0, 1.0], [2.0, 4.0, 3.0, 6.0]),
            // The mean is 3 before and 3.75 after.
            ("a1111", [2.0, 1.0], [1.6, 3.2, 2.4, 4.8]),
            ("comfy", [2.0, 0.5], [1.0, 3.0, 2.0, 3.5]),
        ] {
            let mut states = [1.0, 2.0, 3.0, 6.0];
            Emphasis::parse(Some(mode)).unwrap().apply(&mut states, &weights, &[1.0; 4]);
            assert!(states.iter().zip(expected).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-6), "{mode}: {states:?}");
        }
        assert!(Emphasis::parse(Some("loud")).is_err());
    }
}
