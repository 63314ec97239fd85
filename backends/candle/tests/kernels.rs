//! Every operation of every kernel set of this machine against the portable reference, at sizes that leave rests in
//! every direction.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

use sd_candle::ops::{
    Act, Activation, AttentionSpec, Conv2d, ConvCall, ConvSpec, KeysValues, Linear, LinearSpec, Norm, Ops, cpu,
};

/// Values that repeat nowhere within a test, in −1 … 1.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn picture(shape: [usize; 4], seed: u64, ops: &dyn Ops) -> Activation {
    Activation::from_vec(noise(shape.iter().product(), seed), shape, ops.device()).unwrap()
}

/// Runs `f` with each kernel set and compares with the reference.
fn check(what: &str, f: impl Fn(&dyn Ops) -> Activation) {
    let reference = cpu::choose("portable").unwrap();
    let expected = f(reference.as_ref());
    let wanted = expected.to_vec().unwrap();
    let size = wanted.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    for name in cpu::available() {
        let found = f(cpu::choose(name).unwrap().as_ref());
        assert_eq!(found.shape(), expected.shape(), "{what} with {name}");
        for (i, (a, b)) in found.to_vec().unwrap().iter().zip(&wanted).enumerate() {
            assert!((a - b).abs() <= 2e-5 * size, "{what} with {name}: value {i} is {a}, expected {b}");
        }
    }
}

#[test]
fn convolutions() {
    for (inputs, outputs, kernel, stride, before, after, h, w) in [
        (4, 64, 3, 1, 1, 1, 16, 16),
        (5, 3, 3, 1, 1, 1, 7, 9),
        (33, 70, 3, 2, 1, 1, 9, 6),
        (16, 49, 3, 2, 0, 1, 8, 10),
        (20, 17, 1, 1, 0, 0, 5, 3),
        (3, 8, 7, 1, 3, 3, 11, 5),
        // Long enough to be worked on in pieces of taps, and in pieces of a tap.
        (700, 50, 3, 1, 1, 1, 3, 3),
        (3000, 20, 1, 1, 0, 0, 2, 2),
    ] {
        let spec = ConvSpec { inputs, outputs, kernel, stride, pad_before: before, pad_after: after, act: Act::Silu };
        let weight = noise(outputs * inputs * kernel * kernel, 1);
        let (oh, ow) = (spec.output_size(h), spec.output_size(w));
        check(&format!("{spec:?}"), |ops| {
            let conv = ops.conv2d(spec, weight.clone(), Some(noise(outputs, 2))).unwrap();
            let item_bias = picture([2, 1, 1, outputs], 3, ops);
            let residual = picture([2, oh, ow, outputs], 4, ops);
            let call = ConvCall { item_bias: Some(&item_bias), residual: Some(&residual), resize: None };
            conv.forward(&picture([2, h, w, inputs], 5, ops), call).unwrap()
        });
    }
}

#[test]
fn convolutions_that_enlarge() {
    for (h, w, th, tw) in [(4, 4, 8, 8), (3, 5, 5, 9), (1, 2, 3, 3)] {
        check(&format!("{h}×{w} to {th}×{tw}"), |ops| {
            let conv = ops.conv2d(ConvSpec::same(6, 10, 3), noise(540, 1), None).unwrap();
            let call = ConvCall { resize: Some((th, tw)), ..ConvCall::default() };
            conv.forward(&picture([1, h, w, 6], 2, ops), call).unwrap()
        });
    }
}

#[test]
fn linear_layers() {
    for act in [Act::Identity, Act::Silu, Act::Gelu, Act::QuickGelu, Act::Relu, Act::LeakyRelu, Act::Tanh] {
        for (rows, inputs, outputs, gated) in
            [(1, 3, 5, false), (2, 200, 130, false), (77, 64, 192, false), (9, 40, 2 * 37, true), (150, 64, 256, true)]
        {
            let spec = LinearSpec { inputs, outputs, act, gated };
            let columns = if gated { outputs / 2 } else { outputs };
            check(&format!("{rows} rows of {spec:?}"), |ops| {
                let layer = ops.linear(spec, noise(inputs * outputs, 1), Some(noise(outputs, 2))).unwrap();
                let residual = picture([1, 1, rows, columns], 3, ops);
                layer.forward(&picture([1, 1, rows, inputs], 4, ops), Some(&residual)).unwrap()
            });
        }
    }
}

#[test]
fn norms() {
    for (n, h, w, c, groups) in [(1, 3, 3, 8, 4), (2, 16, 16, 64, 32), (3, 5, 7, 40, 8), (1, 64, 64, 48, 16)] {
        let far = |ops: &dyn Ops| {
            // Away from zero, as in autoencoders. Further away the reference itself, which sums in f32, gets inexact.
            let x = picture([n, h, w, c], 1, ops);
            ops.affine(&x, 1.0, 2.0).unwrap()
        };
        check(&format!("group norm {n} {h} {w} {c}"), |ops| {
            let norm = ops.group_norm(groups, 1e-5, Act::Silu, noise(c, 2), noise(c, 3)).unwrap();
            norm.forward(&far(ops)).unwrap()
        });
        check(&format!("modulated group norm {n} {h} {w} {c}"), |ops| {
            let norm = ops.group_norm(groups, 1e-5, Act::Silu, noise(c, 2), noise(c, 3)).unwrap();
            norm.forward_modulated(&picture([n, h, w, c], 1, ops), &picture([n, 1, 1, 2 * c], 4, ops)).unwrap()
        });
        check(&format!("layer norm {n} {h} {w} {c}"), |ops| {
            let norm = ops.layer_norm(1e-5, noise(c, 2), noise(c, 3)).unwrap();
            norm.forward(&far(ops)).unwrap()
        });
    }
}

/// Values far from zero with little spread: the variance must not drown in the mean.
#[test]
fn group_norm_far_from_zero() {
    let values: Vec<f32> = noise(64 * 64 * 8, 1).iter().map(|v| 300.0 + v).collect();
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / values.len() as f64;
    for name in cpu::available().into_iter().filter(|n| *n != "portable") {
        let ops = cpu::choose(name).unwrap();
        let x = Activation::from_vec(values.clone(), [1, 64, 64, 8], ops.device()).unwrap();
        let norm = ops.group_norm(1, 1e-5, Act::Identity, vec![1.0; 8], vec![0.0; 8]).unwrap();
        for (found, value) in norm.forward(&x).unwrap().to_vec().unwrap().iter().zip(&values) {
            let expected = (f64::from(*value) - mean) / (variance + 1e-5).sqrt();
            assert!((f64::from(*found) - expected).abs() < 1e-4, "{name}: {found} for {expected}");
        }
    }
}

#[test]
fn attention() {
    for (n, queries, keys, heads, d) in
        [(2, 256, 256, 2, 32), (1, 33, 77, 3, 40), (2, 5, 1, 1, 7), (1, 70, 700, 2, 64), (1, 40, 300, 1, 161)]
    {
        let width = heads * d;
        check(&format!("attention {n} {queries} {keys} {heads} {d}"), |ops| {
            let q = picture([n, 1, queries, width + 3], 1, ops);
            let kv = picture([n, 1, keys, 2 * width], 2, ops);
            let q = ops.affine(&q, 3.0, 0.0).unwrap();
            let pairs = KeysValues::Batch(kv.view(0, width), kv.view(width, width));
            ops.attention(q.view(3, width), &pairs, AttentionSpec { heads, causal: false }).unwrap()
        });
    }
    check("causal attention", |ops| {
        let qkv = picture([3, 1, 77, 3 * 48], 1, ops);
        let pairs = KeysValues::Batch(qkv.view(48, 48), qkv.view(96, 48));
        ops.attention(qkv.view(0, 48), &pairs, AttentionSpec { heads: 3, causal: true }).unwrap()
    });
    check("long causal attention", |ops| {
        let qkv = picture([1, 1, 400, 3 * 16], 1, ops);
        let pairs = KeysValues::Batch(qkv.view(16, 16), qkv.view(32, 16));
        ops.attention(qkv.view(0, 16), &pairs, AttentionSpec { heads: 1, causal: true }).unwrap()
    });
    check("texts of unlike length", |ops| {
        let q = picture([2, 4, 4, 32], 1, ops);
        let (short, long) = (picture([1, 1, 77, 64], 2, ops), picture([1, 1, 231, 64], 3, ops));
        let pairs = vec![(short.view(0, 32), short.view(32, 32)), (long.view(0, 32), long.view(32, 32))];
        ops.attention(q.all(), &KeysValues::Items(pairs), AttentionSpec { heads: 2, causal: false }).unwrap()
    });
}

#[test]
fn simple_operations() {
    for shape in [[1, 1, 1, 3], [2, 5, 7, 13], [1, 40, 50, 64]] {
        let other = [shape[0], shape[1], shape[2], 5];
        check("concat", |ops| ops.concat(&picture(shape, 1, ops), &picture(other, 2, ops)).unwrap());
        check("add", |ops| ops.add(&picture(shape, 1, ops), &picture(shape, 2, ops)).unwrap());
        check("map", |ops| ops.map(&picture(shape, 1, ops), Act::Gelu).unwrap());
        check("affine", |ops| ops.affine(&picture(shape, 1, ops), 2.5, -0.5).unwrap());
    }
}

#[test]
fn extreme_values_stay_in_their_limits() {
    let values = vec![-1e30, -200.0, -88.0, -20.0, -0.0, 0.0, 20.0, 88.0, 200.0, 1e4];
    for act in [Act::Silu, Act::Gelu, Act::QuickGelu, Act::Tanh] {
        for name in cpu::available() {
            let ops = cpu::choose(name).unwrap();
            let x = Activation::from_vec(values.clone(), [1, 1, 1, 10], ops.device()).unwrap();
            let found = ops.map(&x, act).unwrap().to_vec().unwrap();
            for (x, y) in values.iter().zip(found) {
                let limit = if act == Act::Tanh { x.signum() } else { x.max(0.0) };
                let near = x.abs() <= 20.0 || x.abs() > 1e5 || (y - limit).abs() <= 1e-5 * limit.abs().max(1.0);
                assert!(y.is_finite() && near, "{act:?} of {x} with {name} is {y}");
            }
        }
    }
}

#[test]
fn what_is_no_number_stays_none() {
    for name in cpu::available().iter().chain(&["portable"]) {
        let ops = cpu::choose(name).unwrap();
        let of = |values: Vec<f32>, width| {
            let shape = [1, 1, values.len() / width, width];
            Activation::from_vec(values, shape, ops.device()).unwrap()
        };
        for act in [Act::Silu, Act::Gelu, Act::QuickGelu, Act::Relu, Act::LeakyRelu, Act::Tanh] {
            // In every lane, and in a rest behind whole registers.
            let values = (0..37).map(|i| if i % 3 == 0 { f32::NAN } else { 0.5 }).collect();
            let found = ops.map(&of(values, 37), act).unwrap().to_vec().unwrap();
            let right = found.iter().enumerate().all(|(i, v)| v.is_nan() == (i % 3 == 0));
            assert!(right, "{act:?} with {name}: {found:?}");
        }
        // Scores of a row that overflow, or are none to begin with: that row alone is spoilt.
        for bad in [f32::NAN, 1e30] {
            let mut q = noise(3 * 8, 1);
            q[8..16].fill(bad);
            let mut keys = noise(20 * 8, 2);
            keys[5 * 8..6 * 8].fill(1e30);
            let (q, k, v) = (of(q, 8), of(keys, 8), of(noise(20 * 8, 3), 8));
            let pairs = KeysValues::Batch(k.all(), v.all());
            let spec = AttentionSpec { heads: 1, causal: false };
            let found = ops.attention(q.all(), &pairs, spec).unwrap().to_vec().unwrap();
            assert!(found[8..16].iter().all(|v| v.is_nan()), "{bad} with {name}: {:?}", &found[8..16]);
            assert!(found[..8].iter().chain(&found[16..]).all(|v| v.is_finite()), "{bad} with {name}: {found:?}");
        }
    }
}

/// The traits are used through their objects only; this keeps them object safe.
#[allow(dead_code, reason = "compiled, not run")]
fn objects(_: &dyn Conv2d, _: &dyn Linear, _: &dyn Norm) {}
