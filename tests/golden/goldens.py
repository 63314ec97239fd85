"""One golden file per tiny model, and one for the bundled model."""

import diffusers
import torch

import build
import components
import pictures
from common import GOLDENS, MODELS, randn, save_json, save_tensors
from families import FAMILIES, Family
from pictures import DDIM, EULER, Picture

TXT = (Picture("ddim20", DDIM), Picture("euler20", EULER))
INPAINT9 = (
    Picture("inpaint_ddim20", DDIM, kind="inpaint9", options=dict(strength=1.0)),
    Picture("inpaint_euler20", EULER, kind="inpaint9", options=dict(strength=1.0)),
    Picture("inpaint_strength", DDIM, kind="inpaint9_strength", options=dict(strength=0.6)),
)

PICTURES = {
    "sd15": (
        *TXT,
        Picture("own20", seed=7),
        Picture("clip_skip2", DDIM, options=dict(clip_skip=1)),
        Picture("cfg1", DDIM, guidance=1.0),
        Picture("img2img_ddim20", DDIM, kind="img2img", options=dict(strength=0.6)),
        Picture("img2img_euler20", EULER, kind="img2img", options=dict(strength=0.6)),
        Picture("inpaint_ddim20", DDIM, kind="inpaint4", options=dict(strength=0.6)),
        Picture("inpaint_euler20", EULER, kind="inpaint4", options=dict(strength=0.6)),
    ),
}


def write(family: Family):
    """Makes `goldens/<family>.safetensors` and the `.json` that describes it."""
    pipe = build.load_pipeline(MODELS / family.name)
    factor = pipe.vae_scale_factor
    height, width = family.height // factor, family.width // factor
    tensors = components.text(pipe)
    tensors |= components.unet(pipe.unet, family.name, height, width, build.unet_extras(family, 3))
    tensors |= components.autoencoder(pipe.vae, family.name, height, width)
    about = {
        "family": family.name,
        "model": f"models/{family.name}",
        "prompts": components.PROMPTS,
        "vae_scale": factor,
        "made_with": {m.__name__: m.__version__ for m in (torch, diffusers, build.transformers)},
        "pictures": {},
    }
    for picture in PICTURES[family.name]:
        found, text = pictures.golden(pipe, picture, family.height, family.width, family.is_xl)
        tensors |= found
        about["pictures"][picture.name] = text
        print(
            f"  {family.name} {picture.name}: amplification {text['amplification']}, "
            f"latents std {text['latents_std']}, clipped {text['clipped_pixels']}"
        )
    save_tensors(GOLDENS / f"{family.name}.safetensors", tensors)
    save_json(GOLDENS / f"{family.name}.json", about)


def bundled(folder):
    """Goldens of the model that ships with the project: two prompts, DDIM and Euler, 64 × 64."""
    name = "emoji-sd"
    pipe = build.load_pipeline(folder, "StableDiffusionPipeline")
    size = pipe.unet.config.sample_size
    side = size * pipe.vae_scale_factor
    prompts = ["red apple", "a cat face emoji"]
    tensors = components.text(pipe, prompts + [""], all_layers=False)
    tensors |= components.unet(pipe.unet, name, size, size, {})
    tensors |= components.autoencoder(pipe.vae, name, size, size)
    about = {
        "family": name,
        "prompts": prompts + [""],
        "vae_scale": pipe.vae_scale_factor,
        "made_with": {m.__name__: m.__version__ for m in (torch, diffusers, build.transformers)},
        "pictures": {},
    }
    for i, prompt in enumerate(prompts):
        for label, scheduler in (("ddim20", DDIM), ("euler20", EULER)):
            picture = Picture(f"{label}_{i}", scheduler, guidance=3.0, seed=i, prompt=prompt, negative="")
            found, text = pictures.golden(pipe, picture, side, side, False)
            tensors |= found
            about["pictures"][picture.name] = text
            print(f"  {name} {picture.name}: amplification {text['amplification']}")
    save_tensors(GOLDENS / f"{name}.safetensors", tensors)
    save_json(GOLDENS / f"{name}.json", about)
