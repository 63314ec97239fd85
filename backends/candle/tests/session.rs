//! The calls of the interface on a loaded model: batches, texts, cancellation, tiles, pictures.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

mod common;

use backend_api::{
    Code, Ctl, DType, EncoderInput, Param, PredictItem, TensorMut, TensorRef, TextRequest, author::Diffusion,
};
use common::{Golden, Hand, encode, model_folder, open, relative, source};
use sd_candle::ops;

fn tokens(family: &str, role: &str, row: usize) -> Vec<u32> {
    let (shape, ids) = Golden::read(family).get(&format!("{role}.ids"));
    ids[row * shape[1]..][..shape[1]].iter().map(|id| *id as u32).collect()
}

fn predict(
    session: &mut dyn Diffusion,
    x: &[f32],
    shape: [u64; 4],
    items: &[(u64, f32)],
    ctl: &Ctl,
) -> Result<Vec<f32>, backend_api::AbiError> {
    let items: Vec<PredictItem<'_>> = (items.iter())
        .map(|(cond, timestep)| PredictItem {
            cond: *cond,
            timestep: *timestep,
            sigma: 1.0,
            extra: (&[][..]).into(),
            params: (&[][..]).into(),
        })
        .collect();
    let mut out = vec![f32::NAN; x.len()];
    session.predict(TensorRef::f32("", &shape, x)?, &items, TensorMut::f32(&shape, &mut out)?, ctl)?;
    Ok(out)
}

/// 20 steps' worth of inputs would prove no more than one: each item alone must equal its place in a batch.
#[test]
fn a_batch_of_unlike_items_gives_what_each_gives_alone() {
    for kernels in ops::cpu::available() {
        let (_, mut session) = open(&source(&model_folder("sd15")), kernels);
        let session = session.as_mut();
        let one = tokens("sd15", "text_encoder", 0);
        let two = tokens("sd15", "text_encoder", 3);
        let long = [one.clone(), two.clone(), one.clone()].concat();
        let conds = [one, two, long].map(|t| encode(session, &[t], &[]));
        let (_, sample) = Golden::read("sd15").get("unet.sample");
        let row = sample.len() / 3;
        let ctl = Hand::default().ctl();
        let items = [(conds[0], 981.0), (conds[1], 333.5), (conds[2], 1.0)];
        let together = predict(session, &sample, [3, 4, 12, 16], &items, &ctl).unwrap();
        for (i, item) in items.iter().enumerate() {
            let alone = predict(session, &sample[i * row..][..row], [1, 4, 12, 16], &[*item], &ctl).unwrap();
            assert!(relative(&together[i * row..][..row], &alone) < 1e-5, "{kernels} item {i}");
        }
        session.free_cond(conds[0]);
        let error = predict(session, &sample[..row], [1, 4, 12, 16], &items[..1], &ctl).unwrap_err();
        assert_eq!(error.code, Code::INVALID);
    }
}

#[test]
fn predictions_stop_between_blocks() {
    let (_, mut session) = open(&source(&model_folder("sd15")), "auto");
    let cond = encode(session.as_mut(), &[tokens("sd15", "text_encoder", 0)], &[]);
    let x = vec![0.5; 4 * 12 * 16];
    let counting = Hand::default();
    predict(session.as_mut(), &x, [1, 4, 12, 16], &[(cond, 500.0)], &counting.ctl()).unwrap();
    let polls = counting.state().polls.load(std::sync::atomic::Ordering::Relaxed);
    assert!(polls > 20, "{polls}");
    for after in [1, polls / 2] {
        let ctl = Hand::cancelling(after).ctl();
        let error = predict(session.as_mut(), &x, [1, 4, 12, 16], &[(cond, 500.0)], &ctl).unwrap_err();
        assert_eq!(error.code, Code::CANCELLED);
    }
    // The session stays usable.
    predict(session.as_mut(), &x, [1, 4, 12, 16], &[(cond, 500.0)], &Hand::default().ctl()).unwrap();
}

fn decode(session: &mut dyn Diffusion, latents: &[f32], side: u64, options: &[Param]) -> Vec<f32> {
    let (shape, pixels) = ([1, 4, side, side], [1, side * 4, side * 4, 3]);
    let mut out = vec![f32::NAN; (side * side * 16 * 3) as usize];
    let x = TensorRef::f32("", &shape, latents).unwrap();
    session.decode(x, options, TensorMut::f32(&pixels, &mut out).unwrap(), &Hand::default().ctl()).unwrap();
    out
}

#[test]
fn tiles_blend_into_the_whole_picture() {
    let (desc, mut session) = open(&source(&model_folder("emoji-sd")), "auto");
    assert_eq!((desc.latent_channels, desc.vae_factor, desc.sample_size), (4, 4, 16));
    let session = session.as_mut();
    // Smooth latents of 48 × 48 cells, as pictures have.
    let cell = |i: usize| {
        let (c, y, x) = (i / 2304, i / 48 % 48, i % 48);
        ((x as f32 * 0.13 + c as f32).sin() + (y as f32 * 0.17 - c as f32).cos()) * 0.6
    };
    let latents: Vec<f32> = (0..4 * 2304).map(cell).collect();
    let whole = decode(session, &latents, 48, &[Param::new("tile", 0)]);
    assert_eq!(whole, decode(session, &latents, 48, &[]), "a picture that fits is decoded whole");
    let tiled = decode(session, &latents, 48, &[Param::new("tile", 24)]);
    let square: f32 = whole.iter().zip(&tiled).map(|(a, b)| (a - b).powi(2)).sum::<f32>() / whole.len() as f32;
    let psnr = -10.0 * square.log10();
    assert!(psnr > 20.0, "{psnr} dB");
    // No seam: neighbours differ nowhere much more than in the whole picture.
    let step = |p: &[f32]| {
        let pairs = (0..192 * 191).map(|i| (i / 191 * 192 + i % 191) * 3);
        pairs.map(|i| (p[i] - p[i + 3]).abs()).fold(0f32, f32::max)
    };
    assert!(step(&tiled) < step(&whole) * 1.5 + 0.02, "{} {}", step(&tiled), step(&whole));

    let shape = [1u64, 192, 192, 3];
    let bytes: Vec<u8> = whole.iter().map(|v| (v * 255.0).round() as u8).collect();
    let encode = |session: &mut dyn Diffusion, options: &[Param]| {
        let mut out = vec![f32::NAN; 8 * 48 * 48];
        let image = TensorRef::new("", DType::U8, &shape, &bytes).unwrap();
        let room = TensorMut::f32(&[1, 8, 48, 48], &mut out).unwrap();
        session.encode(image, options, room, &Hand::default().ctl()).unwrap();
        out
    };
    let plain = encode(session, &[Param::new("tile", 0)]);
    let tiled = encode(session, &[Param::new("tile", 24)]);
    let (means, deviations) = plain.split_at(4 * 48 * 48);
    assert!(deviations.iter().all(|d| *d > 0.0));
    let far = means.iter().zip(&tiled).map(|(a, b)| (a - b).abs()).sum::<f32>() / means.len() as f32;
    // The encoder's norms see a tile instead of the picture, so tiles come close, not equal.
    let size = means.iter().map(|v| v.abs()).sum::<f32>() / means.len() as f32;
    assert!(far < 0.4 * size, "{far} of {size}");
    let raw = encode(session, &[Param::new("raw", 1), Param::new("tile", 0)]);
    let factor = plain[100] / raw[100];
    assert!((factor - 0.475_544_93).abs() < 1e-4, "{factor}");
}

#[test]
fn texts_follow_their_params() {
    let (desc, mut session) = open(&source(&model_folder("sdxl")), "auto");
    assert_eq!(desc.encoders.len(), 2);
    assert!(desc.inputs.iter().any(|i| i.as_str() == "time_ids"));
    let session = session.as_mut();
    let roles = ["text_encoder", "text_encoder_2"];
    let ids = roles.map(|r| tokens("sdxl", r, 0));
    let request = |ids: &[Vec<u32>], weight: f32, params: &[Param], session: &mut dyn Diffusion| {
        let weights = vec![weight; ids[0].len()];
        let inputs: Vec<EncoderInput<'_>> = (ids.iter().enumerate())
            .map(|(i, ids)| EncoderInput {
                encoder: i as u32,
                chunk_length: 77,
                tokens: ids.as_slice().into(),
                weights: weights.as_slice().into(),
                empty: (&[][..]).into(),
                params: (&[][..]).into(),
            })
            .collect();
        let request = TextRequest { inputs: inputs.as_slice().into(), params: params.into() };
        session.encode_text(&request, &Hand::default().ctl())
    };
    let text = request(&ids, 1.0, &[Param::new("zero", 1)], session).unwrap();
    assert_eq!((text.tokens, text.bytes), (77, 77 * 80 * 4));
    assert!(request(&ids, 1.2, &[], session).is_ok());
    let code = |r: Result<_, backend_api::AbiError>| r.map(|_: backend_api::TextEncoded| ()).unwrap_err().code;
    assert_eq!(code(request(&ids[..1], 1.0, &[], session)), Code::INVALID);
    assert_eq!(code(request(&ids, 1.0, &[Param::new("clip_skip", 9)], session)), Code::INVALID);
    assert_eq!(code(request(&ids, 1.0, &[Param::new("clip_skip", "x")], session)), Code::INVALID);
    assert_eq!(code(request(&ids, 1.2, &[Param::new("emphasis", "comfy")], session)), Code::INVALID);
    let strange = ids.clone().map(|mut t| {
        t[3] = 1024;
        t
    });
    assert_eq!(code(request(&strange, 1.0, &[], session)), Code::INVALID);
    // A token that was added is known from then on, and a wrong one is refused.
    for (encoder, width) in [(0u32, 32u64), (1, 48)] {
        let vectors = vec![0.1; 2 * width as usize];
        let added = session.add_tokens(encoder, TensorRef::f32("", &[2, width], &vectors).unwrap()).unwrap();
        assert_eq!(added, 1024);
        assert!(session.add_tokens(encoder, TensorRef::f32("", &[1, 2 * width], &vectors).unwrap()).is_err());
    }
    assert!(request(&strange, 1.0, &[], session).is_ok());
}
