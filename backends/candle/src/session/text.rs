//! Encoded texts of a session: made, kept, forgotten.

use super::model::Parts;
use crate::{
    Error, Result,
    models::{
        clip::{Tokens, Wanted},
        transformer::TextKeys,
    },
    ops::Activation,
};
use backend_api::{Ctl, EncoderInput, TextRequest, author::Emphasis, find};
use std::{collections::HashMap, sync::Arc};

/// Bytes of keys and values that are kept over all texts; the texts not used for longest lose theirs first.
const KEYS_BUDGET: u64 = 512 << 20;

struct Text {
    /// `[1, 1, tokens, width]`.
    states: Activation,
    pooled: Option<Vec<f32>>,
    keys: Option<Arc<TextKeys>>,
    /// When it was used last, in calls.
    used: u64,
}

/// The texts of a session.
#[derive(Default)]
pub(crate) struct Texts {
    known: HashMap<u64, Text>,
    next: u64,
    clock: u64,
}

/// One text as a prediction takes it.
pub(crate) struct Ready {
    pub(crate) keys: Arc<TextKeys>,
    pub(crate) pooled: Option<Vec<f32>>,
}

impl Texts {
    /// Keeps a text; answers its id.
    pub(crate) fn keep(&mut self, states: Activation, pooled: Option<Vec<f32>>) -> u64 {
        self.next += 1;
        self.known.insert(self.next, Text { states, pooled, keys: None, used: self.clock });
        self.next
    }

    pub(crate) fn forget(&mut self, id: u64) {
        self.known.remove(&id);
    }

    /// Bytes that all texts hold.
    pub(crate) fn bytes(&self) -> u64 {
        let keys = |t: &Text| t.keys.as_ref().map_or(0, |k| k.bytes());
        self.known.values().map(|t| t.states.bytes() + keys(t)).sum()
    }

    /// The texts of a batch, their keys made if need be.
    pub(crate) fn ready(&mut self, parts: &Parts, ids: &[u64], ctl: &Ctl) -> Result<Vec<Ready>> {
        self.clock += 1;
        let clock = self.clock;
        let mut batch = Vec::with_capacity(ids.len());
        for id in ids {
            let text =
                self.known.get_mut(id).ok_or_else(|| Error::invalid(format!("there is no encoded text {id}")))?;
            text.used = clock;
            let keys = match &text.keys {
                Some(keys) => keys.clone(),
                None => {
                    let keys = Arc::new(parts.unet.text_keys(&text.states, ctl)?);
                    text.keys = Some(keys.clone());
                    keys
                }
            };
            batch.push(Ready { keys, pooled: text.pooled.clone() });
        }
        self.shrink(clock);
        Ok(batch)
    }

    /// Drops keys until the budget is kept, never those of this call.
    fn shrink(&mut self, clock: u64) {
        let bytes = |t: &Text| t.keys.as_ref().map_or(0, |k| k.bytes());
        let mut total: u64 = self.known.values().map(bytes).sum();
        while total > KEYS_BUDGET {
            let old = self.known.values_mut().filter(|t| t.used < clock && t.keys.is_some()).min_by_key(|t| t.used);
            let Some(text) = old else { return };
            total -= bytes(text);
            text.keys = None;
        }
    }
}

/// What a request's params ask for.
struct Wishes {
    skip: usize,
    emphasis: Emphasis,
    zero: bool,
}

impl Wishes {
    fn parse(request: &TextRequest<'_>) -> Result<Self> {
        let params = request.params.as_slice();
        let skip = find(params, "clip_skip").unwrap_or("0");
        Ok(Wishes {
            skip: skip.parse().map_err(|_| Error::invalid("`clip_skip` must be a number of layers"))?,
            emphasis: Emphasis::parse(find(params, "emphasis")).map_err(|e| Error::invalid(e.message))?,
            zero: find(params, "zero") == Some("1"),
        })
    }
}

/// Runs every text encoder and joins what they give: states side by side, pooled text from the last encoder.
pub(crate) fn encode(
    parts: &Parts,
    added: &[Vec<f32>],
    request: &TextRequest<'_>,
    ctl: &Ctl,
) -> Result<(Activation, Option<Vec<f32>>)> {
    let wishes = Wishes::parse(request)?;
    let count = parts.encoders.len();
    let mut inputs: Vec<Option<&EncoderInput<'_>>> = vec![None; count];
    for input in request.inputs.iter() {
        let slot = inputs.get_mut(input.encoder as usize);
        *slot.ok_or_else(|| Error::invalid(format!("the model has {count} text encoders")))? = Some(input);
    }
    let mut states: Vec<(Vec<f32>, usize)> = Vec::with_capacity(count);
    let mut pooled = None;
    let mut positions = None;
    for (i, (encoder, input)) in parts.encoders.iter().zip(inputs).enumerate() {
        let input = input.ok_or_else(|| Error::invalid(format!("text encoder {i} got no tokens")))?;
        if *positions.get_or_insert(input.tokens.len()) != input.tokens.len() {
            return Err(Error::invalid("all text encoders must get the same number of tokens"));
        }
        if input.tokens.len() > 77 * 1024 || input.chunk_length == 0 {
            return Err(Error::invalid("a text has at most 1,024 chunks"));
        }
        // XL takes the state before the last layer, without the final norm; diffusers counts `clip_skip` from there.
        let xl = parts.pooled_width.is_some();
        let last = i + 1 == count;
        let wanted = Wanted { skip: wishes.skip + usize::from(xl), normed: !xl, pooled: xl && last };
        let width = encoder.config().hidden_size;
        if wishes.zero {
            states.push((vec![0.0; input.tokens.len() * width], width));
            pooled = parts.pooled_width.map(|w| vec![0.0; w]);
            continue;
        }
        let ops = parts.ops.as_ref();
        let length = input.chunk_length as usize;
        let tokens = Tokens { ids: input.tokens.as_slice(), length, added: &added[i] };
        let encoded = encoder.forward(ops, tokens, wanted, ctl)?;
        let mut values = encoded.states.to_vec()?;
        let weights = input.weights.as_slice();
        if weights.iter().any(|w| *w != 1.0) && wishes.emphasis != Emphasis::Ignore {
            let empty = if wishes.emphasis == Emphasis::Interpolate {
                if input.empty.len() != length {
                    return Err(Error::invalid("this emphasis needs one chunk with the tokens of the empty text"));
                }
                let tokens = Tokens { ids: input.empty.as_slice(), ..tokens };
                encoder.forward(ops, tokens, Wanted { pooled: false, ..wanted }, ctl)?.states.to_vec()?
            } else {
                Vec::new()
            };
            for (chunk, weights) in values.chunks_exact_mut(length * width).zip(weights.chunks_exact(length)) {
                wishes.emphasis.apply(chunk, weights, &empty);
            }
        }
        states.push((values, width));
        pooled = encoded.pooled.or(pooled);
    }
    let positions = positions.unwrap_or(0);
    let total: usize = states.iter().map(|(_, w)| w).sum();
    let mut joined = Vec::with_capacity(positions * total);
    for position in 0..positions {
        for (values, width) in &states {
            joined.extend_from_slice(&values[position * width..][..*width]);
        }
    }
    if joined.iter().any(|v| !v.is_finite()) {
        return Err(Error::Output("text encoder"));
    }
    Ok((Activation::from_vec(joined, [1, 1, positions, total], parts.ops.device())?, pooled))
}
