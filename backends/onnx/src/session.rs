//! An opened model: texts, steps and pictures by way of the four networks.

use crate::{
    device::Networks,
    network::{Feed, Network},
};
use backend_api::{
    AbiError, Ctl, EncoderInput, Param, PredictItem, Stage, StepStats, TensorMut, TensorRef, TextEncoded, TextRequest,
    abi_stable::std_types::RVec,
    author::{self, Emphasis},
    find,
};
use std::{collections::HashMap, sync::Arc, time::Instant};

/// The states of a text: `[tokens, hidden]`.
struct Text {
    states: Vec<f32>,
    tokens: usize,
}

pub(crate) struct Session {
    networks: Arc<Networks>,
    texts: HashMap<u64, Text>,
    next: u64,
}

/// Runs a network that must answer so many values.
fn run(
    network: &Network,
    feeds: &[(&str, &[i64], Feed<'_>)],
    output: &str,
    wanted: usize,
    ctl: &Ctl,
) -> Result<Vec<f32>, AbiError> {
    let (values, shape) = network.run(feeds, output, ctl)?;
    if values.len() == wanted {
        return Ok(values);
    }
    Err(AbiError::invalid(format!("the network answers {shape:?}, which is not what its config says")))
}

impl Session {
    pub(crate) fn new(networks: Arc<Networks>) -> Self {
        Session { networks, texts: HashMap::new(), next: 1 }
    }

    /// The states of the chunks of `tokens`, one run for each chunk: a batch may round differently.
    fn states(&self, tokens: &[u32], length: usize, output: &str, ctl: &Ctl) -> Result<Vec<f32>, AbiError> {
        let facts = &self.networks.facts;
        let mut states = Vec::with_capacity(tokens.len() * facts.hidden as usize);
        for chunk in tokens.chunks_exact(length) {
            let feed = [("input_ids", &[1, length as i64][..], Feed::Tokens(chunk))];
            states.extend(run(&self.networks.text, &feed, output, length * facts.hidden as usize, ctl)?);
        }
        Ok(states)
    }

    /// The output that holds the wanted layer.
    fn layer(&self, skip: &str) -> Result<String, AbiError> {
        let skip: usize = skip.parse().map_err(|_| AbiError::invalid("`clip_skip` must be a number of layers"))?;
        if skip == 0 {
            return Ok("last_hidden_state".to_owned());
        }
        Err(AbiError::unsupported("`clip_skip`: the export holds the last layer only, behind the final norm"))
    }

    fn encode_input(&self, input: &EncoderInput<'_>, request: &TextRequest<'_>, ctl: &Ctl) -> Result<Text, AbiError> {
        let facts = &self.networks.facts;
        let (tokens, weights) = (input.tokens.as_slice(), input.weights.as_slice());
        let length = input.chunk_length as usize;
        if length > facts.tokens as usize || tokens.len() > 1024 * length {
            return Err(AbiError::invalid(format!("a text has up to 1024 chunks of {} tokens", facts.tokens)));
        }
        if find(&request.params, "zero") == Some("1") {
            return Ok(Text { states: vec![0.0; tokens.len() * facts.hidden as usize], tokens: tokens.len() });
        }
        let output = self.layer(find(&request.params, "clip_skip").unwrap_or("0"))?;
        let emphasis = Emphasis::parse(find(&request.params, "emphasis"))?;
        let mut states = self.states(tokens, length, &output, ctl)?;
        if weights.iter().any(|w| *w != 1.0) {
            let empty = match emphasis {
                Emphasis::Interpolate if input.empty.len() != length => {
                    return Err(AbiError::invalid("this emphasis needs one chunk with the tokens of the empty text"));
                }
                Emphasis::Interpolate => self.states(&input.empty, length, &output, ctl)?,
                _ => Vec::new(),
            };
            let chunks = states.chunks_exact_mut(length * facts.hidden as usize);
            chunks.zip(weights.chunks_exact(length)).for_each(|(chunk, w)| emphasis.apply(chunk, w, &empty));
        }
        Ok(Text { states, tokens: tokens.len() })
    }

    fn shapes(&self) -> author::Shapes {
        author::Shapes { channels: self.networks.facts.channels, factor: self.networks.facts.factor }
    }
}

fn extents(shape: [usize; 4]) -> [i64; 4] {
    shape.map(|extent| extent as i64)
}

impl author::Diffusion for Session {
    fn encode_text(&mut self, request: &TextRequest<'_>, ctl: &Ctl) -> Result<TextEncoded, AbiError> {
        let input = author::only_text(request, self.networks.facts.vocab)?;
        let text = self.encode_input(input, request, ctl)?;
        let (cond, tokens, bytes) = (self.next, text.tokens as u32, size_of_val(text.states.as_slice()) as u64);
        self.next += 1;
        self.texts.insert(cond, text);
        Ok(TextEncoded { cond, tokens, bytes, params: RVec::new() })
    }

    fn free_cond(&mut self, cond: u64) {
        self.texts.remove(&cond);
    }

    /// Items that share a timestep and a text's length run as one batch: the usual exports take one timestep a run.
    fn predict(
        &mut self,
        x: TensorRef<'_>,
        items: &[PredictItem<'_>],
        mut out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Result<StepStats, AbiError> {
        let start = Instant::now();
        let [_, c, h, w] = self.shapes().latents(x.dims()?)?;
        let texts = items
            .iter()
            .map(|item| self.texts.get(&item.cond).ok_or_else(|| AbiError::invalid("there is no such encoded text")))
            .collect::<Result<Vec<_>, _>>()?;
        let (values, size) = (x.to_f32()?, c * h * w);
        let mut result = vec![0.0; values.len()];
        let mut left: Vec<usize> = (0..items.len()).collect();
        while let Some(&first) = left.first() {
            let alike = |i: &usize| {
                items[*i].timestep.to_bits() == items[first].timestep.to_bits()
                    && texts[*i].tokens == texts[first].tokens
            };
            let (group, rest): (Vec<usize>, Vec<usize>) = left.iter().partition(|i| alike(i));
            left = rest;
            let n = group.len();
            let batch: Vec<f32> = group.iter().flat_map(|i| &values[i * size..][..size]).copied().collect();
            let states: Vec<f32> = group.iter().flat_map(|i| &texts[*i].states).copied().collect();
            let feeds = [
                ("sample", &extents([n, c, h, w])[..], Feed::Floats(&batch)),
                ("timestep", &[1], Feed::Floats(&[items[first].timestep])),
                (
                    "encoder_hidden_states",
                    &[n as i64, texts[first].tokens as i64, i64::from(self.networks.facts.hidden)],
                    Feed::Floats(&states),
                ),
            ];
            let answer = run(&self.networks.unet, &feeds, "out_sample", batch.len(), ctl)?;
            for (i, answer) in group.iter().zip(answer.chunks_exact(size)) {
                result[i * size..][..size].copy_from_slice(answer);
            }
        }
        out.write_f32(&result)?;
        Ok(StepStats::since(start))
    }

    fn decode(
        &mut self,
        latents: TensorRef<'_>,
        _: &[Param],
        mut out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Result<StepStats, AbiError> {
        let start = Instant::now();
        let [n, c, h, w] = self.shapes().pictures(latents.dims()?, out.dims()?)?;
        let facts = &self.networks.facts;
        let mut values = latents.to_f32()?;
        values.iter_mut().for_each(|v| *v = *v / facts.scaling + facts.shift);
        let (height, width) = (h * facts.factor, w * facts.factor);
        let mut pixels = Vec::with_capacity(n * height * width * 3);
        for (i, item) in values.chunks_exact(c * h * w).enumerate() {
            ctl.progress(Stage::DECODE, i as u64, n as u64);
            let feed = [("latent_sample", &extents([1, c, h, w])[..], Feed::Floats(item))];
            let planes = run(&self.networks.decoder, &feed, "sample", 3 * height * width, ctl)?;
            let plane = height * width;
            pixels.extend(
                (0..plane).flat_map(|p| [0, 1, 2].map(|k| (planes[k * plane + p] / 2.0 + 0.5).clamp(0.0, 1.0))),
            );
        }
        out.write_picture(&pixels)?;
        Ok(StepStats::since(start))
    }

    fn encode(
        &mut self,
        image: TensorRef<'_>,
        options: &[Param],
        mut out: TensorMut<'_>,
        ctl: &Ctl,
    ) -> Result<StepStats, AbiError> {
        let start = Instant::now();
        let Some(network) = &self.networks.encoder else {
            return Err(AbiError::unsupported("encoding of pictures: the export has no VAE encoder with its moments"));
        };
        let [n, c, h, w] = self.shapes().moments(image.dims()?, out.dims()?)?;
        let facts = &self.networks.facts;
        let values = image.to_picture()?;
        let (scaling, shift) =
            if find(options, "raw") == Some("1") { (1.0, 0.0) } else { (facts.scaling, facts.shift) };
        let (height, width) = (h * facts.factor, w * facts.factor);
        let plane = height * width;
        let mut result = Vec::with_capacity(n * 2 * c * h * w);
        for picture in values.chunks_exact(3 * plane) {
            let planes: Vec<f32> =
                (0..3).flat_map(|k| (0..plane).map(move |p| picture[p * 3 + k] * 2.0 - 1.0)).collect();
            let feed = [("sample", &extents([1, 3, height, width])[..], Feed::Floats(&planes))];
            let found = run(network, &feed, "latent_parameters", 2 * c * h * w, ctl)?;
            let (means, logs) = found.split_at(c * h * w);
            result.extend(means.iter().map(|v| (v - shift) * scaling));
            // The bounds are those of diffusers' DiagonalGaussianDistribution.
            result.extend(logs.iter().map(|v| (v.clamp(-30.0, 20.0) / 2.0).exp() * scaling));
        }
        out.write_f32(&result)?;
        Ok(StepStats::since(start))
    }
}
