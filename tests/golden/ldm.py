"""Key names of single-file checkpoints (LDM and OpenCLIP naming) for diffusers' and transformers' keys.

The inverse of diffusers' converter, written as rules over key names. Each rule gives the key in the single file
and how its tensor differs: `same`, `conv` (a linear layer stored as a 1×1 convolution), `transposed`, or
`q`, `k`, `v` (a third of a stacked matrix).
"""

import re

UNET, VAE = "model.diffusion_model.", "first_stage_model."

_UNET_PLAIN = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}

_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}

_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def unet(key, config):
    """(key, how) for a key of UNet2DConditionModel."""
    name, leaf = key.rsplit(".", 1)
    if name in _UNET_PLAIN:
        return UNET + f"{_UNET_PLAIN[name]}.{leaf}", "same"
    each = config["layers_per_block"] + 1
    m = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", name)
    if m:
        way, block, kind, layer, rest = m[1], int(m[2]), m[3], int(m[4]), m[5]
        blocks = "input_blocks" if way == "down" else "output_blocks"
        if kind == "downsamplers":
            return UNET + f"input_blocks.{(block + 1) * each}.0.op.{leaf}", "same"
        if kind == "upsamplers":
            # Behind the residual block and, where there is one, its transformer.
            place = 2 if "CrossAttn" in config["up_block_types"][block] else 1
            return UNET + f"output_blocks.{block * each + each - 1}.{place}.conv.{leaf}", "same"
        number = block * each + layer + (1 if way == "down" else 0)
        if kind == "attentions":
            return UNET + f"{blocks}.{number}.1.{rest}.{leaf}", "same"
        return UNET + f"{blocks}.{number}.0.{_RESNET[rest]}.{leaf}", "same"
    m = re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name)
    if m[1] == "attentions":
        return UNET + f"middle_block.1.{m[3]}.{leaf}", "same"
    return UNET + f"middle_block.{2 * int(m[2])}.{_RESNET[m[3]]}.{leaf}", "same"


def vae(key, config):
    """(key, how) for a key of AutoencoderKL."""
    name, leaf = key.rsplit(".", 1)
    levels = len(config["block_out_channels"])
    name = name.replace("conv_norm_out", "norm_out")
    m = re.fullmatch(r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name)
    if m:
        if m[2] == "attentions":
            how = "conv" if leaf == "weight" and m[4] != "group_norm" else "same"
            return VAE + f"{m[1]}.mid.attn_1.{_VAE_ATTENTION[m[4]]}.{leaf}", how
        return VAE + f"{m[1]}.mid.block_{int(m[3]) + 1}.{m[4]}.{leaf}", "same"
    m = re.fullmatch(
        r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)", name
    )
    if m:
        # The decoder counts its levels from the picture's side.
        level = int(m[3]) if m[2] == "down" else levels - 1 - int(m[3])
        if m[4] == "resnets":
            rest = m[6].replace("conv_shortcut", "nin_shortcut")
            return VAE + f"{m[1]}.{m[2]}.{level}.block.{m[5]}.{rest}.{leaf}", "same"
        return VAE + f"{m[1]}.{m[2]}.{level}.{m[4][:-3]}e.conv.{leaf}", "same"
    return VAE + f"{name}.{leaf}", "same"


def clip(key, prefix):
    """(key, how) for a CLIPTextModel in a file that keeps transformers' names."""
    return prefix + key, "same"


def open_clip(key, prefix):
    """(key, how) for a CLIPTextModel in a file with OpenCLIP's names."""
    plain = {
        "text_model.embeddings.position_embedding.weight": ("positional_embedding", "same"),
        "text_model.embeddings.token_embedding.weight": ("token_embedding.weight", "same"),
        "text_model.final_layer_norm.weight": ("ln_final.weight", "same"),
        "text_model.final_layer_norm.bias": ("ln_final.bias", "same"),
        "text_projection.weight": ("text_projection", "transposed"),
    }
    if key in plain:
        name, how = plain[key]
        return prefix + name, how
    m = re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", key)
    layer = f"{prefix}transformer.resblocks.{m[1]}."
    if m[2] in _OPEN_CLIP_LAYER:
        return layer + f"{_OPEN_CLIP_LAYER[m[2]]}.{m[3]}", "same"
    return layer + f"attn.in_proj_{m[3]}", m[2].rsplit(".", 1)[1][0]


# Family to the text encoders of its single file: component, naming, prefix.
TEXTS = {
    "sd15": (("text_encoder", clip, "cond_stage_model.transformer."),),
    "sd21-v": (("text_encoder", open_clip, "cond_stage_model.model."),),
    "sdxl": (
        ("text_encoder", clip, "conditioner.embedders.0.transformer."),
        ("text_encoder_2", open_clip, "conditioner.embedders.1.model."),
    ),
    "sdxl-refiner": (("text_encoder_2", open_clip, "conditioner.embedders.0.model."),),
}


def mapping(family, component, key, configs):
    """(key in the single file, how) for a key of a component of a diffusers folder."""
    if component in ("unet", "vae"):
        return {"unet": unet, "vae": vae}[component](key, configs[component])
    for name, rule, prefix in TEXTS[family]:
        if name == component:
            return rule(key, prefix)
    raise KeyError(component)
