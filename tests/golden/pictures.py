"""Goldens of whole pictures: diffusers' pipelines from noise to pixels, with everything they drew."""

import inspect
from dataclasses import dataclass, field

import diffusers
import torch

from common import generator, recorded_noise

PROMPT, NEGATIVE = "a red apple on the table", "blurry, dark"


@dataclass(frozen=True)
class Picture:
    """One pipeline call. `scheduler` None keeps the model's own; else (class, config changes)."""

    name: str
    scheduler: tuple | None = None
    kind: str = "txt2img"
    steps: int = 20
    guidance: float = 7.5
    seed: int = 42
    prompt: str = PROMPT
    negative: str | None = NEGATIVE
    options: dict = field(default_factory=dict)


DDIM = ("DDIMScheduler", {})
EULER = ("EulerDiscreteScheduler", {})

# What each tensor in `<picture>.draws` was drawn for, in order. Schedulers that add noise at every
# step (ancestral, LCM) go on with one draw a step.
DRAWS = {
    "txt2img": ["initial noise"],
    "img2img": ["sample of the image's latents", "noise added to them"],
    "inpaint4": ["sample of the image's latents", "noise added to them", "sample of the masked image (unused)"],
    "inpaint9": ["initial noise", "sample of the masked image's latents"],
    "inpaint9_strength": [
        "sample of the image's latents",
        "noise added to them",
        "sample of the masked image's latents",
    ],
    "pix2pix": ["initial noise"],
    "refine": [],
}

CLASSES = {
    "txt2img": ("StableDiffusionPipeline", "StableDiffusionXLPipeline"),
    "img2img": ("StableDiffusionImg2ImgPipeline", "StableDiffusionXLImg2ImgPipeline"),
    "refine": (None, "StableDiffusionXLImg2ImgPipeline"),
    "inpaint4": ("StableDiffusionInpaintPipeline", "StableDiffusionXLInpaintPipeline"),
    "inpaint9": ("StableDiffusionInpaintPipeline", "StableDiffusionXLInpaintPipeline"),
    "inpaint9_strength": ("StableDiffusionInpaintPipeline", "StableDiffusionXLInpaintPipeline"),
    "pix2pix": ("StableDiffusionInstructPix2PixPipeline", None),
}


def source_image(height, width):
    """A smooth colour picture in [0, 1] with an edge in it, [1, 3, H, W]."""
    y = torch.linspace(0, 1, height)[:, None].expand(height, width)
    x = torch.linspace(0, 1, width)[None, :].expand(height, width)
    disc = (((x - 0.55) ** 2 + (y - 0.4) ** 2) < 0.08).float()
    return torch.stack([x * (1 - disc) + disc, y * (1 - 0.7 * disc), (0.5 + 0.5 * torch.sin(9 * x * y))])[None]


def source_mask(height, width):
    """An off-centre rectangle to repaint, [1, 1, H, W]; its borders fall within latent pixels on purpose."""
    mask = torch.zeros(1, 1, height, width)
    mask[..., height // 4 + 1 : height - 6, width // 3 + 1 : width - 9] = 1.0
    return mask


def assemble(pipe, picture: Picture, is_xl):
    """The pipeline for one picture, of the loaded model's parts."""
    cls = type(pipe)
    if "LatentConsistency" not in cls.__name__:
        cls = getattr(diffusers, CLASSES[picture.kind][is_xl])
    parts = {**pipe.config, **pipe.components, "requires_safety_checker": False, "add_watermarker": False}
    name, changes = picture.scheduler or (type(pipe.scheduler).__name__, {})
    parts["scheduler"] = getattr(diffusers, name).from_config(pipe.scheduler.config, **changes)
    wanted = inspect.signature(cls.__init__).parameters
    made = cls(**{k: v for k, v in parts.items() if k in wanted})
    made.set_progress_bar_config(disable=True)
    return made


def call_arguments(picture: Picture, height, width):
    """Keyword arguments of the pipeline call, and those of them that are tensors to store."""
    kwargs = dict(
        prompt=picture.prompt,
        negative_prompt=picture.negative,
        guidance_scale=picture.guidance,
        num_inference_steps=picture.steps,
        **picture.options,
    )
    inputs = {}
    if picture.kind == "refine":
        inputs["init_latents"] = kwargs["image"]
    elif picture.kind != "txt2img":
        inputs["init_image"] = kwargs["image"] = source_image(height, width)
    if "inpaint" in picture.kind:
        inputs["mask"] = kwargs["mask_image"] = source_mask(height, width)
    if picture.kind == "txt2img" or "inpaint" in picture.kind:
        kwargs.update(height=height, width=width)
    return kwargs, inputs


def nudge(kwargs, picture: Picture, size, amount):
    """Moves the input of a call by `amount` times standard normal noise."""
    g = generator(7)
    if "image" in kwargs:
        moved = kwargs["image"] + amount * torch.randn(kwargs["image"].shape, generator=g)
        kwargs["image"] = moved if picture.kind == "refine" else moved.clamp(0, 1)
    else:
        shape = (1, 4, *size)
        noise = torch.randn(shape, generator=generator(picture.seed))
        kwargs["latents"] = noise + amount * torch.randn(shape, generator=g)


def run(pipe, picture: Picture, height, width, is_xl, perturb=0.0):
    """Runs one picture. Returns its tensors (unprefixed) and its description.

    `timesteps` and `sigmas` are the scheduler's whole schedule; pictures from an image start at `first_step`.
    """
    p = assemble(pipe, picture, is_xl)
    kwargs, inputs = call_arguments(picture, height, width)
    if perturb:
        nudge(kwargs, picture, (height // p.vae_scale_factor, width // p.vae_scale_factor), perturb)
    wanted = inspect.signature(p.__call__).parameters
    kwargs = {k: v for k, v in kwargs.items() if k in wanted}
    steps = []

    def keep_latents(_pipe, _i, _t, values):
        steps.append(values["latents"].clone())
        return {}

    noise = generator(picture.seed)
    if "latents" in kwargs:
        # Later draws have to be those of the unmoved picture.
        torch.randn(kwargs["latents"].shape, generator=noise)
    with recorded_noise() as draws:
        result = p(**kwargs, generator=noise, output_type="pt", callback_on_step_end=keep_latents)
    schedule = p.scheduler.timesteps
    tensors = {
        **inputs,
        "timesteps": schedule,
        "steps": torch.cat(steps),
        "latents": steps[-1],
        "image": result.images,
    }
    if draws:
        tensors["draws"] = torch.cat(draws)
    if getattr(p.scheduler, "sigmas", None) is not None:
        tensors["sigmas"] = p.scheduler.sigmas
    config = {k: v for k, v in p.scheduler.config.items() if not k.startswith("_")}
    about = dict(
        pipeline=type(p).__name__,
        kind=picture.kind,
        steps=picture.steps,
        guidance=picture.guidance,
        seed=picture.seed,
        prompt=picture.prompt,
        negative=kwargs.get("negative_prompt"),
        options={k: v for k, v in picture.options.items() if not torch.is_tensor(v)},
        scheduler=dict(_class_name=type(p.scheduler).__name__, **config),
        # With denoising_end the pipeline cuts the end of the schedule instead.
        first_step=0 if "denoising_end" in picture.options else len(schedule) - len(steps),
        draws=DRAWS[picture.kind] + ["noise of a step"] * (len(draws) - len(DRAWS[picture.kind])),
        height=height,
        width=width,
    )
    return tensors, about


def golden(pipe, picture: Picture, height, width, is_xl):
    """A picture with a measure of how far rounding errors grow on its way.

    `amplification` is the relative change of the final latents over a relative change of 1e-5 of the
    input: what a correct implementation's own rounding (some 1e-6) is multiplied with.
    """
    tensors, about = run(pipe, picture, height, width, is_xl)
    moved, _ = run(pipe, picture, height, width, is_xl, perturb=1e-5)
    change = (moved["latents"] - tensors["latents"]).std() / tensors["latents"].std()
    about["amplification"] = round(float(change / 1e-5), 2)
    about["latents_std"] = round(float(tensors["latents"].std()), 3)
    about["clipped_pixels"] = round(float(((tensors["image"] == 0) | (tensors["image"] == 1)).float().mean()), 3)
    return {f"{picture.name}.{k}": v for k, v in tensors.items()}, about
