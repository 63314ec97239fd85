"""The model's parts: loading and saving the Stable Diffusion folder, tokenizing, the noise schedule, sampling."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import CLIPTextConfig, CLIPTextModel

CONTEXT = 77
UNET_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
VAE_WEIGHTS = "vae/diffusion_pytorch_model.safetensors"
TEXT_WEIGHTS = "text_encoder/model.safetensors"
MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


@dataclass
class Parts:
    """The networks in float32 and the tokenizer (padded to 77 ids)."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    vae: AutoencoderKL
    tokenizer: Tokenizer

    def token_ids(self, texts: list[str]) -> torch.Tensor:
        """int64 [len(texts), 77]: BOS, words, EOS padding."""
        return torch.tensor([encoding.ids for encoding in self.tokenizer.encode_batch(texts)])


def schedule() -> DDIMScheduler:
    """Stable Diffusion's noise schedule; the networks predict v (Salimans & Ho 2022, arXiv:2202.00512)."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="leading",
    )


def cheap_attention(unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
    """Plain matrix products: on CPUs the fused attention's backward pass is a third slower at these sizes."""
    unet.set_attn_processor(AttnProcessor())
    text_encoder.set_attn_implementation("eager")


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer, cutting at 77 ids and padding with EOS as Stable Diffusion does."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    eos = "<|endoftext|>"
    tokenizer.enable_truncation(CONTEXT)
    tokenizer.enable_padding(length=CONTEXT, pad_id=tokenizer.token_to_id(eos), pad_token=eos)
    return tokenizer


def load_parts(folder: Path) -> Parts:
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", torch_dtype=torch.float32)
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32).eval()
    cheap_attention(unet, text_encoder)
    return Parts(unet, text_encoder, vae, load_tokenizer(folder / "tokenizer"))


def new_unet() -> UNet2DConditionModel:
    """11 M parameters on 16x16 latents.

    Channels are multiples of the 32 norm groups; attention_head_dim counts heads, as in Stable Diffusion 1.x.
    """
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(64, 128, 192),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=192,
        attention_head_dim=(2, 4, 6),
        norm_num_groups=32,
        norm_eps=1e-5,
    )


def new_text_encoder(vocabulary_size: int) -> CLIPTextModel:
    """3 layers, 192 wide. BOS and EOS start at zero and positions tiny.

    70 and more of the 77 positions are EOS padding. With the ordinary start they drown the words: one to two percent
    of what cross-attention averages depends on the prompt. Zero padding lets the layer norms scale up what padding
    positions gather from the words, and the prompt decides from the first step.
    """
    eos = vocabulary_size - 1
    bos = vocabulary_size - 2
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary_size,
            hidden_size=192,
            intermediate_size=768,
            projection_dim=192,
            num_hidden_layers=3,
            num_attention_heads=3,
            max_position_embeddings=77,
            hidden_act="quick_gelu",
            bos_token_id=bos,
            eos_token_id=eos,
            pad_token_id=eos,
        )
    )
    with torch.no_grad():
        tokens = text_encoder.get_input_embeddings().weight
        tokens.normal_(0, 1)
        tokens[bos] = 0
        tokens[eos] = 0
        for name, parameter in text_encoder.named_parameters():
            if "position_embedding" in name:
                parameter.normal_(0, 0.002)
    return text_encoder


def new_vae() -> AutoencoderKL:
    """1.7 M parameters, factor 4: 64x64 pixels to 4x16x16 latents."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=[32, 64, 96],
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=1.0,
    )


def _write_half(folder: Path, weights: str, prefix: str = "") -> None:
    """Rewrites one weight file in float16, giving every key the prefix it lacks."""
    tensors = {}
    for key, value in load_file(folder / weights).items():
        if key.endswith("position_ids"):
            continue
        key = key if key.startswith(prefix) else prefix + key
        tensors[key] = value.to(torch.float16).contiguous()
    save_file(tensors, folder / weights, metadata={"format": "pt"})


def save_vae(vae: AutoencoderKL, folder: Path) -> None:
    """Writes FOLDER/vae in float16, ready to replace the one of a complete model."""
    vae.save_pretrained(folder / "vae")
    _write_half(folder, VAE_WEIGHTS)
    _clean_config(folder / "vae" / "config.json")


def _clean_config(path: Path, **changes: object) -> None:
    """Drops what names the training machine's folders, and sets `changes`."""
    config = json.loads(path.read_text())
    config.pop("_name_or_path", None)
    config.pop("dtype", None)
    path.write_text(json.dumps(config | changes, indent=2) + "\n")


def save_folder(parts: Parts, folder: Path, tokenizer_folder: Path) -> None:
    """Writes the complete Stable Diffusion folder in float16 and swaps it into place in one rename.

    transformers 5 drops the `text_model.` prefix that every published Stable Diffusion text encoder has: restored here.
    """
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    parts.unet.save_pretrained(fresh / "unet")
    parts.text_encoder.save_pretrained(fresh / "text_encoder")
    parts.vae.save_pretrained(fresh / "vae")
    schedule().save_pretrained(fresh / "scheduler")
    shutil.copytree(tokenizer_folder, fresh / "tokenizer")
    (fresh / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n")
    _write_half(fresh, UNET_WEIGHTS)
    _write_half(fresh, VAE_WEIGHTS)
    _write_half(fresh, TEXT_WEIGHTS, "text_model.")
    _clean_config(fresh / "unet" / "config.json")
    _clean_config(fresh / "vae" / "config.json")
    _clean_config(
        fresh / "text_encoder" / "config.json",
        architectures=["CLIPTextModel"],
        model_type="clip_text_model",
        torch_dtype="float16",
    )
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


@torch.no_grad()
def encode_pictures(vae: AutoencoderKL, pictures: torch.Tensor, batch: int = 32) -> torch.Tensor:
    """Scaled latents [N, 4, 16, 16] (the posterior's mean) of pictures [N, 3, 64, 64] in -1..1."""
    chunks = [vae.encode(chunk).latent_dist.mean for chunk in pictures.split(batch)]
    return torch.cat(chunks) * vae.config.scaling_factor


@torch.no_grad()
def sample(parts: Parts, prompts: list[str], seeds: list[int], steps: int = 20, guidance: float = 3.0) -> torch.Tensor:
    """DDIM with classifier-free guidance; pictures [N, 3, 64, 64] in -1..1.

    Each picture has a generator of its own: its seed alone decides, not what else is in the batch.
    """
    noise = [torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    latents = torch.stack(noise)
    conditional = parts.text_encoder(parts.token_ids(prompts))[0]
    empty = parts.text_encoder(parts.token_ids([""]))[0].expand_as(conditional)
    scheduler = schedule()
    scheduler.set_timesteps(steps)
    for timestep in scheduler.timesteps:
        both = parts.unet(
            torch.cat([latents, latents]), timestep, encoder_hidden_states=torch.cat([empty, conditional])
        ).sample
        unconditional, wanted = both.chunk(2)
        latents = scheduler.step(unconditional + guidance * (wanted - unconditional), timestep, latents).prev_sample
    return parts.vae.decode(latents / parts.vae.config.scaling_factor).sample.clamp(-1, 1)
