"""Goldens of whole pictures: diffusers' pipelines from noise to pixels, with everything they drew."""

from dataclasses import dataclass, field

import diffusers
import torch

from common import generator, randn, recorded_noise

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
    negative: str = NEGATIVE
    options: dict = field(default_factory=dict)


DDIM = ("DDIMScheduler", {})
EULER = ("EulerDiscreteScheduler", {})

# What each tensor in `<picture>.draws` was drawn for, in order; txt2img goes on with one draw a step.
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
}

CLASSES = {
    ("txt2img", False): "StableDiffusionPipeline",
    ("txt2img", True): "StableDiffusionXLPipeline",
    ("img2img", False): "StableDiffusionImg2ImgPipeline",
    ("img2img", True): "StableDiffusionXLImg2ImgPipeline",
    ("inpaint", False): "StableDiffusionInpaintPipeline",
    ("inpaint", True): "StableDiffusionXLInpaintPipeline",
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


def pipeline_class(pipe, kind, is_xl):
    """The diffusers class for a kind of picture; models of a kind of their own keep their class."""
    kind = kind.split("9")[0].split("4")[0]
    if kind == "pix2pix" or "LatentConsistency" in type(pipe).__name__:
        return type(pipe)
    return getattr(diffusers, CLASSES[kind, is_xl])


def run(pipe, picture: Picture, height, width, is_xl, perturb=0.0):
    """Runs one picture. Returns its tensors (unprefixed) and its description.

    `timesteps` and `sigmas` are the scheduler's whole schedule; pictures from an image start at `first_step`.
    """
    cls = pipeline_class(pipe, picture.kind, is_xl)
    parts = dict(pipe.components)
    if picture.scheduler:
        name, changes = picture.scheduler
        parts["scheduler"] = getattr(diffusers, name).from_config(pipe.scheduler.config, **changes)
    else:
        parts["scheduler"] = type(pipe.scheduler).from_config(pipe.scheduler.config)
    keep = set(cls.__init__.__annotations__) | set(cls._optional_components) | set(cls.__init__.__code__.co_varnames)
    p = cls(**{k: v for k, v in parts.items() if k in keep})
    p.set_progress_bar_config(disable=True)

    inputs = {}
    kwargs = dict(prompt=picture.prompt, guidance_scale=picture.guidance, num_inference_steps=picture.steps)
    if "LatentConsistency" not in cls.__name__:
        kwargs["negative_prompt"] = picture.negative
    kwargs.update(picture.options)
    if picture.kind != "txt2img" and "image" not in kwargs:
        inputs["init_image"] = kwargs["image"] = source_image(height, width)
        if "inpaint" in picture.kind:
            inputs["mask"] = kwargs["mask_image"] = source_mask(height, width)
    if picture.kind == "txt2img" or "inpaint" in picture.kind:
        kwargs.update(height=height, width=width)
    if perturb:
        inputs_g = generator(7)
        if "image" in kwargs:
            moved = kwargs["image"] + perturb * torch.randn(kwargs["image"].shape, generator=inputs_g)
            kwargs["image"] = moved.clamp(0, 1)
        else:
            shape = (1, 4, height // p.vae_scale_factor, width // p.vae_scale_factor)
            noise = torch.randn(shape, generator=generator(picture.seed))
            kwargs["latents"] = noise + perturb * torch.randn(shape, generator=inputs_g)

    steps = []

    def keep_latents(_pipe, _i, _t, values):
        steps.append(values["latents"].clone())
        return {}

    with recorded_noise() as draws:
        image = p(
            **kwargs, generator=generator(picture.seed), output_type="pt", callback_on_step_end=keep_latents
        ).images
    sigmas = getattr(p.scheduler, "sigmas", None)
    tensors = {
        **inputs,
        "draws": torch.cat(draws) if draws else torch.zeros(0),
        "timesteps": p.scheduler.timesteps.double().float(),
        "steps": torch.cat(steps),
        "latents": steps[-1],
        "image": image,
    }
    if sigmas is not None:
        tensors["sigmas"] = sigmas
    config = {k: v for k, v in p.scheduler.config.items() if not k.startswith("_")}
    about = dict(
        pipeline=cls.__name__,
        kind=picture.kind,
        steps=picture.steps,
        guidance=picture.guidance,
        seed=picture.seed,
        prompt=picture.prompt,
        negative=kwargs.get("negative_prompt"),
        options={k: v for k, v in picture.options.items() if not torch.is_tensor(v)},
        scheduler=dict(_class_name=type(p.scheduler).__name__, **config),
        first_step=len(p.scheduler.timesteps) - len(steps),
        draws=DRAWS.get(picture.kind, []),
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
