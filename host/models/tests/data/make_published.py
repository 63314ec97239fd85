"""Writes published.json.gz: the tensors of the published Stable Diffusion networks, as diffusers and transformers
build them (names and shapes, no values), and the same tensors under the names of single-file checkpoints.

The single-file names are checked with diffusers' own converter. Needs torch, diffusers, transformers; no downloads.
"""
import gzip, json, re, sys
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders import single_file_utils as sf
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"


def unet(**changes):
    config = dict(sample_size=64, in_channels=4, out_channels=4, cross_attention_dim=768, attention_head_dim=8)
    config.update(changes)
    if "down_block_types" in config:
        up = {CROSS: "CrossAttnUpBlock2D", PLAIN: "UpBlock2D"}
        config["up_block_types"] = [up[kind] for kind in reversed(config["down_block_types"])]
    return config


SD2 = dict(cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20], use_linear_projection=True)
XL = dict(sample_size=128, cross_attention_dim=2048, attention_head_dim=[5, 10, 20], use_linear_projection=True,
          block_out_channels=[320, 640, 1280], down_block_types=[PLAIN, CROSS, CROSS],
          transformer_layers_per_block=[1, 2, 10], addition_embed_type="text_time", addition_time_embed_dim=256,
          projection_class_embeddings_input_dim=2816)
REFINER = dict(sample_size=128, cross_attention_dim=1280, attention_head_dim=[6, 12, 24, 24], use_linear_projection=True,
               block_out_channels=[384, 768, 1536, 1536], down_block_types=[PLAIN, CROSS, CROSS, PLAIN],
               transformer_layers_per_block=4, addition_embed_type="text_time", addition_time_embed_dim=256,
               projection_class_embeddings_input_dim=2560)
SSD1B = XL | dict(transformer_layers_per_block=[1, [2, 2], [4, 4]], mid_block_type="UNetMidBlock2D",
                  reverse_transformer_layers_per_block=[[4, 4, 10], [2, 1, 1], 1])
TINY = dict(block_out_channels=[320, 640, 1280], down_block_types=[CROSS] * 3, layers_per_block=1, mid_block_type=None)


def vae(scaling, size):
    return dict(in_channels=3, out_channels=3, latent_channels=4, block_out_channels=[128, 256, 512, 512],
                down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
                layers_per_block=2, norm_num_groups=32, scaling_factor=scaling, sample_size=size)


def clip(hidden, layers, heads, act, projection):
    return dict(hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers, num_attention_heads=heads,
                hidden_act=act, projection_dim=projection, vocab_size=49408, max_position_embeddings=77)


L = clip(768, 12, 12, "quick_gelu", 768)
H = clip(1024, 23, 16, "gelu", 512)
G = clip(1280, 32, 20, "gelu", 1280)
SD_VAE, XL_VAE = vae(0.18215, 512), vae(0.13025, 1024)

MODELS = {
    # file name: (family, unet, vae, text_encoder, text_encoder_2)
    "v1-5-pruned-emaonly": ("sd1", unet(), SD_VAE, L, None),
    "sd-v1-5-inpainting": ("sd1-inpaint", unet(in_channels=9), SD_VAE, L, None),
    "instruct-pix2pix": ("pix2pix", unet(in_channels=8), SD_VAE, L, None),
    "tiny-sd": ("sd1-small", unet(**TINY), SD_VAE, L, None),
    "LCM_Dreamshaper_v7": ("lcm", unet(time_cond_proj_dim=256), SD_VAE, L, None),
    "v2-1_512-ema-pruned": ("sd2", unet(**SD2), SD_VAE, H, None),
    "sd-v2-inpainting": ("sd2-inpaint", unet(in_channels=9, **SD2), SD_VAE, H, None),
    "sd_turbo": ("sd-turbo", unet(**SD2), SD_VAE, H, None),
    "sd_xl_base_1.0": ("sdxl", unet(**XL), XL_VAE, L, G),
    "sd_xl_base_1.0_inpainting_0.1": ("sdxl-inpaint", unet(in_channels=9, **XL), XL_VAE, L, G),
    "sd_xl_turbo_1.0": ("sdxl-turbo", unet(**(XL | dict(sample_size=64))), XL_VAE, L, G),
    "sd_xl_refiner_1.0": ("sdxl-refiner", unet(**REFINER), XL_VAE, None, G),
    "SSD-1B": ("ssd-1b", unet(**SSD1B), XL_VAE, L, G),
}


def shapes(model):
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


def build(config, cls):
    with init_empty_weights(include_buffers=True):
        return cls(**config)


def build_clip(config, projected):
    with init_empty_weights(include_buffers=True):
        model = (CLIPTextModelWithProjection if projected else CLIPTextModel)(CLIPTextConfig(**config))
    found = shapes(model)
    # transformers 5 leaves the level `text_model` out; published files have it.
    named = {k if k.startswith("text_") else f"text_model.{k}": v for k, v in found.items()}
    return {k: v for k, v in named.items() if "position_ids" not in k}


RESNET = [("norm1", "in_layers.0"), ("conv1", "in_layers.2"), ("time_emb_proj", "emb_layers.1"),
          ("norm2", "out_layers.0"), ("conv2", "out_layers.3"), ("conv_shortcut", "skip_connection")]
OUTER = [("time_embedding.linear_1", "time_embed.0"), ("time_embedding.linear_2", "time_embed.2"),
         ("time_embedding.cond_proj", "time_embed.cond_proj"), ("add_embedding.linear_1", "label_emb.0.0"),
         ("add_embedding.linear_2", "label_emb.0.2"), ("conv_in", "input_blocks.0.0"), ("conv_norm_out", "out.0"),
         ("conv_out", "out.2"), ("mid_block.attentions.0", "middle_block.1"), ("mid_block.resnets.0", "middle_block.0"),
         ("mid_block.resnets.1", "middle_block.2")]


def swap(name, pairs):
    for new, old in pairs:
        if name == new or name.startswith(new + "."):
            return old + name[len(new):]
    return name


def ldm_unet(name, layers, cross_up):
    m = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name)
    if not m:
        head = swap(name, OUTER)
        if head.startswith("middle_block.") and not head.startswith("middle_block.1."):
            part, index, rest = head.split(".", 2)
            return f"{part}.{index}.{swap(rest, RESNET)}"
        return head
    side, block, kind, index, rest = m[1], int(m[2]), m[3], int(m[4]), m[5]
    if side == "down":
        at = 1 + block * (layers + 1) + index
        if kind == "downsamplers":
            return f"input_blocks.{1 + block * (layers + 1) + layers}.0.{swap(rest, [('conv', 'op')])}"
        return f"input_blocks.{at}.{0 if kind == 'resnets' else 1}.{swap(rest, RESNET) if kind == 'resnets' else rest}"
    at = block * (layers + 1) + index
    if kind == "upsamplers":
        return f"output_blocks.{block * (layers + 1) + layers}.{2 if cross_up[block] else 1}.{rest}"
    return f"output_blocks.{at}.{0 if kind == 'resnets' else 1}.{swap(rest, RESNET) if kind == 'resnets' else rest}"


def ldm_vae(name, levels=4):
    name = name.replace("mid_block.attentions.0.", "mid.attn_1.").replace("mid_block.resnets.0.", "mid.block_1.")
    name = name.replace("mid_block.resnets.1.", "mid.block_2.").replace("conv_norm_out", "norm_out")
    name = name.replace("conv_shortcut", "nin_shortcut")
    for new, old in [("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")]:
        name = name.replace(f"attn_1.{new}.", f"attn_1.{old}.")
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{levels - 1 - int(m[1])}.block.{m[2]}", name)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)


def open_clip(found, layers, projection):
    """OpenCLIP's tower: one more layer than SD 2 uses, projections of attention joined."""
    width = found["text_model.final_layer_norm.weight"][0]
    out = {"positional_embedding": [77, width], "token_embedding.weight": [49408, width], "ln_final.weight": [width],
           "ln_final.bias": [width], "text_projection": [width, projection], "logit_scale": []}
    for i in range(layers):
        p = f"transformer.resblocks.{i}."
        for ln in ("ln_1", "ln_2"):
            out[p + ln + ".weight"], out[p + ln + ".bias"] = [width], [width]
        out[p + "attn.in_proj_weight"], out[p + "attn.in_proj_bias"] = [3 * width, width], [3 * width]
        out[p + "attn.out_proj.weight"], out[p + "attn.out_proj.bias"] = [width, width], [width]
        out[p + "mlp.c_fc.weight"], out[p + "mlp.c_fc.bias"] = [4 * width, width], [4 * width]
        out[p + "mlp.c_proj.weight"], out[p + "mlp.c_proj.bias"] = [width, 4 * width], [width]
    return out


def check_unet(ldm, config, expected):
    """diffusers must read these names back to exactly its own."""
    checkpoint = {"model.diffusion_model." + k: torch.empty(v, device="meta") for k, v in ldm.items()}
    back = sf.convert_ldm_unet_checkpoint(dict(checkpoint), dict(config))
    found = {k: list(v.shape) for k, v in back.items()}
    assert found == expected, (set(found) ^ set(expected))


def check_vae(ldm, config, expected):
    checkpoint = {"first_stage_model." + k: torch.empty(v, device="meta") for k, v in ldm.items()}
    back = sf.convert_ldm_vae_checkpoint(checkpoint, dict(config))
    assert set(back) == set(expected), set(back) ^ set(expected)


out = {}
for name, (family, unet_config, vae_config, first, second) in MODELS.items():
    model = build(unet_config, UNet2DConditionModel)
    parts = {"unet": shapes(model), "vae": shapes(build(vae_config, AutoencoderKL))}
    configs = {"unet": unet_config, "vae": vae_config}
    if first:
        parts["text_encoder"], configs["text_encoder"] = build_clip(first, False), first
    if second:
        parts["text_encoder_2"], configs["text_encoder_2"] = build_clip(second, True), second

    layers = unet_config.get("layers_per_block", 2)
    ups = [t.startswith("Cross") for t in model.config.up_block_types]
    unet_ldm = {ldm_unet(k, layers, ups): v for k, v in parts["unet"].items()}
    assert len(unet_ldm) == len(parts["unet"])
    # The converter knows neither networks without a middle nor LCM's guidance embedding.
    if family not in ("sd1-small", "ssd-1b", "lcm"):
        check_unet(unet_ldm, model.config, parts["unet"])
    vae_ldm = {ldm_vae(k): v + [1, 1] if ".attentions.0.to_" in k and k.endswith("weight") else v
               for k, v in parts["vae"].items()}
    check_vae(vae_ldm, build(vae_config, AutoencoderKL).config, parts["vae"])
    ldm = {"model.diffusion_model." + k: v for k, v in unet_ldm.items()}
    ldm |= {"first_stage_model." + k: v for k, v in vae_ldm.items()}
    if first is L:
        prefix = "conditioner.embedders.0.transformer." if second else "cond_stage_model.transformer."
        ldm |= {prefix + k: v for k, v in parts["text_encoder"].items()}
    if first is H:
        ldm |= {"cond_stage_model.model." + k: v for k, v in open_clip(parts["text_encoder"], 24, 1024).items()}
    if second:
        prefix = f"conditioner.embedders.{1 if first else 0}.model."
        ldm |= {prefix + k: v for k, v in open_clip(parts["text_encoder_2"], 32, 1280).items()}
    out[name] = {"family": family, "configs": configs, "parts": parts, "ldm": ldm}
    print(name, family, {k: len(v) for k, v in parts.items()}, len(ldm), file=sys.stderr)

with open("published.json.gz", "wb") as raw, gzip.GzipFile(filename="", mode="wb", mtime=0, fileobj=raw, compresslevel=9) as f:
    f.write(json.dumps(out, separators=(",", ":")).encode())
