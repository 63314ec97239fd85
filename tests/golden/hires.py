"""The golden of a second pass through latents: the bundled model at 64 × 64, its latents enlarged, redone in part."""

import torch

import build
import pictures
from common import GOLDENS, generator, save_json, save_tensors
from pictures import DDIM, EULER, Picture

# Name, scheduler, torch's way to enlarge, target height and width.
CASES = (
    ("bilinear", DDIM, dict(mode="bilinear"), (96, 96)),
    ("bicubic_antialiased", EULER, dict(mode="bicubic", antialias=True), (96, 80)),
    ("nearest_exact", DDIM, dict(mode="nearest-exact"), (128, 128)),
)
FIRST = dict(prompt="red apple", negative_prompt="", guidance_scale=3.0, num_inference_steps=10)
SECOND = dict(prompt="a green apple", negative_prompt="red", guidance_scale=4.0, num_inference_steps=12, strength=0.6)
SEED = 5


def write(folder):
    """Makes `goldens/hires.safetensors` and `goldens/hires.json`."""
    pipe = build.load_pipeline(folder, "StableDiffusionPipeline")
    factor = pipe.vae_scale_factor
    tensors, about = {}, {}
    for name, scheduler, how, (height, width) in CASES:
        first = pictures.assemble(pipe, Picture("first", scheduler), False)
        latents = first(**FIRST, height=64, width=64, generator=generator(SEED), output_type="latent").images
        # The size is covered in the first pass's proportions; what sticks out is cut on both sides.
        side = max(height, width) // factor
        large = torch.nn.functional.interpolate(latents, size=(side, side), **how)
        top, left = (side - height // factor) // 2, (side - width // factor) // 2
        large = large[..., top : top + height // factor, left : left + width // factor]
        second = pictures.assemble(pipe, Picture("second", scheduler, kind="img2img"), False)
        # Latents in place of a picture are noised as they are.
        image = second(**SECOND, image=large, generator=generator(SEED), output_type="pt").images
        tensors[f"{name}.image"] = image.mul(255).round().to(torch.uint8)
        about[name] = dict(scheduler=scheduler[0], height=height, width=width)
    save_tensors(GOLDENS / "hires.safetensors", tensors)
    save_json(GOLDENS / "hires.json", dict(first=FIRST, second=SECOND, seed=SEED, cases=about))
