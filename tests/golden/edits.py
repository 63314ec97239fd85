"""Goldens of edited pictures that the families' own goldens do not show: edges of strength, legacy inpainting on XL, soft
and blurred masks, what stands under a mask, and "only masked".

Every picture and mask is given in 8 bits, so that a request can carry it as it is.
"""

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image, ImageFilter, ImageOps

import build
import pictures
from common import GOLDENS, MODELS, generator, save_json, save_tensors
from pictures import DDIM, EULER, Picture, source_image, source_mask

HEIGHT, WIDTH, SEED, STEPS = 48, 64, 11, 10
PROMPT, NEGATIVE, GUIDANCE = "a red apple on the table", "blurry, dark", 7.5

# Family, name, kind, scheduler, options of the call, what is special, fields of the request.
CASES = (
    ("sd15", "whole", "img2img", DDIM, dict(strength=1.0), None, {}),
    ("sd15", "one_step", "img2img", DDIM, dict(strength=0.1), None, {}),
    ("sdxl", "half", "img2img", EULER, dict(strength=0.5), None, {}),
    ("sd15", "inpaint_whole", "inpaint4", DDIM, dict(strength=1.0), None, {}),
    ("sd15", "inpaint_whole_euler", "inpaint4", EULER, dict(strength=1.0), None, {}),
    ("sdxl", "inpaint_part", "inpaint4", EULER, dict(strength=0.6), None, {}),
    ("sdxl", "inpaint_whole", "inpaint4", DDIM, dict(strength=1.0), None, {}),
    ("sd15", "inverted", "inpaint4", DDIM, dict(strength=0.6), "inverted", dict(mask_invert=True)),
    ("sd15", "soft", "inpaint4", DDIM, dict(strength=0.6), "soft", {}),
    ("sd15", "blurred", "inpaint4", DDIM, dict(strength=0.6), "blurred", dict(mask_blur=4)),
    ("sd15", "filled", "inpaint4", DDIM, dict(strength=0.6), "filled", dict(inpaint_fill="fill")),
    ("sd15", "latent_noise", "inpaint4", DDIM, dict(strength=0.6), "latent_noise", dict(inpaint_fill="latent_noise")),
    ("sd15", "latent_nothing", "inpaint4", DDIM, dict(strength=0.6), "latent_nothing", dict(inpaint_fill="latent_nothing")),
    ("sd15", "only_masked", "inpaint4", DDIM, dict(strength=0.6, padding_mask_crop=4), None, dict(only_masked=True, only_masked_padding=4)),
    ("sdxl", "only_masked_tight", "inpaint4", EULER, dict(strength=1.0, padding_mask_crop=0), None, dict(only_masked=True, only_masked_padding=0)),
    ("pix2pix", "no_image_guidance", "pix2pix", DDIM, dict(image_guidance_scale=1.0), None, dict(image_guidance_scale=1.0, strength=1.0)),
)


def eight_bits(tensor):
    return tensor.mul(255).round().to(torch.uint8)


def as_pil(tensor):
    """[1, C, H, W] bytes as a picture."""
    array = tensor[0].permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def blurred(mask, sigma):
    """As A1111 blurs a mask: a Gaussian of 2·int(2.5·σ + 0.5) + 1 values in each direction, edges mirrored."""
    reach = int(2.5 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    array = mask[0, 0].numpy().astype(np.float64)
    for axis in (1, 0):
        padded = np.pad(array, [(reach, reach) if a == axis else (0, 0) for a in (0, 1)], mode="reflect")
        array = np.rint(np.apply_along_axis(lambda line: np.convolve(line, kernel, "valid"), axis, padded))
    return torch.tensor(array.astype(np.uint8))[None, None]


def filled(image, mask):
    """A1111's `masking.fill`: the colours around the mask, blurred inwards."""
    image, mask = as_pil(image), as_pil(mask)
    out = Image.new("RGBA", image.size)
    kept = Image.new("RGBa", image.size)
    kept.paste(image.convert("RGBA").convert("RGBa"), mask=ImageOps.invert(mask.convert("L")))
    for radius, repeats in ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1)):
        layer = kept.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(repeats):
            out.alpha_composite(layer)
    return torch.tensor(np.array(out.convert("RGB"))).permute(2, 0, 1)[None]


def fill_alone():
    """What every shade of a mask does to the fill: noise with a soft and a hard hole, wide enough for thin cover."""
    picture = torch.randint(0, 256, (1, 3, 50, 71), generator=generator(SEED), dtype=torch.uint8)
    mask = torch.linspace(0, 255, 71).round().to(torch.uint8).repeat(1, 1, 50, 1)
    mask[..., 4:47, 6:66] = 255
    mask[..., 20:25, 30:33] = 0
    return {"fill.picture": picture, "fill.mask": mask, "fill.result": filled(picture, mask)}


def under_the_mask(pipe, mask, noise_there):
    """Puts noise, or nothing, under the mask in latent space before the run begins."""
    plain = pipe.prepare_latents

    def prepare(*args, **kwargs):
        _, noise, clean = plain(*args, **kwargs)
        repaint = torch.nn.functional.interpolate(mask.float() / 255, size=clean.shape[-2:]).round()
        clean = clean * (1 - repaint) + (noise * repaint if noise_there else 0)
        timestep = args[9] if len(args) > 9 else kwargs["timestep"]
        return pipe.scheduler.add_noise(clean, noise, timestep), noise, clean

    pipe.prepare_latents = prepare


def draw(family, kind, scheduler, options, special):
    """One picture, and the picture and mask that a request gets."""
    is_xl = family.startswith("sdxl")
    name = "StableDiffusionXLPipeline" if is_xl else "StableDiffusionPipeline"
    base = build.load_pipeline(MODELS / family, {"pix2pix": "StableDiffusionInstructPix2PixPipeline", "sd15-inpaint": "StableDiffusionInpaintPipeline"}.get(family, name))
    pipe = pictures.assemble(base, Picture("edit", scheduler, kind=kind), is_xl)
    image, mask = eight_bits(source_image(HEIGHT, WIDTH)), eight_bits(source_mask(HEIGHT, WIDTH))
    if special == "soft":
        ramp = torch.linspace(0, 255, WIDTH).round().to(torch.uint8)
        mask = ramp.expand(1, 1, HEIGHT, WIDTH).clone()
    sent = dict(image=image, mask=mask)
    if special == "inverted":
        mask = 255 - mask
    elif special == "blurred":
        mask = blurred(mask, 4)
    elif special == "filled":
        image = filled(image, mask)
    elif special in ("latent_noise", "latent_nothing"):
        under_the_mask(pipe, mask, special == "latent_noise")
    if special in ("soft", "blurred"):
        pipe.mask_processor = VaeImageProcessor(
            vae_scale_factor=pipe.vae_scale_factor, do_normalize=False, do_binarize=False, do_convert_grayscale=True
        )
    kwargs = dict(prompt=PROMPT, negative_prompt=NEGATIVE, guidance_scale=GUIDANCE, num_inference_steps=STEPS, **options)
    kwargs["image"] = image.float() / 255
    if "inpaint" in kind:
        kwargs.update(mask_image=mask.float() / 255, height=HEIGHT, width=WIDTH)
    if "padding_mask_crop" in options:
        # The pipelines cut a region out of Pillow's pictures alone.
        kwargs.update(image=as_pil(image), mask_image=as_pil(mask))
        result = pipe(**kwargs, generator=generator(SEED), output_type="pil").images[0]
        return torch.tensor(np.array(result)).permute(2, 0, 1)[None], sent, mask
    return eight_bits(pipe(**kwargs, generator=generator(SEED), output_type="pt").images), sent, mask


def write():
    """Makes `goldens/edits.safetensors` and `goldens/edits.json`."""
    tensors, cases = fill_alone(), []
    for family, name, kind, scheduler, options, special, fields in CASES:
        result, sent, mask = draw(family, kind, scheduler, options, special)
        key = f"{family}.{name}"
        tensors[f"{key}.result"] = result
        # What decides where the result counts: after blurring and turning round.
        if "inpaint" in kind:
            tensors[f"{key}.weights"] = mask
            tensors[f"{key}.mask"] = sent["mask"]
        tensors["image"] = sent["image"]
        request = dict(
            model=family, prompt=PROMPT, negative_prompt=NEGATIVE, guidance_scale=GUIDANCE, steps=STEPS, seed=SEED,
            sampler=scheduler[0], width=WIDTH, height=HEIGHT,
        )
        if "strength" in options:
            request["strength"] = options["strength"]
        request.update(fields)
        cases.append(dict(key=key, request=request))
    save_tensors(GOLDENS / "edits.safetensors", tensors)
    save_json(GOLDENS / "edits.json", dict(cases=cases), indent=None)
