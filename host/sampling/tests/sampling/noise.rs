//! Noise against PyTorch's own, bit by bit.

use crate::support::Goldens;
use sd_sampling::NoiseRequest;
use sd_sampling::noise::{BatchNoise, Generator, ImageSeed, NoiseShape, Philox, Rng, TorchCpu, slerp};

const SEEDS: [(&str, u64); 5] = [("0", 0), ("1", 1), ("42", 42), ("2p32p5", (1 << 32) + 5), ("2p63", 1 << 63)];

#[track_caller]
fn same_bits(name: &str, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len(), "{name}");
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert_eq!(a.to_bits(), b.to_bits(), "{name}[{i}]: {a:e} is not {b:e}");
    }
}

#[test]
fn cpu_noise_is_torchs_bit_for_bit() {
    let goldens = Goldens::open("noise");
    for (label, seed) in SEEDS {
        for count in [1, 2, 7, 15, 16, 17, 31, 100] {
            let name = format!("cpu.{label}.{count}");
            same_bits(&name, &TorchCpu::new(seed).randn(count), &goldens.f32(&name));
        }
        // Three draws from one generator: an odd count leaves half a pair behind.
        let mut generator = TorchCpu::new(seed);
        for (i, count) in [256, 3, 256].into_iter().enumerate() {
            let name = format!("cpu.{label}.sequence.{i}");
            same_bits(&name, &generator.randn(count), &goldens.f32(&name));
        }
    }
    let large = TorchCpu::new(42).randn(4 * 64 * 64);
    same_bits("head", &large[..64], &goldens.f32("cpu.42.latents64.head"));
    same_bits("tail", &large[large.len() - 64..], &goldens.f32("cpu.42.latents64.tail"));
}

/// Σ bits·(2i + 1) modulo 2⁶⁴: differs if any bit of any value does.
fn checksum(values: &[f32]) -> u64 {
    values
        .iter()
        .enumerate()
        .fold(0, |sum: u64, (i, value)| sum.wrapping_add(u64::from(value.to_bits()).wrapping_mul(2 * i as u64 + 1)))
}

#[test]
fn millions_of_values_are_torchs() {
    // Computed with torch.randn on an x86 processor with AVX2.
    for (seed, count, expected) in [
        (0, 1 << 22, 0xb6b2_19e3_980e_7f95),
        (123_456_789, (1 << 20) + 5, 0xf8c3_b5f0_4168_9f87),
        (u64::MAX - 5, 1 << 20, 0x0819_c9fa_f48b_12d9),
    ] {
        assert_eq!(checksum(&TorchCpu::new(seed).randn(count)), expected, "seed {seed}, {count} values");
    }
}

#[test]
fn philox_noise_is_a1111s_bit_for_bit() {
    // Two draws of 100,000 values of A1111's rng_philox.py.
    for (seed, first, second) in [
        (0, 0x2861_6064_9f9b_7b10, 0x2735_fb3f_5936_b730),
        (42, 0x27d1_e1bf_e481_cdf5, 0x27f4_7b7a_0019_4be8),
        ((1 << 40) + 3, 0x27b8_f342_24f4_4c56, 0x2818_51d0_f9d5_eda5),
    ] {
        let mut generator = Philox::new(seed);
        assert_eq!([(); 2].map(|()| checksum(&generator.randn(100_000))), [first, second], "seed {seed}");
    }
}

#[test]
fn philox_noise_is_a_cards_to_its_precision() {
    let goldens = Goldens::open("noise");
    let close = |name: &str, ours: &[f32]| {
        for (a, b) in ours.iter().zip(goldens.f32(name)) {
            assert!((a - b).abs() < 5e-6, "{name}: {a} {b}");
        }
    };
    for (label, seed) in SEEDS {
        for count in [1, 7, 16, 17, 256] {
            let name = format!("philox.{label}.{count}");
            close(&name, &Philox::new(seed).randn(count));
        }
        let mut generator = Philox::new(seed);
        for call in 0..3 {
            close(&format!("philox.{label}.sequence.{call}"), &generator.randn(256));
        }
    }
    // What A1111 documents for a card with seed 0.
    for (ours, card) in Philox::new(0).randn(6).iter().zip([
        -0.924_662_6,
        -0.425_344_15,
        -2.643_845_7,
        0.145_183_88,
        -0.120_866_47,
        -0.579_725_64,
    ]) {
        assert!((ours - card).abs() < 5e-7, "{ours} {card}");
    }
}

const SHAPE: NoiseShape = NoiseShape { channels: 4, height: 8, width: 6 };

#[test]
fn images_of_a_batch_have_their_own_generators() {
    for rng in [Rng::Cpu, Rng::Philox] {
        let mut batch = BatchNoise::new(rng, SHAPE, &ImageSeed::batch(u64::MAX, 2));
        let mut alone: [Generator; 2] = [rng.seeded(u64::MAX), rng.seeded(0)];
        let mut expect = || alone.each_mut().map(|generator| generator.randn(SHAPE.len())).concat();
        same_bits("initial", &batch.initial(), &expect());
        same_bits("fresh", &batch.sample(NoiseRequest::Fresh { step: 0 }), &expect());
        same_bits("fresh", &batch.fresh(), &expect());
        assert_eq!(Rng::parse(rng.name()), Some(rng));
    }
}

#[test]
fn variations_are_a1111s() {
    // A1111's slerp of torch.randn(4, 8, 6) with seeds 1 and 2 at 0.3.
    let pick = |v: &[f32]| [0, 7, 50, 100, 191].map(|i| v[i]);
    let expected = [-1.639_590_6, -1.703_092_8, -0.550_664_25, 1.520_044_6, 1.271_868_9];
    let [low, high] = [1, 2].map(|seed| TorchCpu::new(seed).randn(SHAPE.len()));
    let mut batch = BatchNoise::new(Rng::Cpu, SHAPE, &ImageSeed::variations(1, 2, 0.3, 1));
    for mixed in [slerp(0.3, &low, &high, SHAPE), batch.initial()] {
        for (ours, theirs) in pick(&mixed).iter().zip(expected) {
            assert!((ours - theirs).abs() < 2e-6, "{ours} {theirs}");
        }
    }
    // The ends are the noises themselves; the same noise twice stays what it is.
    for (mixed, whole) in [(slerp(0.0, &low, &high, SHAPE), &low), (slerp(1.0, &low, &high, SHAPE), &high)] {
        assert!(mixed.iter().zip(whole).all(|(a, b)| (a - b).abs() < 1e-6));
    }
    assert!(slerp(0.4, &low, &low, SHAPE).iter().zip(&low).all(|(a, b)| (a - b).abs() < 1e-6));
}

#[test]
fn a_seed_keeps_its_composition_at_another_size() {
    // A1111's "resize seed from", (height, width) to 8 × 6, seed 7.
    for (from, expected) in [
        ((10, 4), [-0.820_134_5, -0.535_512_2, -1.159_720_3, -0.324_566_63, 0.979_565_74, -0.004_383_248]),
        ((11, 3), [-0.820_134_5, -1.159_720_3, -0.460_157_16, -1.582_664_6, 0.127_443_54, -0.004_383_248]),
        ((5, 9), [-0.820_134_5, -0.166_996_02, 0.285_149_96, 1.039_107_7, 0.127_443_54, -0.004_383_248]),
    ] {
        let seed = ImageSeed { seed: 7, resize_from: Some(from), ..ImageSeed::default() };
        let noise = BatchNoise::new(Rng::Cpu, SHAPE, &[seed]).initial();
        for (ours, theirs) in [0, 8, 9, 20, 100, 191].iter().map(|i| noise[*i]).zip(expected) {
            assert!((ours - theirs).abs() < 1e-6, "{from:?}: {ours} {theirs}");
        }
    }
}

/// Karras sigmas of ten steps of Stable Diffusion.
const SIGMAS: [f64; 10] = [
    14.6146431,
    9.10293388,
    5.47839928,
    3.16860938,
    1.74942338,
    0.914076567,
    0.446920872,
    0.201399833,
    0.0819110796,
    0.0291675385,
];

fn path(from: usize, to: usize) -> NoiseRequest {
    let (lowest, highest) = (0.029_167_532_920_837_402, 14.614_641_189_575_195);
    NoiseRequest::Path { step: from, from: SIGMAS[from], to: SIGMAS[to], lowest, highest }
}

#[test]
fn brownian_paths_are_torchsdes() {
    // k-diffusion's BrownianTreeNoiseSampler on two images of 4 × 2 × 2: the first three values and the last two.
    let shape = NoiseShape { channels: 4, height: 2, width: 2 };
    let seeds = [42, (1 << 32) + 7].map(|seed| ImageSeed { seed, ..ImageSeed::default() });
    let mut noise = BatchNoise::new(Rng::Cpu, shape, &seeds);
    for (from, to, expected) in [
        (0, 1, [-1.3195976, 0.868333757, 0.906199574, 0.502654314, -1.02493703]),
        (1, 2, [0.767141342, -1.04526329, -0.213292882, 2.43254805, -0.802676558]),
        (1, 3, [0.0549948663, -0.804179788, -0.381082386, 2.22344017, -0.332636327]),
        (8, 9, [0.512448072, -0.117498636, -0.283013374, -0.620079458, 2.49898529]),
        (0, 9, [-1.15618312, -0.219135195, 0.162307039, 1.6270591, -0.215130776]),
    ] {
        let values = noise.sample(path(from, to));
        let picked = [0, 1, 2, 30, 31].map(|i| f64::from(values[i]));
        for (ours, theirs) in picked.iter().zip(expected) {
            // A short way is a difference of large values: k-diffusion loses digits there.
            assert!((ours - theirs).abs() < 2e-4, "{from} {to}: {picked:?}, not {expected:?}");
        }
    }
}

#[test]
fn brownian_noise_is_standard_normal_and_consistent() {
    let shape = NoiseShape { channels: 4, height: 32, width: 32 };
    let mut noise = BatchNoise::new(Rng::Philox, shape, &ImageSeed::batch(3, 2));
    for (from, to) in [(0, 1), (3, 4), (7, 9)] {
        let values = noise.sample(path(from, to));
        let variance = values.iter().map(|x| f64::from(x * x)).sum::<f64>() / values.len() as f64;
        assert!((variance - 1.0).abs() < 0.06, "{from} {to}: variance {variance}");
    }
    // The increments of two ways add up to that of the whole.
    let [first, second, whole] = [(2, 3), (3, 5), (2, 5)].map(|(a, b)| noise.sample(path(a, b)));
    let length = |a: usize, b: usize| (SIGMAS[a] - SIGMAS[b]).sqrt();
    for i in 0..whole.len() {
        let sum = f64::from(first[i]) * length(2, 3) + f64::from(second[i]) * length(3, 5);
        assert!((sum - f64::from(whole[i]) * length(2, 5)).abs() < 1e-5);
    }
}
