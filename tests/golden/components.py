"""Goldens of single networks: text encoders, UNet, autoencoder."""

import torch

from common import randn

PROMPTS = ["a red apple on the table", "blurry, dark", "", "a cat " * 60]


def text(pipe, prompts, all_layers):
    """The hidden states of each text encoder for `prompts`, and what pipelines derive from them.

    Each prompt runs alone: a batch may round differently.
    """
    tensors = {}
    for part in ("text_encoder", "text_encoder_2"):
        encoder = getattr(pipe, part, None)
        if encoder is None:
            continue
        tokenizer = getattr(pipe, part.replace("text_encoder", "tokenizer"))
        ids = tokenizer(prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        outs = [encoder(row[None], output_hidden_states=True) for row in ids]
        norm = getattr(encoder, "text_model", encoder).final_layer_norm
        hidden = [torch.cat(layer) for layer in zip(*(o.hidden_states for o in outs))]
        tensors[f"{part}.ids"] = ids
        tensors[f"{part}.final"] = torch.cat([o.last_hidden_state for o in outs])
        # Stable Diffusion 1 and 2 with clip_skip = n use the state n layers earlier, through the final norm.
        tensors[f"{part}.penultimate"] = hidden[-2]
        if all_layers:
            tensors |= {f"{part}.hidden.{i}": h for i, h in enumerate(hidden)}
            tensors |= {f"{part}.clip_skip.{n}": norm(hidden[-1 - n]) for n in range(1, len(hidden) - 1)}
        if hasattr(encoder, "text_projection"):
            tensors[f"{part}.projected"] = torch.cat([o.text_embeds for o in outs])
        else:
            tensors[f"{part}.pooled"] = torch.cat([o.pooler_output for o in outs])
    return tensors


def unet(m, name, height, width, extras, timesteps=(981.0, 333.5, 1.0)):
    """One prediction per row, each row with its own timestep, prompt and extras, run one by one."""
    rows = len(timesteps)
    x = randn(f"{name}/unet.sample", rows, m.config.in_channels, height, width)
    context = randn(f"{name}/unet.context", rows, 77, m.config.cross_attention_dim)
    t = torch.tensor(timesteps)
    tensors = {"unet.sample": x, "unet.context": context, "unet.timestep": t}
    added = extras.get("added_cond_kwargs", {})
    tensors.update({f"unet.{k}": v for k, v in added.items()})
    per_row = {k: v for k, v in extras.items() if k != "added_cond_kwargs"}
    tensors.update({f"unet.{k}": v for k, v in per_row.items()})
    outs = []
    for i in range(rows):
        row = {k: v[i : i + 1] for k, v in per_row.items()}
        if added:
            row["added_cond_kwargs"] = {k: v[i : i + 1] for k, v in added.items()}
        outs.append(m(x[i : i + 1], t[i], context[i : i + 1], **row).sample)
    tensors["unet.out"] = torch.cat(outs)
    return tensors


def autoencoder(m, name, height, width, prefix="vae"):
    """Decoding of unscaled latents and the moments of an encoding, at the picture size and at an odd one."""
    tensors = {}
    for label, h, w in (("", height, width), (".odd", 5, 7)):
        scale = 2 ** (len(m.config.block_out_channels) - 1)
        latents = randn(f"{name}/{prefix}{label}.latents", 1, m.config.latent_channels, h, w) * 4
        picture = randn(f"{name}/{prefix}{label}.picture", 1, 3, h * scale, w * scale).mul(0.5).clamp(-1, 1)
        posterior = m.encode(picture).latent_dist
        tensors |= {
            f"{prefix}{label}.latents": latents,
            f"{prefix}{label}.decoded": m.decode(latents).sample,
            f"{prefix}{label}.picture": picture,
            f"{prefix}{label}.mean": posterior.mean,
            f"{prefix}{label}.logvar": posterior.logvar,
        }
    return tensors
