"""Answers of diffusers for the bundled model in the terms of the plugin interface: what `sd-worker backend check` compares with.

Latents are in sampler space (after the VAE's scaling), pictures are HWC 0-1, `moments` are mean and deviation in sampler
space, one below the other, as `Diffusion::encode` answers them.
"""

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

PROMPTS = ["red apple", ""]


def write(model):
    """Writes `conformance.safetensors` into the folder of the model."""
    torch.manual_seed(0)
    pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None, torch_dtype=torch.float32)
    side = pipe.unet.config.sample_size
    channels = pipe.vae.config.latent_channels
    ids = pipe.tokenizer(PROMPTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    x = torch.randn(4, channels, side, side)
    timesteps = torch.tensor([999.0, 612.5, 250.0, 1.0])
    text = torch.tensor([0, 1, 0, 1], dtype=torch.int32)
    with torch.no_grad():
        # One by one: a batch may round differently.
        states = torch.cat([pipe.text_encoder(row[None]).last_hidden_state for row in ids])
        out = [pipe.unet(x[i : i + 1], timesteps[i], states[text[i] : text[i] + 1]).sample for i in range(len(x))]
        scale, shift = pipe.vae.config.scaling_factor, getattr(pipe.vae.config, "shift_factor", None) or 0.0
        latents = torch.randn(1, channels, side, side)
        picture = (pipe.vae.decode(latents / scale + shift).sample / 2 + 0.5).clamp(0, 1)
        posterior = pipe.vae.encode(picture * 2 - 1).latent_dist
        moments = torch.cat([(posterior.mean - shift) * scale, posterior.std * scale], dim=1)
    tensors = {
        "tokens": ids.to(torch.int32),
        "x": x,
        "timesteps": timesteps,
        "text": text,
        "out": torch.cat(out),
        "latents": latents,
        "picture": picture.permute(0, 2, 3, 1).contiguous(),
        "moments": moments,
    }
    path = model / "conformance.safetensors"
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    path.chmod(0o644)
