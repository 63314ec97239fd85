//! Noise against PyTorch's own, bit by bit.

mod support;

use sd_sampling::noise::TorchCpu;
use support::Goldens;

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
