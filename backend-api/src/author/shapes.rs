//! What every backend checks of a call before it works: sizes that fit the model, and texts that its encoder can read.

use crate::{AbiError, EncoderInput, TextRequest};

/// The two sizes that a model's [`crate::DiffusionDesc`] promises. Each method says whether a call's tensors fit them, and
/// answers the latents' `[n, c, h, w]`, none of them 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shapes {
    /// Channels of the latents.
    pub channels: usize,
    /// Pixels of a latent cell in each direction.
    pub factor: usize,
}

impl Shapes {
    /// For `predict`, whose output has the shape of its input.
    ///
    /// # Errors
    /// [`Code::INVALID`](crate::Code::INVALID), as of the other methods.
    pub fn latents(&self, latents: [usize; 4]) -> Result<[usize; 4], AbiError> {
        let [_, c, _, _] = latents;
        if c != self.channels || latents.contains(&0) {
            let channels = self.channels;
            return Err(AbiError::invalid(format!("latents {latents:?}; this model takes [n, {channels}, h, w]")));
        }
        Ok(latents)
    }

    /// For `decode` and `preview`: latents, and the pictures `[n, h·factor, w·factor, 3]` that they become.
    pub fn pictures(&self, latents: [usize; 4], pictures: [usize; 4]) -> Result<[usize; 4], AbiError> {
        let [n, _, h, w] = self.latents(latents)?;
        let side = |cells: usize| cells.checked_mul(self.factor);
        if [Some(n), side(h), side(w), Some(3)] != pictures.map(Some) {
            let factor = self.factor;
            return Err(AbiError::invalid(format!(
                "latents {latents:?} and pictures {pictures:?} do not fit: a latent cell is {factor} × {factor} pixels"
            )));
        }
        Ok(latents)
    }

    /// For `encode`: pictures, and the `[n, 2·channels, h, w]` means and deviations of the latents that they become.
    pub fn moments(&self, pictures: [usize; 4], moments: [usize; 4]) -> Result<[usize; 4], AbiError> {
        let [n, both, h, w] = moments;
        if both != 2 * self.channels {
            let channels = self.channels;
            return Err(AbiError::invalid(format!(
                "an encoded picture has {channels} means and {channels} deviations for each cell, not {both} values"
            )));
        }
        self.pictures([n, self.channels, h, w], pictures)
    }
}

/// The text of a model with one text encoder, every token of which is below `vocabulary`.
///
/// # Errors
/// [`Code::INVALID`](crate::Code::INVALID) for another number of encoders, or another token.
pub fn only_text<'r>(request: &'r TextRequest<'_>, vocabulary: u32) -> Result<&'r EncoderInput<'r>, AbiError> {
    let [input] = request.inputs.as_slice() else {
        return Err(AbiError::invalid(format!("this model has one text encoder, not {}", request.inputs.len())));
    };
    if input.encoder != 0 {
        return Err(AbiError::invalid(format!("there is no text encoder {}; this model has one", input.encoder)));
    }
    match input.tokens.iter().chain(input.empty.iter()).find(|token| **token >= vocabulary) {
        Some(token) => Err(AbiError::invalid(format!("token {token} is outside the vocabulary of {vocabulary}"))),
        None => Ok(input),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi_stable::std_types::RSlice;

    const SHAPES: Shapes = Shapes { channels: 4, factor: 8 };

    #[test]
    fn what_fits_is_told_from_what_does_not() {
        assert_eq!(SHAPES.latents([2, 4, 3, 5]).unwrap(), [2, 4, 3, 5]);
        for wrong in [[2, 5, 3, 5], [0, 4, 3, 5], [2, 4, 0, 5], [2, 4, 3, 0]] {
            assert!(SHAPES.latents(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(SHAPES.pictures([2, 4, 3, 5], [2, 24, 40, 3]).unwrap(), [2, 4, 3, 5]);
        for wrong in [[1, 24, 40, 3], [2, 24, 40, 4], [2, 40, 24, 3], [2, 24, 41, 3]] {
            assert!(SHAPES.pictures([2, 4, 3, 5], wrong).is_err(), "{wrong:?}");
        }
        assert!(SHAPES.pictures([1, 4, usize::MAX, 1], [1, usize::MAX, 8, 3]).is_err(), "no overflow");
        assert_eq!(SHAPES.moments([2, 24, 40, 3], [2, 8, 3, 5]).unwrap(), [2, 4, 3, 5]);
        for wrong in [[2, 4, 3, 5], [2, 9, 3, 5], [1, 8, 3, 5], [2, 8, 5, 3]] {
            assert!(SHAPES.moments([2, 24, 40, 3], wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_one_text_is_known_whole() {
        let check = |encoders: &[u32], tokens: &[u32], empty: &[u32]| {
            let input = |encoder: &u32| EncoderInput {
                encoder: *encoder,
                chunk_length: 2,
                tokens: tokens.into(),
                weights: [1.0, 1.0][..].into(),
                empty: empty.into(),
                params: RSlice::EMPTY,
            };
            let inputs: Vec<_> = encoders.iter().map(input).collect();
            let request = TextRequest { inputs: inputs.as_slice().into(), params: RSlice::EMPTY };
            only_text(&request, 10).map(|input| input.tokens.len())
        };
        assert_eq!(check(&[0], &[1, 9], &[]).unwrap(), 2);
        for (encoders, tokens, empty) in [
            (&[][..], [1, 2], &[][..]),
            (&[0, 1], [1, 2], &[]),
            (&[1], [1, 2], &[]),
            (&[0], [1, 10], &[]),
            (&[0], [1, 2], &[10]),
        ] {
            assert!(check(encoders, &tokens, empty).is_err(), "{encoders:?} {tokens:?} {empty:?}");
        }
    }
}
