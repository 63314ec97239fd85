"""Single-file checkpoints of three tiny models, and key lists of the real sizes.

Every file made here is read back with diffusers' own converter and compared with the folder, bit by bit.
"""

import gzip
import json

import diffusers
import torch
import transformers
from diffusers.loaders import single_file_utils as converter
from safetensors.torch import load_file, save_file

import ldm
from common import FIXTURES, GOLDENS, MODELS, generator, read_json
from families import BETAS, CROSS, PLAIN, SD1_BLOCKS, SDXL_BLOCKS, UP_CROSS, UP_PLAIN

FAMILIES = ("sd15", "sd21-v", "sdxl")


def _component_files(family):
    folder = MODELS / family
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if (folder / part).exists():
            (path,) = (folder / part).glob("*.safetensors")
            yield part, load_file(path), read_json(folder / part / "config.json")


def _to_single(family):
    parts = {name: (tensors, config) for name, tensors, config in _component_files(family)}
    configs = {name: config for name, (_, config) in parts.items()}
    out, thirds = {}, {}
    for part, (tensors, _) in parts.items():
        for key, value in tensors.items():
            name, how = ldm.mapping(family, part, key, configs)
            if how in "qkv":
                thirds.setdefault(name, {})[how] = value
                continue
            if how == "conv":
                value = value[:, :, None, None]
            elif how == "transposed":
                value = value.T
            assert name not in out, name
            out[name] = value.contiguous()
    for name, three in thirds.items():
        out[name] = torch.cat([three[k] for k in "qkv"]).contiguous()
    return out, configs


def _extras(family, tensors):
    """What published files carry beside the networks, for loaders to pass over."""
    g = generator(5)
    if family == "sd15":
        betas = torch.linspace(BETAS["beta_start"] ** 0.5, BETAS["beta_end"] ** 0.5, 1000) ** 2
        return {
            "betas": betas,
            "alphas_cumprod": torch.cumprod(1 - betas, 0),
            "model_ema.decay": torch.tensor(0.9999),
            "model_ema.num_updates": torch.tensor(470000, dtype=torch.int32),
        }
    prefix = ldm.TEXTS[family][-1][2]
    found = {prefix + "logit_scale": torch.tensor(4.6055).half()}
    if family == "sd21-v":
        # OpenCLIP's own last layer and projection: SD 2 takes the layer before, so diffusers' folder lacks them.
        last = max(int(k.split("resblocks.")[1].split(".")[0]) for k in tensors if "resblocks." in k)
        for key in [k for k in tensors if f"resblocks.{last}." in k]:
            name = key.replace(f"resblocks.{last}.", f"resblocks.{last + 1}.")
            found[name] = torch.randn(tensors[key].shape, generator=g).half()
        width = tensors[prefix + "ln_final.weight"].shape[0]
        found[prefix + "text_projection"] = torch.randn(width, width, generator=g).half()
    return found


def _check(family, single, configs):
    """diffusers' converter must give back the folder."""
    back = {"unet": converter.convert_ldm_unet_checkpoint(dict(single), configs["unet"])}
    vae = {k: v for k, v in single.items() if k.startswith(ldm.VAE)}
    back["vae"] = converter.convert_ldm_vae_checkpoint(vae, configs["vae"])
    for part, rule, prefix in ldm.TEXTS[family]:
        if rule is ldm.clip:
            mine = {k: v for k, v in single.items() if k.startswith(prefix)}
            back[part] = converter.convert_ldm_clip_checkpoint(mine, remove_prefix=prefix)
        else:
            config = transformers.CLIPTextConfig(**{k: v for k, v in configs[part].items() if k != "torch_dtype"})
            cls = transformers.CLIPTextModelWithProjection if part == "text_encoder_2" else transformers.CLIPTextModel
            with torch.device("meta"):
                model = cls(config)
            back[part] = converter.convert_open_clip_checkpoint(model, dict(single), prefix=prefix)
    for part, tensors, _ in _component_files(family):
        for key, value in tensors.items():
            assert torch.equal(back[part][key], value), f"{family} {part} {key}"
        extra = set(back[part]) - set(tensors)
        allowed = family == "sd21-v" and part == "text_encoder"
        assert not extra or allowed, f"{family} {part}: {sorted(extra)[:3]}"


def write():
    """Makes `tests/fixtures/singlefile/` and `goldens/keys-*.json.gz`."""
    folder = FIXTURES / "singlefile"
    folder.mkdir(parents=True, exist_ok=True)
    for family in FAMILIES:
        single, configs = _to_single(family)
        single |= _extras(family, single)
        _check(family, single, configs)
        path = folder / f"{family}.safetensors"
        save_file(single, path)
        path.chmod(0o644)
        print(f"  {family}: {len(single)} tensors")
    write_key_lists()


# The published configurations, in what decides names and shapes.
_SD1 = dict(
    **{k: (v[0], *v) if k == "down_block_types" else (*v, v[-1]) for k, v in SD1_BLOCKS.items()},
    block_out_channels=(320, 640, 1280, 1280),
    layers_per_block=2,
    in_channels=4,
    out_channels=4,
)
_TEXT_TIME = dict(
    addition_embed_type="text_time", addition_time_embed_dim=256, use_linear_projection=True, layers_per_block=2
)
_VAE = dict(
    block_out_channels=(128, 256, 512, 512),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=2,
    latent_channels=4,
)
_SDXL = dict(
    **_TEXT_TIME,
    **SDXL_BLOCKS,
    block_out_channels=(320, 640, 1280),
    attention_head_dim=(5, 10, 20),
    cross_attention_dim=2048,
    projection_class_embeddings_input_dim=2816,
)


def _clip(hidden, layers, heads, act, projection):
    return dict(
        hidden_size=hidden,
        intermediate_size=hidden * 4,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        hidden_act=act,
        projection_dim=projection,
        vocab_size=49408,
    )


_CLIP_L = _clip(768, 12, 12, "quick_gelu", 768)
_CLIP_H = _clip(1024, 23, 16, "gelu", 512)
_CLIP_G = _clip(1280, 32, 20, "gelu", 1280)

# Key list to: naming of its single file, UNet, text encoders, and the known number of the UNet's parameters.
REAL = {
    "sd15": ("sd15", dict(**_SD1, attention_head_dim=8, cross_attention_dim=768), (_CLIP_L,), 859_520_964),
    "sd21": (
        "sd21-v",
        dict(**_SD1, attention_head_dim=(5, 10, 20, 20), cross_attention_dim=1024, use_linear_projection=True),
        (_CLIP_H,),
        865_910_724,
    ),
    "sdxl": ("sdxl", dict(**_SDXL, transformer_layers_per_block=(1, 2, 10)), (_CLIP_L, _CLIP_G), 2_567_463_684),
    "sdxl-refiner": (
        "sdxl-refiner",
        dict(
            **_TEXT_TIME,
            block_out_channels=(384, 768, 1536, 1536),
            down_block_types=(PLAIN, CROSS, CROSS, PLAIN),
            up_block_types=(UP_PLAIN, UP_CROSS, UP_CROSS, UP_PLAIN),
            attention_head_dim=(6, 12, 24, 24),
            transformer_layers_per_block=4,
            cross_attention_dim=1280,
            projection_class_embeddings_input_dim=2560,
        ),
        (_CLIP_G,),
        None,
    ),
    "ssd1b": (
        "sdxl",
        dict(
            **_SDXL,
            mid_block_type="UNetMidBlock2D",
            transformer_layers_per_block=(1, (2, 2), (4, 4)),
            reverse_transformer_layers_per_block=((4, 4, 10), (2, 1, 1), 1),
        ),
        (_CLIP_L, _CLIP_G),
        None,
    ),
}


def _shapes(family, texts):
    """Key to shape of every text encoder, with the published prefix."""
    names = [name for name, _, _ in ldm.TEXTS[family]]
    for name, config in zip(names, texts):
        with_projection = name == "text_encoder_2"
        cls = transformers.CLIPTextModelWithProjection if with_projection else transformers.CLIPTextModel
        with torch.device("meta"):
            state = cls(transformers.CLIPTextConfig(**config)).state_dict()
        shapes = {k: list(v.shape) for k, v in state.items() if "position_ids" not in k}
        published = ("text_model.", "text_projection.")
        yield name, {k if k.startswith(published) else "text_model." + k: v for k, v in shapes.items()}


def key_rows(name):
    """Rows [component, key, shape, key in the single file, its shape, how] of one real model."""
    family, unet_config, texts, parameters = REAL[name]
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**unet_config)
        vae = diffusers.AutoencoderKL(**_VAE)
    counted = sum(p.numel() for p in unet.parameters())
    assert parameters in (None, counted), f"{name}: {counted}"
    configs = {"unet": dict(unet.config), "vae": dict(vae.config)}
    parts = {
        "unet": {k: list(v.shape) for k, v in unet.state_dict().items()},
        "vae": {k: list(v.shape) for k, v in vae.state_dict().items()},
        **dict(_shapes(family, texts)),
    }
    rows = []
    for part, keys in parts.items():
        for key, shape in keys.items():
            single, how = ldm.mapping(family, part, key, configs)
            theirs = {
                "same": shape,
                "conv": [*shape, 1, 1],
                "transposed": shape[::-1],
            }.get(how, [3 * shape[0], *shape[1:]])
            rows.append([part, key, shape, single, theirs, how])
    return rows


def _check_rows(name, rows):
    """diffusers' converter, on tensors without values, must give back names and shapes of UNet and autoencoder."""
    _, unet_config, _, _ = REAL[name]
    with torch.device("meta"):
        single = {row[3]: torch.empty(row[4]) for row in rows}
    back = {
        "unet": converter.convert_ldm_unet_checkpoint(single, unet_config),
        "vae": converter.convert_ldm_vae_checkpoint({k: v for k, v in single.items() if k.startswith(ldm.VAE)}, _VAE),
    }
    for part, found in back.items():
        expected = {row[1]: row[2] for row in rows if row[0] == part}
        assert {k: list(v.shape) for k, v in found.items()} == expected, f"{name} {part}"


def write_key_lists():
    """Names and shapes of the real models, folder and single file side by side."""
    for name in REAL:
        rows = key_rows(name)
        _check_rows(name, rows)
        text = "[\n" + ",\n".join(json.dumps(r) for r in sorted(rows)) + "\n]\n"
        (GOLDENS / f"keys-{name}.json.gz").write_bytes(gzip.compress(text.encode(), 9, mtime=0))
        print(f"  keys of {name}: {len(rows)}")
