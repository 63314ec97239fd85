//! How long the networks take: `cargo run --release -p sd-candle --example steps [MODEL_FOLDER] [THREADS] [KERNELS]`.
//!
//! Prints milliseconds of a text, of a batch of two for one step, and of a decode, each the median of several, and what
//! 20 steps with a decode come to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests stop at the first surprise")]

use backend_api::{
    Control, Control_TO, EncoderInput, ModelSource, Param, PredictItem, Stage, TensorMut, TensorRef, TextRequest,
    abi_stable::{sabi_trait::prelude::TD_Opaque, std_types::RArc},
    author::Backend,
};
use sd_candle::{CandleBackend, ops};
use std::{error::Error, path::Path, sync::Arc, time::Instant};

struct Never;

impl Control for Never {
    fn cancelled(&self) -> bool {
        false
    }
    fn progress(&self, _stage: Stage, _done: u64, _total: u64) {}
}

fn median(times: usize, mut f: impl FnMut() -> Result<(), backend_api::AbiError>) -> Result<f64, Box<dyn Error>> {
    let mut taken = Vec::with_capacity(times);
    for _ in 0..times {
        let start = Instant::now();
        f()?;
        taken.push(start.elapsed().as_secs_f64() * 1e3);
    }
    taken.sort_by(f64::total_cmp);
    Ok(taken[times / 2])
}

#[allow(clippy::print_stdout, reason = "a program for people")]
fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let folder =
        args.next().unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/emoji-sd").to_owned());
    let threads = args.next().map_or(Ok(2), |t| t.parse())?;
    let kernels = args.next().unwrap_or_else(|| "auto".to_owned());
    let (mut files, mut configs) = (Vec::new(), Vec::new());
    for (role, file) in [
        ("text_encoder", "model.safetensors"),
        ("unet", "diffusion_pytorch_model.safetensors"),
        ("vae", "diffusion_pytorch_model.safetensors"),
    ] {
        let part = Path::new(&folder).join(role);
        configs.push(Param::new(role, std::fs::read_to_string(part.join("config.json"))?));
        files.push(Param::new(role, part.join(file).display()));
    }
    let source =
        ModelSource { name: "bench".into(), files: files.into(), configs: configs.into(), options: Vec::new().into() };
    let ctl = Control_TO::from_ptr(RArc::new(Never), TD_Opaque);
    let ops = ops::cpu::choose(&kernels).ok_or("no such kernels here")?;
    println!("{} kernels, {threads} threads", ops.name());
    ops::cpu::keep_freed_memory();
    let backend = CandleBackend::new(Arc::from(ops), threads)?;
    let start = Instant::now();
    let model = backend.load(&source, &ctl)?;
    println!("load        {:8.2} ms", start.elapsed().as_secs_f64() * 1e3);
    let (desc, mut session) = model.diffusion(&[])?;
    let (side, channels) = (u64::from(desc.sample_size.max(8)), u64::from(desc.latent_channels));
    let (tokens, weights) = (vec![1u32; 77], vec![1f32; 77]);
    let input = EncoderInput {
        encoder: 0,
        chunk_length: 77,
        tokens: tokens.as_slice().into(),
        weights: weights.as_slice().into(),
        empty: (&[][..]).into(),
        params: (&[][..]).into(),
    };
    let request = TextRequest { inputs: std::slice::from_ref(&input).into(), params: (&[][..]).into() };
    let mut cond = 0;
    let text = median(9, || {
        cond = session.encode_text(&request, &ctl)?.cond;
        Ok(())
    })?;
    let item = |timestep| PredictItem { cond, timestep, sigma: 1.0, extra: (&[][..]).into(), params: (&[][..]).into() };
    let items = [item(500.0), item(500.0)];
    let shape = [2, channels, side, side];
    let count = shape.iter().product::<u64>() as usize;
    let x: Vec<f32> = (0..count).map(|i| (i as f32 * 0.37).sin()).collect();
    let mut out = vec![0f32; count];
    let step = median(21, || {
        session.predict(TensorRef::f32("", &shape, &x)?, &items, TensorMut::f32(&shape, &mut out)?, &ctl)?;
        Ok(())
    })?;
    let pixels = side * u64::from(desc.vae_factor);
    let (shape, picture) = ([1, channels, side, side], [1, pixels, pixels, 3]);
    let mut out = vec![0f32; (pixels * pixels * 3) as usize];
    let decode = median(9, || {
        let x = TensorRef::f32("", &shape, &x[..count / 2])?;
        session.decode(x, &[], TensorMut::f32(&picture, &mut out)?, &ctl)?;
        Ok(())
    })?;
    println!("text        {text:8.2} ms\nstep of two {step:8.2} ms\ndecode      {decode:8.2} ms");
    println!("20 steps    {:8.2} ms", 2.0 * text + 20.0 * step + decode);
    Ok(())
}
