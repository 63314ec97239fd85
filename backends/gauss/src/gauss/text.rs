//! From token ids to the mean of each latent channel.

use backend_api::{AbiError, TextRequest, find};

/// CLIP's vocabulary, so that its tokenizers can be used.
pub(crate) const VOCAB: u32 = 49408;

/// The hash of a text: FNV-1a (64 bit) over each encoder's tokens, each as four little-endian bytes of its id and four
/// of its weight's IEEE bits. `None` for a text that is to be encoded as zeros.
pub(crate) fn hash(request: &TextRequest<'_>, vocab: &[u32]) -> Result<Option<u64>, AbiError> {
    if request.inputs.len() != vocab.len() {
        return Err(AbiError::invalid(format!(
            "{} text encoders need one input each, got {}",
            vocab.len(),
            request.inputs.len()
        )));
    }
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for input in request.inputs.iter() {
        let Some(&known) = vocab.get(input.encoder as usize) else {
            return Err(AbiError::invalid(format!("there is no text encoder {}", input.encoder)));
        };
        for (token, weight) in input.tokens.iter().zip(input.weights.iter()) {
            if *token >= known {
                return Err(AbiError::invalid(format!("token {token} is outside the vocabulary of {known}")));
            }
            for byte in token.to_le_bytes().into_iter().chain(weight.to_bits().to_le_bytes()) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
    }
    Ok((find(&request.params, "zero") != Some("1")).then_some(hash))
}

/// The mean of channel `c` for a text's hash: `spread · (u/2²³ − 1)`, where `u` is the upper 24 bits of the splitmix64
/// finalizer of `hash + c`. It lies in `[−spread, spread)` and is exact in `f32` for a spread of 1.
pub(crate) fn mean(hash: u64, channel: u32, spread: f32) -> f32 {
    let mut z = hash.wrapping_add(u64::from(channel));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    spread * ((z >> 40) as f32 / 8_388_608.0 - 1.0)
}
