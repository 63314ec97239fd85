//! From prompts to encoded texts on the device: scheduling, emphasis, chunks, cache keys.

use super::device::{Cond, Device, EncoderTokens, LoadedModel, TextKey};
use crate::{
    fault::{Fault, FaultCode},
    jobs::JobSpec,
    library::Resolved,
};
use sd_prompt::{ChunkOptions, Chunks, PromptError, Schedule};
use std::sync::{Arc, atomic::AtomicBool};

/// A prompt whose texts are on the device.
#[derive(Debug)]
pub(super) struct Encoded {
    schedule: Schedule,
    conds: Vec<Cond>,
}

impl Encoded {
    /// The text of a step, counted from 0.
    pub(super) fn at(&self, step: usize) -> &Cond {
        &self.conds[self.schedule.text_at(step as u32)]
    }
}

impl From<PromptError> for Fault {
    fn from(error: PromptError) -> Self {
        let code = match error.code() {
            "prompt_too_long" => FaultCode::PromptTooLong,
            _ => FaultCode::InvalidRequest,
        };
        Fault::new(code, error.to_string()).about("prompt")
    }
}

/// Resolves and tokenizes a prompt without a device: what can be wrong with it shows here, before a job is queued.
pub(crate) fn check(prompt: &str, steps: u32, overflow: sd_prompt::Overflow, model: &Resolved) -> Result<(), Fault> {
    let schedule = sd_prompt::schedule(prompt, steps, &sd_prompt::Options::default())?;
    Ok(schedule.texts.iter().try_for_each(|text| chunks(text, overflow, model).map(|_| ()))?)
}

fn chunks(
    text: &sd_prompt::WeightedText,
    overflow: sd_prompt::Overflow,
    model: &Resolved,
) -> Result<Vec<Chunks>, PromptError> {
    let length = model.model.tokenizers.iter().map(|t| t.max_length).min().unwrap_or(77) as usize;
    let tokenizers: Vec<_> = model.tokenizers.iter().collect();
    sd_prompt::encode(text, &tokenizers, &ChunkOptions { length, overflow, ..ChunkOptions::default() })
}

/// Encodes the prompt or, with `negative`, the negative prompt.
pub(super) fn encode(
    device: &Device,
    model: &Resolved,
    loaded: &LoadedModel,
    spec: &JobSpec,
    negative: bool,
    stop: &Arc<AtomicBool>,
) -> Result<Encoded, Fault> {
    let prompt = if negative { &spec.negative_prompt } else { &spec.prompt };
    let schedule = sd_prompt::schedule(prompt, spec.steps, &sd_prompt::Options::default())?;
    let skip = spec.clip_skip.map_or(model.model.defaults.clip_skip, |layer| layer.saturating_sub(1));
    let mut params = vec![("emphasis".to_owned(), spec.emphasis.to_owned())];
    if skip > 0 {
        params.push(("clip_skip".to_owned(), skip.to_string()));
    }
    if negative && prompt.is_empty() && model.model.defaults.zero_empty_negative {
        params.push(("zero".to_owned(), "1".to_owned()));
    }
    let mut conds = Vec::with_capacity(schedule.texts.len());
    for text in &schedule.texts {
        let mut encoders: Vec<EncoderTokens> = chunks(text, spec.overflow, model)?.into_iter().map(tokens).collect();
        encoders.truncate(loaded.desc.encoders.len());
        conds.push(device.text(TextKey { encoders, params: params.clone() }, stop)?);
    }
    Ok(Encoded { schedule, conds })
}

fn tokens(chunks: Chunks) -> EncoderTokens {
    EncoderTokens {
        chunk_length: chunks.length as u32,
        weights: chunks.weights.iter().map(|w| w.to_bits()).collect(),
        tokens: chunks.tokens,
        empty: chunks.empty,
    }
}
