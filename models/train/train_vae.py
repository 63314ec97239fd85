"""Trains the VAE from scratch on whole icon sets: 64 px pictures to 4x16x16 latents of unit standard deviation.

    python train_vae.py --pictures work/noto --tokenizer work/tokenizer --out work/first

OUT becomes a complete Stable Diffusion folder with untrained UNet and text encoder, for `train.py --scratch`.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch

import dataset
import pipeline
from tune_decoder import picture_loss

CROP = 32
# Small against the reconstruction terms: it only keeps latents from drifting far from unit scale.
KL_WEIGHT = 1e-4


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True, help="folder of rendered icons; all of them are used")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def load_all(folder: Path) -> torch.Tensor:
    """Every rendered icon, uint8 [N, 3, 64, 64]."""
    pictures = [dataset.load_picture(folder, path.stem) for path in sorted(folder.glob("*.png"))]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def random_crops(pictures: torch.Tensor, count: int) -> torch.Tensor:
    """Crops in -1..1, some mirrored; half of them with shuffled colour channels so that every hue occurs everywhere."""
    crops = []
    for i in range(count):
        picture = pictures[int(torch.randint(len(pictures), ()))]
        y, x = (4 * torch.randint(0, (dataset.PICTURE_SIZE - CROP) // 4 + 1, (2,))).tolist()
        crop = picture[:, y : y + CROP, x : x + CROP]
        if i % 2 == 0:
            crop = crop[torch.randperm(3)]
        if torch.rand(()) < 0.5:
            crop = crop.flip(2)
        crops.append(crop)
    return torch.stack(crops).float() / 127.5 - 1


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(options.seed)
    pictures = load_all(options.pictures)
    vae = pipeline.new_vae().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=options.rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    print(f"{len(pictures)} pictures", flush=True)
    error, before = None, time.process_time()
    for step in range(1, options.steps + 1):
        fall = 0.5 * (1 + math.cos(math.pi * step / options.steps))
        optimizer.param_groups[0]["lr"] = options.rate * min(1, step / 50) * (0.02 + 0.98 * fall)
        crops = random_crops(pictures, options.batch).contiguous(memory_format=torch.channels_last)
        posterior = vae.encode(crops).latent_dist
        made = vae.decode(posterior.sample()).sample
        kl = 0.5 * (posterior.mean.square() + posterior.logvar.exp() - 1 - posterior.logvar).mean()
        loss = picture_loss(made, crops) + KL_WEIGHT * kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        now = (made.detach() - crops).square().mean().item()
        error = now if error is None else 0.98 * error + 0.02 * now
        if step % 50 == 0:
            speed = step * options.batch / (time.process_time() - before)
            print(f"step {step} {10 * math.log10(4 / error):.2f} dB {speed:.1f} crops/CPU-s", flush=True)

    vae.eval()
    sample = pictures[torch.randperm(len(pictures))[:512]].float() / 127.5 - 1
    latents = pipeline.encode_pictures(vae, sample)
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    tokenizer = pipeline.load_tokenizer(options.tokenizer)
    text_encoder = pipeline.new_text_encoder(tokenizer.get_vocab_size())
    parts = pipeline.Parts(pipeline.new_unet(), text_encoder, vae, tokenizer)
    pipeline.save_folder(parts, options.out, options.tokenizer)
    print(f"scaling factor {vae.config.scaling_factor:.4f}; written to {options.out}")


if __name__ == "__main__":
    main()
