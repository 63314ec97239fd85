//! Answers of diffusers for the small model, as a file: no reference backend is needed to check against them.

use super::{
    Outcome, Plan, Run, Trouble, close, not_tried,
    subject::{Subject, quiet},
};
use backend_api::{AbiError, EncoderInput, TextRequest, abi_stable::std_types::RSlice, find};
use safetensors::{Dtype, SafeTensors};

/// The file, in memory.
struct Golden(Vec<u8>);

impl Golden {
    /// A tensor's shape and values; whole numbers come as floats too.
    fn get(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>), Trouble> {
        let bad = |what: String| Trouble::Wrong(format!("the golden file: {what}"));
        let file = SafeTensors::deserialize(&self.0).map_err(|e| bad(e.to_string()))?;
        let view = file.tensor(name).map_err(|e| bad(e.to_string()))?;
        let words = view.data().chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
        let values = match view.dtype() {
            Dtype::F32 => words.map(f32::from_le_bytes).collect(),
            Dtype::I32 => words.map(|b| i32::from_le_bytes(b) as f32).collect(),
            other => return Err(bad(format!("`{name}` is {other:?}"))),
        };
        Ok((view.shape().to_vec(), values))
    }
}

fn four(shape: &[usize]) -> Result<[usize; 4], Trouble> {
    shape.try_into().map_err(|_| Trouble::Wrong("the golden file: a shape without four extents".to_owned()))
}

/// Encodes rows of tokens, as the golden file has them.
fn encode(s: &mut Subject, rows: &[f32], length: usize) -> Result<Vec<u64>, AbiError> {
    let mut conds = Vec::new();
    for row in rows.chunks_exact(length) {
        let tokens: Vec<u32> = row.iter().map(|t| *t as u32).collect();
        let weights = vec![1.0; length];
        let input = EncoderInput {
            encoder: 0,
            chunk_length: length as u32,
            tokens: tokens.as_slice().into(),
            weights: weights.as_slice().into(),
            empty: RSlice::EMPTY,
            params: RSlice::EMPTY,
        };
        let inputs = [input];
        let request = TextRequest { inputs: inputs[..].into(), params: RSlice::EMPTY };
        conds.push(s.session.encode_text(request, &quiet()).into_result()?.cond);
    }
    Ok(conds)
}

fn predicts(s: &mut Subject, golden: &Golden, tolerance: f32) -> Outcome {
    let (tokens, rows) = golden.get("tokens")?;
    let conds = encode(s, &rows, tokens[1])?;
    let (shape, x) = golden.get("x")?;
    let [n, c, h, w] = four(&shape)?;
    let ((_, texts), (_, timesteps), (_, out)) = (golden.get("text")?, golden.get("timesteps")?, golden.get("out")?);
    let mut found = Vec::new();
    for (i, x) in x.chunks_exact(c * h * w).enumerate().take(n) {
        let cond = conds[texts[i] as usize % conds.len()];
        found.extend(s.predict_shaped(x, [1, c, h, w], &[(cond, timesteps[i])], &quiet())?);
    }
    close(&found, &out, tolerance)
}

pub(super) fn checks(run: &mut Run<'_>, s: &mut Subject, plan: &Plan<'_>) {
    let Some(path) = &plan.golden else {
        run.check("predicts as diffusers", || not_tried("there is no golden file for this model"));
        return;
    };
    let read = || {
        let bytes = std::fs::read(path);
        bytes.map(Golden).map_err(|e| Trouble::Wrong(format!("the golden file cannot be read: {}", e.kind())))
    };
    run.check("predicts as diffusers", || predicts(s, &read()?, plan.tolerance));
    run.check("decodes as diffusers", || {
        let golden = read()?;
        let ((shape, latents), (_, picture)) = (golden.get("latents")?, golden.get("picture")?);
        close(&s.decode_shaped(&latents, four(&shape)?, s.desc.vae_factor, &quiet())?, &picture, plan.tolerance)
    });
    run.check("encodes as diffusers", || {
        if find(&s.desc.params, "encode") != Some("1") {
            return not_tried("it does not offer it");
        }
        let golden = read()?;
        let ((_, picture), (_, moments)) = (golden.get("picture")?, golden.get("moments")?);
        close(&s.encode_picture(&picture, &quiet())?, &moments, plan.tolerance)
    });
}
