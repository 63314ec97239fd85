"""Sharpens the VAE's decoder on the training pictures; the encoder, and with it the meaning of latents, stays.

    python tune_decoder.py --pictures work/noto --start work/run/emoji-sd --out work/tuned

Because latents keep their meaning, this may run before, after or beside the training of the UNet. Noise on the
latents teaches the decoder to clean up what the UNet leaves unsure.
"""

import argparse
import math
import time
from pathlib import Path

import torch

import dataset
import pipeline

HERE = Path(__file__).parent


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True, help="folder of rendered icons")
    parser.add_argument("--concepts", type=Path, default=HERE / "concepts.json")
    parser.add_argument("--start", type=Path, required=True, help="Stable Diffusion folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for the new vae/")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--noise", type=float, default=0.25, help="largest noise on scaled latents (of std 1)")
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=2)
    return parser.parse_args()


def picture_loss(made: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Absolute and squared error plus the absolute error of both gradients, which keeps edges sharp."""
    error = made - wanted
    edges = (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return error.abs().mean() + 2 * error.square().mean() + 0.3 * edges


@torch.no_grad()
def reconstruction(vae, latents: torch.Tensor, pictures: torch.Tensor) -> float:
    """Peak signal-to-noise ratio, in dB, of decoded clean latents against the pictures."""
    made = torch.cat([vae.decode(chunk).sample.clamp(-1, 1) for chunk in latents.split(32)])
    return 10 * math.log10(4 / (made - pictures).square().mean().item())


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(options.seed)
    vae = pipeline.load_parts(options.start).vae
    scale = vae.config.scaling_factor
    entries = [e for e in dataset.load_entries(options.pictures, options.concepts) if not e.held_out]
    pictures = dataset.to_tensor(entries)
    latents = pipeline.encode_pictures(vae, pictures) / scale
    print(f"{len(entries)} pictures, {reconstruction(vae, latents, pictures):.2f} dB before", flush=True)

    vae.requires_grad_(False)
    trained = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    for parameter in trained:
        parameter.requires_grad_(True)
    vae.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(trained, lr=options.rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    before = time.process_time()
    for step in range(1, options.steps + 1):
        fall = 0.5 * (1 + math.cos(math.pi * step / options.steps))
        optimizer.param_groups[0]["lr"] = options.rate * min(1, step / 50) * (0.02 + 0.98 * fall)
        chosen = torch.randint(0, len(entries), (options.batch,))
        strength = options.noise / scale * torch.rand(options.batch, 1, 1, 1)
        noisy = latents[chosen] + strength * torch.randn(options.batch, *latents.shape[1:])
        made = vae.decode(noisy.contiguous(memory_format=torch.channels_last)).sample
        loss = picture_loss(made, pictures[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if step % options.save_every == 0 or step == options.steps:
            speed = step * options.batch / (time.process_time() - before)
            decibels = reconstruction(vae, latents, pictures)
            print(f"step {step} loss {loss.item():.4f} {decibels:.2f} dB {speed:.1f} pictures/CPU-s", flush=True)
            pipeline.save_vae(vae, options.out)


if __name__ == "__main__":
    main()
