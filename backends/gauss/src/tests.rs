//! The closed forms, checked through the author's traits.
#![allow(clippy::unwrap_used, reason = "the helpers of a test fail by panicking")]

use crate::gauss::{Gauss, text};
use backend_api::{
    AbiError, Control, Control_TO, Ctl, DType, Host, Host_TO, HwDevice, HwKind, LogLevel, ModelSource, Param,
    PredictItem, Stage, TensorMut, TensorRef, TextRequest,
    abi_stable::{
        sabi_trait::prelude::TD_Opaque,
        std_types::{RArc, RSlice, RStr, RVec},
    },
    author::{Diffusion, Plugin},
};

struct Quiet;
impl Host for Arced {
    fn log(&self, _: LogLevel, _: RStr<'_>, _: RStr<'_>) {}
}
#[derive(Clone)]
struct Arced;
impl Control for Quiet {
    fn cancelled(&self) -> bool {
        false
    }
    fn progress(&self, _: Stage, _: u64, _: u64) {}
}

fn ctl() -> Ctl {
    Control_TO::from_ptr(RArc::new(Quiet), TD_Opaque)
}

fn session(config: &str) -> Result<Box<dyn Diffusion>, AbiError> {
    let device = HwDevice {
        kind: HwKind::CPU,
        vendor_id: 0,
        device_id: 0,
        bus_id: "".into(),
        name: "test".into(),
        mem_total: 0,
        features: RVec::new(),
        params: RVec::new(),
    };
    let backend = Gauss::open(&device, &[], Host_TO::from_ptr(RArc::new(Arced), TD_Opaque))?;
    let source = ModelSource {
        name: "gauss".into(),
        files: RVec::new(),
        configs: vec![Param::new("gauss", config)].into(),
        options: RVec::new(),
    };
    Ok(backend.load(&source, &ctl())?.diffusion(&[])?.1)
}

fn encode(session: &mut dyn Diffusion, tokens: &[u32]) -> Result<u64, AbiError> {
    let weights = vec![1.0; tokens.len()];
    let input = backend_api::EncoderInput {
        encoder: 0,
        chunk_length: tokens.len() as u32,
        tokens: tokens.into(),
        weights: weights.as_slice().into(),
        empty: RSlice::EMPTY,
        params: RSlice::EMPTY,
    };
    Ok(session.encode_text(&TextRequest { inputs: [input][..].into(), params: RSlice::EMPTY }, &ctl())?.cond)
}

fn predict(session: &mut dyn Diffusion, cond: u64, x: f32, sigma: f32) -> f32 {
    let (shape, x, mut out) = ([1u64, 4, 1, 1], [x; 4], [0.0f32; 4]);
    let item = PredictItem { cond, timestep: 1.0, sigma, extra: RSlice::EMPTY, params: RSlice::EMPTY };
    let view = TensorMut::f32(&shape, &mut out).unwrap();
    session.predict(TensorRef::f32("x", &shape, &x).unwrap(), &[item], view, &ctl()).unwrap();
    out[0]
}

#[test]
fn every_prediction_agrees_with_the_posterior() {
    let (mean, std, x, sigma) = (0.7f64, 0.3f64, 0.4f32, 1.7f32);
    let (vp_a, vp_s) = {
        let s2 = f64::from(sigma).powi(2);
        ((1.0 / (1.0 + s2)).sqrt(), (s2 / (1.0 + s2)).sqrt())
    };
    for prediction in ["epsilon", "v_prediction", "sample", "flow"] {
        let config = format!(r#"{{"mean":{mean},"std":{std},"prediction":"{prediction}"}}"#);
        let mut session = session(&config).unwrap();
        let cond = encode(session.as_mut(), &[1, 2]).unwrap();
        let sigma = if prediction == "flow" { 0.6 } else { sigma };
        let (a, s) = if prediction == "flow" { (0.4, f64::from(sigma)) } else { (vp_a, vp_s) };
        // E[x0|x] by the product of two normal densities, written by precisions rather than variances.
        let clean = (mean / (std * std) + a * f64::from(x) / (s * s)) / (1.0 / (std * std) + a * a / (s * s));
        let noise = (f64::from(x) - a * clean) / s;
        let wanted = match prediction {
            "epsilon" => noise,
            "v_prediction" => a * noise - s * clean,
            "sample" => clean,
            _ => noise - clean,
        };
        let got = f64::from(predict(session.as_mut(), cond, x, sigma));
        assert!((got - wanted).abs() < 1e-6, "{prediction}: {got} and not {wanted}");
    }
}

#[test]
fn other_texts_have_other_means_and_the_same_text_the_same() {
    let mut session = session(r#"{"prediction":"sample","std":1e-6}"#).unwrap();
    let [a, b, again] = [[5, 6], [5, 7], [5, 6]].map(|t| encode(session.as_mut(), &t).unwrap());
    let [a, b, again] = [a, b, again].map(|cond| predict(session.as_mut(), cond, 0.0, 10.0));
    assert_eq!(a, again);
    assert!((a - b).abs() > 1e-3, "{a} {b}");
    // The documented formula, as another program would write it.
    assert_eq!(text::mean(0, 0, 1.0), -1.0);
    assert!((0..1000).all(|h| (-1.0..1.0).contains(&text::mean(u64::wrapping_mul(h, 0x9e37_79b9_7f4a_7c15), 1, 1.0))));
}

#[test]
fn pictures_survive_a_round_trip() {
    let mut session = session("{}").unwrap();
    let latents: Vec<f32> = (0..4 * 2 * 3).map(|i| i as f32 / 12.0 - 1.0).collect();
    let (shape, picture_shape, moments_shape) = ([1u64, 4, 2, 3], [1u64, 16, 24, 3], [1u64, 8, 2, 3]);
    let mut picture = vec![0.0f32; 16 * 24 * 3];
    let view = TensorMut::f32(&picture_shape, &mut picture).unwrap();
    session.decode(TensorRef::f32("", &shape, &latents).unwrap(), &[], view, &ctl()).unwrap();
    let mut moments = vec![1.0f32; 8 * 2 * 3];
    let view = TensorMut::f32(&moments_shape, &mut moments).unwrap();
    session.encode(TensorRef::f32("", &picture_shape, &picture).unwrap(), &[], view, &ctl()).unwrap();
    for (i, (got, wanted)) in moments.iter().zip(&latents).take(18).enumerate() {
        assert!((got - wanted).abs() < 1e-4, "cell {i}: {got} and not {wanted}");
    }
    assert!(moments[24..].iter().all(|d| *d == 0.0));
    let mut small = [0u8; 3];
    let view = TensorMut::new(DType::U8, &[1, 1, 1, 3], &mut small).unwrap();
    assert!(session.decode(TensorRef::f32("", &shape, &latents).unwrap(), &[], view, &ctl()).is_err());
}

#[test]
fn wrong_requests_are_refused() {
    for config in [r#"{"std":0}"#, r#"{"vae_factor":0}"#, r#"{"typo":1}"#, "not json"] {
        assert!(session(config).is_err(), "{config}");
    }
    let mut session = session("{}").unwrap();
    assert!(encode(session.as_mut(), &[text::VOCAB]).is_err());
    let added = session.add_tokens(0, TensorRef::f32("", &[2, 1], &[0.0; 2]).unwrap()).unwrap();
    assert_eq!(added, text::VOCAB);
    assert!(encode(session.as_mut(), &[text::VOCAB + 1]).is_ok());
    assert!(encode(session.as_mut(), &[text::VOCAB + 2]).is_err());
}
