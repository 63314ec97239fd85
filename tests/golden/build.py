"""Writes the tiny models as diffusers folders, and loads them back as the goldens' networks."""

import json
import shutil

import diffusers
import torch
import transformers
from safetensors.torch import load_file, save_file

from common import MODELS, randn, read_json
from families import Family, Text
from tokenizer import TINY_MERGES, write_tokenizer
from weights import fill, fit_denoiser, scale_output

diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()

VOCABULARY = 512 + TINY_MERGES + 2


def text_encoder(spec: Text, name):
    """A CLIP text encoder, with a projection where the published model has one."""
    config = transformers.CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=spec.hidden,
        intermediate_size=spec.hidden * 4,
        projection_dim=spec.projection or spec.hidden,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        max_position_embeddings=77,
        hidden_act=spec.act,
        bos_token_id=0 if spec.legacy_eos else VOCABULARY - 2,
        eos_token_id=2 if spec.legacy_eos else VOCABULARY - 1,
        pad_token_id=1 if spec.legacy_eos else VOCABULARY - 1,
    )
    cls = transformers.CLIPTextModelWithProjection if spec.projection else transformers.CLIPTextModel
    return fill(cls(config), name)


def autoencoder(config, name):
    """An AutoencoderKL whose latents have a spread like a trained one's and whose pictures fill [-1, 1]."""
    m = fill(diffusers.AutoencoderKL(**config), name)
    picture = randn(f"{name}/calibrate", 1, 3, 32, 32).clamp(-1, 1)
    c = config["latent_channels"]
    moments = m._encode(picture)
    mean, logvar = moments.chunk(2, dim=1)
    scale_output(m.quant_conv, mean, 4.0, slice(0, c))
    scale_output(m.quant_conv, logvar, 1.0, slice(c, None))
    m.quant_conv.bias[c:] -= 4.0
    decoded = m.decode(randn(f"{name}/latents", 1, c, 8, 8) * 4).sample
    scale_output(m.decoder.conv_out, decoded, 0.45)
    return m


def unet(family: Family, name):
    """A UNet2DConditionModel that denoises a little and whose every weight counts."""
    config, rows = family.unet, 3
    m = fill(diffusers.UNet2DConditionModel(**config), name)
    text = randn(f"{name}/text", rows, 77, config["cross_attention_dim"])
    others = randn(f"{name}/calibrate", rows, config["in_channels"] - 4, 12, 16)
    extras = unet_extras(family, rows)

    def forward(x, t):
        m(torch.cat([x, others], 1), t, text, **extras)

    error = fit_denoiser(m, family.scheduler[1].get("prediction_type") == "v_prediction", rows, forward)
    print(f"  {family.name}: the fitted output leaves {error:.2f} of the target's spread")
    return m


def unet_extras(family: Family, rows):
    """Conditioning inputs beyond the prompt for up to three rows, where this UNet takes them."""
    extras = {}
    if family.is_xl:
        # Sizes in pixels, different in every row; the last id of a refiner is its aesthetic score.
        ids = [[64.0, 48, 8, 4, 96, 80], [128.0, 96, 0, 16, 64, 48], [512.0, 768, 0, 0, 1024, 512]]
        if family.is_refiner:
            ids = [row[:4] + [score] for row, score in zip(ids, (6.0, 2.5, 7.25))]
        extras["added_cond_kwargs"] = dict(
            text_embeds=randn(f"{family.name}/pooled", 3, family.pooled)[:rows],
            time_ids=torch.tensor(ids)[:rows],
        )
    if width := family.unet.get("time_cond_proj_dim"):
        extras["timestep_cond"] = randn(f"{family.name}/guidance", 3, width)[:rows]
    return extras


OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def save(model, folder, name, prefix="", rename=()):
    """Weights as fp16 with the published key names, and the config without traces of this run.

    `rename` lists (new, old) parts of key names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, safe_serialization=True)
    (path,) = folder.glob("*.safetensors")
    tensors = {}
    for key, value in load_file(path).items():
        # transformers 5 drops the prefix that every published text encoder has.
        if prefix and not key.startswith((prefix, "text_projection.")):
            key = prefix + key
        for new, old in rename:
            key = key.replace(f".{new}.", f".{old}.")
        tensors[key] = value.half().contiguous()
    if "quick_gelu" in name:
        # Files saved before 2023 carry the position numbers as a tensor: loaders must pass over it.
        tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)
    config_path = folder / "config.json"
    config = read_json(config_path)
    for key in ("_name_or_path", "dtype"):
        config.pop(key, None)
    if prefix:
        config["torch_dtype"] = "float16"
    config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def write_family(family: Family):
    """Makes `tests/fixtures/models/<family>` anew."""
    folder = MODELS / family.name
    shutil.rmtree(folder, ignore_errors=True)
    index = {"_class_name": family.pipeline, "_diffusers_version": diffusers.__version__, **family.index}
    if family.is_refiner:
        index.update(text_encoder=[None, None], tokenizer=[None, None])
    for part, spec in family.encoders.items():
        # The prompt encoders are equal in all families that share an architecture, as published ones are.
        name = f"{spec.act}-{spec.hidden}"
        model = text_encoder(spec, name)
        save(model, folder / part, name, prefix="text_model.")
        tokenizer = part.replace("text_encoder", "tokenizer")
        write_tokenizer(folder / tokenizer, pad=spec.pad, split_pad=spec.split_pad)
        index[part] = ["transformers", type(model).__name__]
        index[tokenizer] = ["transformers", "CLIPTokenizer"]
    vae = autoencoder(family.vae, f"vae-{family.vae['layers_per_block']}")
    save(vae, folder / "vae", "vae", rename=OLD_NAMES.items() if family.old_vae_names else ())
    save(unet(family, f"{family.name}/unet"), folder / "unet", "unet")
    index["vae"] = ["diffusers", "AutoencoderKL"]
    index["unet"] = ["diffusers", "UNet2DConditionModel"]
    name, config = family.scheduler
    cls = getattr(diffusers, name)
    cls.from_config(config).save_pretrained(folder / "scheduler")
    index["scheduler"] = ["diffusers", name]
    if not family.is_xl:
        index.update(safety_checker=[None, None], feature_extractor=[None, None], image_encoder=[None, None])
        index["requires_safety_checker"] = False
    (folder / "model_index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def load_pipeline(folder, cls=None, **parts):
    """The model as diffusers loads it, in f32, silent."""
    cls = getattr(diffusers, cls or read_json(folder / "model_index.json")["_class_name"])
    pipe = cls.from_pretrained(folder, dtype=torch.float32, local_files_only=True, **parts)
    pipe.set_progress_bar_config(disable=True)
    for part in ("text_encoder", "text_encoder_2"):
        encoder = getattr(pipe, part, None)
        if encoder is not None and not hasattr(encoder, "text_model"):
            # diffusers reaches for encoder.text_model.final_layer_norm; transformers 5 has no such level.
            # Set past nn.Module, which would register a cycle.
            object.__setattr__(encoder, "text_model", encoder)
    return pipe
