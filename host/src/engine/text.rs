//! From prompts to encoded texts on the device: scheduling, emphasis, chunks, cache keys.

use super::{
    device::{Cond, EncoderTokens, TextKey},
    run::Run,
};
use crate::{
    embeddings::Embeddings,
    fault::{Fault, FaultCode},
    library::Resolved,
};
use sd_prompt::{ChunkOptions, Chunks, FindEmbedding, Pass, Placeholder, PromptError, Schedule};
use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
};

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
pub(crate) fn check(
    prompt: &str,
    steps: u32,
    pass: Pass,
    overflow: sd_prompt::Overflow,
    model: &Resolved,
    embeddings: &Embeddings,
) -> Result<(), Fault> {
    let schedule = sd_prompt::schedule(prompt, steps, &sd_prompt::Options { pass, ..Default::default() })?;
    // Ids are given out by a device; only the number of tokens matters here.
    let find = |_: usize, name: &str| placeholder(embeddings, name, 0);
    for text in &schedule.texts {
        chunks(text, overflow, model, &find).map_err(|error| fault(error, embeddings))?;
    }
    Ok(())
}

fn placeholder(embeddings: &Embeddings, name: &str, first_id: u32) -> Option<Placeholder> {
    embeddings.find(name).map(|e| Placeholder { first_id, vectors: e.vectors() })
}

/// An unknown embedding may be here and not fit.
fn fault(error: PromptError, embeddings: &Embeddings) -> Fault {
    match error {
        PromptError::UnknownEmbedding { name } => embeddings.absent(&name),
        other => other.into(),
    }
}

fn chunks(
    text: &sd_prompt::WeightedText,
    overflow: sd_prompt::Overflow,
    model: &Resolved,
    find: &FindEmbedding<'_>,
) -> Result<Vec<Chunks>, PromptError> {
    let length = model.model.tokenizers.iter().map(|t| t.max_length).min().unwrap_or(77) as usize;
    let tokenizers: Vec<_> = model.tokenizers.iter().collect();
    let options = ChunkOptions { length, overflow, embeddings: Some(find), ..ChunkOptions::default() };
    sd_prompt::encode(text, &tokenizers, &options)
}

/// The chunks of a text with the ids that the device gave to the embeddings in it.
fn chunks_on_device(run: &Run<'_>, text: &sd_prompt::WeightedText) -> Result<Vec<Chunks>, Fault> {
    let embeddings = run.embeddings.as_ref();
    let named: RefCell<BTreeSet<String>> = RefCell::default();
    let seen = |_: usize, name: &str| {
        let found = placeholder(embeddings, name, 0)?;
        named.borrow_mut().insert(name.to_lowercase());
        Some(found)
    };
    let encode = |find: &FindEmbedding<'_>| {
        chunks(text, run.spec.overflow, run.model, find).map_err(|error| fault(error, embeddings))
    };
    let plain = encode(&seen)?;
    let mut ids: HashMap<String, Vec<u32>> = HashMap::new();
    for name in named.take() {
        let first = run.loaded.tokens.ids(run.device, embeddings, &name)?;
        ids.insert(name, first);
    }
    if ids.is_empty() {
        return Ok(plain);
    }
    encode(&|encoder, name| placeholder(embeddings, name, *ids.get(&name.to_lowercase())?.get(encoder)?))
}

/// Encodes the prompt or, with `negative`, the negative prompt.
pub(super) fn encode(run: &Run<'_>, negative: bool) -> Result<Encoded, Fault> {
    let (spec, defaults) = (run.spec, &run.model.model.defaults);
    let prompt = if negative { &spec.negative_prompt } else { &spec.prompt };
    let options = sd_prompt::Options { pass: run.pass, ..Default::default() };
    let schedule = sd_prompt::schedule(prompt, spec.steps, &options)?;
    let skip = spec.clip_skip.map_or(defaults.clip_skip, |layer| layer.saturating_sub(1));
    let mut params = vec![("emphasis".to_owned(), spec.emphasis.to_owned())];
    if skip > 0 {
        params.push(("clip_skip".to_owned(), skip.to_string()));
    }
    if negative && prompt.is_empty() && defaults.zero_empty_negative {
        params.push(("zero".to_owned(), "1".to_owned()));
    }
    let mut conds = Vec::with_capacity(schedule.texts.len());
    for text in &schedule.texts {
        let mut encoders: Vec<EncoderTokens> = chunks_on_device(run, text)?.into_iter().map(tokens).collect();
        encoders.truncate(run.loaded.desc.encoders.len());
        conds.push(run.device.text(TextKey { encoders, params: params.clone() }, &run.until.stop)?);
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
