"""Goldens of the two noise sources: PyTorch's CPU generator and the CUDA generator (Philox)."""

import numpy as np
import torch

from common import GOLDENS, generator, save_tensors

SEEDS = {"0": 0, "1": 1, "42": 42, "2p32p5": 2**32 + 5, "2p63": 2**63}
# Below 16 elements torch draws doubles one by one; from 16 on it fills whole blocks of 16 (the
# last one overlapping when the count is no multiple of 16).
COUNTS = (1, 2, 7, 15, 16, 17, 31, 100)
LATENTS = (1, 4, 8, 8)

M0, M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
W0, W1 = 0x9E3779B9, 0xBB67AE85
MASK = 0xFFFFFFFF


def philox4x32(counter, key, rounds=10):
    """Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).

    `counter` is a list of four uint64 arrays holding 32-bit words, `key` two 32-bit words.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for i in range(rounds):
        if i:
            k0, k1 = (k0 + W0) & MASK, (k1 + W1) & MASK
        p0, p1 = c0 * M0, c2 * M1
        c0, c1, c2, c3 = (
            (p1 >> np.uint64(32)) ^ c1 ^ np.uint64(k0),
            p1 & np.uint64(MASK),
            (p0 >> np.uint64(32)) ^ c3 ^ np.uint64(k1),
            p0 & np.uint64(MASK),
        )
    return c0, c1, c2, c3


def philox_randn(seed, count, offset=0):
    """What `torch.randn(count, device="cuda")` gives after `manual_seed(seed)`, for one call of up to
    some 100,000 elements: element i is thread i's first value.

    cuRAND's layout: counter = (call offset, 0, thread index, 0), key = seed. The first two words
    go through Box-Muller as in curand_normal.h, in float32, of which each thread uses the sine part.
    Written from that description; checked against the values that torch on CUDA is documented to
    give for seed 0 (-0.92466259, -0.42534415, -2.6438457), not on a GPU.
    """
    seed &= 2**64 - 1
    index = np.arange(count, dtype=np.uint64)
    zero = np.zeros(count, np.uint64)
    x, y, _, _ = philox4x32([zero + np.uint64(offset), zero, index, zero.copy()], (seed & MASK, seed >> 32))
    two_pow32_inv = np.float32(2.3283064e-10)
    u = x.astype(np.float32) * two_pow32_inv + two_pow32_inv / np.float32(2)
    v = y.astype(np.float32) * np.float32(2.3283064e-10 * 2 * np.pi) + np.float32(2.3283064e-10 * np.pi)
    return np.sqrt(np.float32(-2) * np.log(u)) * np.sin(v)


def write():
    """Makes `goldens/noise.safetensors`."""
    tensors = {}
    for label, seed in SEEDS.items():
        for count in COUNTS:
            tensors[f"cpu.{label}.{count}"] = torch.randn(count, generator=generator(seed))
        g = generator(seed)
        # Three draws in a row from one generator: its state after an odd count matters.
        for i, shape in enumerate((LATENTS, (3,), LATENTS)):
            tensors[f"cpu.{label}.sequence.{i}"] = torch.randn(*shape, generator=g)
        for call, count in enumerate((1, 7, 16, 17, 256)):
            tensors[f"philox.{label}.{count}"] = torch.from_numpy(philox_randn(seed, count))
        for call in range(3):
            tensors[f"philox.{label}.sequence.{call}"] = torch.from_numpy(philox_randn(seed, 256, offset=call)).reshape(
                LATENTS
            )
    # A picture of SD 1.5's size, first and last rows only: long runs of the generator.
    big = torch.randn(1, 4, 64, 64, generator=generator(42))
    tensors["cpu.42.latents64.head"], tensors["cpu.42.latents64.tail"] = big.flatten()[:64], big.flatten()[-64:]
    known = philox_randn(0, 12)
    documented = [-0.92466259, -0.42534415, -2.6438457, 0.14518388, -0.12086647, -0.57972564]
    assert np.allclose(known[:6], documented, atol=1e-6), known[:6]
    save_tensors(GOLDENS / "noise.safetensors", tensors)
