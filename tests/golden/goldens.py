"""One golden file per tiny model, and one for the bundled model."""

from dataclasses import replace

import diffusers
import torch
from safetensors.torch import load_file

import build
import components
import pictures
from common import GOLDENS, MODELS, save_json, save_tensors
from families import Family
from pictures import DDIM, EULER, Picture

ZERO_SNR = dict(rescale_betas_zero_snr=True, timestep_spacing="trailing")
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
    "sd15-inpaint": INPAINT9,
    "pix2pix": (
        Picture("ddim20", DDIM, kind="pix2pix", options=dict(image_guidance_scale=1.5)),
        Picture("euler20", EULER, kind="pix2pix", options=dict(image_guidance_scale=1.5)),
    ),
    "lcm": (
        # The guidance scale goes into the time embedding: no second half of the batch.
        Picture("own4", steps=4, guidance=8.5, negative=None),
        Picture("own8", steps=8, guidance=1.5, negative=None, seed=3),
    ),
    "tiny-sd": (
        *TXT,
        Picture("own20"),
        # As with an LCM LoRA: the LCM scheduler over an ordinary network.
        Picture("lcm6", ("LCMScheduler", dict(original_inference_steps=50)), steps=6, guidance=1.5),
    ),
    "sd21-base": (
        *TXT,
        Picture("own20"),
        Picture("dpmpp_2m_karras20", ("DPMSolverMultistepScheduler", dict(use_karras_sigmas=True))),
        Picture("unipc20", ("UniPCMultistepScheduler", {})),
        Picture("img2img_ddim20", DDIM, kind="img2img", options=dict(strength=0.6)),
    ),
    "sd21-v": (
        *TXT,
        Picture("zero_snr_ddim20", ("DDIMScheduler", ZERO_SNR), options=dict(guidance_rescale=0.7)),
        Picture("zero_snr_euler20", ("EulerDiscreteScheduler", ZERO_SNR), options=dict(guidance_rescale=0.7)),
        Picture("rescale_ddim20", DDIM, options=dict(guidance_rescale=0.4)),
    ),
    "sd2-inpaint": INPAINT9,
    "sd-turbo": (
        Picture("own1", steps=1, guidance=0.0, negative=None),
        Picture("own4", steps=4, guidance=0.0, negative=None),
        Picture("img2img_own4", kind="img2img", steps=4, guidance=0.0, negative=None, options=dict(strength=0.5)),
    ),
    "sdxl": (
        *TXT,
        # Without a negative prompt the pipeline takes zeros instead of the encoding of "".
        Picture("euler20_no_negative", EULER, negative=None),
        Picture(
            "euler20_sizes",
            EULER,
            options=dict(
                original_size=(96, 80),
                crops_coords_top_left=(8, 4),
                target_size=(64, 96),
                negative_original_size=(32, 40),
                negative_crops_coords_top_left=(2, 6),
                negative_target_size=(48, 64),
            ),
        ),
        Picture("base80", EULER, options=dict(denoising_end=0.8)),
        Picture("base80_ddim", DDIM, options=dict(denoising_end=0.8)),
        Picture("img2img_euler20", EULER, kind="img2img", options=dict(strength=0.6)),
    ),
    "sdxl-refiner": (
        Picture("img2img_euler20", EULER, kind="img2img", options=dict(strength=0.3)),
        Picture(
            "img2img_aesthetic",
            DDIM,
            kind="img2img",
            options=dict(strength=0.6, aesthetic_score=7.5, negative_aesthetic_score=1.5),
        ),
        # The second half of sdxl's base80: its latents are added when the goldens are made.
        Picture("refine80", EULER, kind="refine", options=dict(denoising_start=0.8)),
        Picture("refine80_ddim", DDIM, kind="refine", options=dict(denoising_start=0.8)),
    ),
    "sdxl-turbo": (
        Picture("own1", steps=1, guidance=0.0, negative=None),
        Picture("own4", steps=4, guidance=0.0, negative=None),
    ),
    "sdxl-inpaint": INPAINT9,
    "ssd1b": TXT,
}


def with_base_latents(picture: Picture):
    """A refining picture with the base model's latents as its input."""
    latents = load_file(GOLDENS / "sdxl.safetensors")[picture.name.replace("refine", "base") + ".latents"]
    return replace(picture, options={**picture.options, "image": latents})


def write(family: Family):
    """Makes `goldens/<family>.safetensors` and the `.json` that describes it."""
    pipe = build.load_pipeline(MODELS / family.name)
    factor = pipe.vae_scale_factor
    height, width = family.height // factor, family.width // factor
    # Encoders of one kind are equal in all families: all layers and all prompts once.
    prompts = components.PROMPTS[: 4 if family.name in ("sd15", "sd21-base", "sdxl") else 2]
    tensors = components.text(pipe, prompts, all_layers=len(prompts) == 4)
    tensors |= components.unet(pipe.unet, family.name, height, width, build.unet_extras(family, 3))
    tensors |= components.autoencoder(pipe.vae, family.name, height, width)
    about = {
        "family": family.name,
        "model": f"models/{family.name}",
        "prompts": prompts,
        "vae_scale": factor,
        "made_with": {m.__name__: m.__version__ for m in (torch, diffusers, build.transformers)},
        "pictures": {},
    }
    for picture in PICTURES[family.name]:
        if picture.kind == "refine":
            picture = with_base_latents(picture)
        found, text = pictures.golden(pipe, picture, family.height, family.width, family.is_xl)
        if picture is not PICTURES[family.name][0]:
            # The way is kept for one picture a family, to find where a deviation begins.
            found.pop(f"{picture.name}.steps")
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
    # Its pipeline takes the final state.
    del tensors["text_encoder.penultimate"]
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
