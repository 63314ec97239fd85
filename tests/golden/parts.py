"""Single networks outside the families: preview decoders, other latent spaces, rarer UNet conditioning.

`tests/fixtures/models/parts/<name>/` holds config and weights, `goldens/parts.safetensors` the numbers.
"""

import shutil

import diffusers
import torch

import build
import components
from common import GOLDENS, MODELS, randn, save_tensors
from families import CROSS, PLAIN, UP_CROSS, UP_PLAIN, unet, vae
from weights import fill, scale_output

# Half size TAESD: three stages, so that its factor is that of the tiny autoencoders.
TAESD = dict(
    encoder_block_out_channels=(16, 16, 16),
    decoder_block_out_channels=(16, 16, 16),
    num_encoder_blocks=(1, 2, 2),
    num_decoder_blocks=(2, 2, 1),
    latent_channels=4,
)

# SD3's and FLUX's latent space: 16 channels, shifted, no 1×1 convolutions around the latents.
VAE_16 = vae(
    latent_channels=16,
    use_quant_conv=False,
    use_post_quant_conv=False,
    scaling_factor=1.5305,
    shift_factor=0.0609,
    mid_block_add_attention=False,
)

# The ×4 upscaler: a noise level as a class, and attention to the prompt only on some levels.
UPSCALER = unet(
    32,
    in_channels=7,
    down_block_types=(PLAIN, CROSS),
    up_block_types=(UP_CROSS, UP_PLAIN),
    block_out_channels=(16, 24),
    attention_head_dim=2,
    num_class_embeds=1000,
    only_cross_attention=(True, False),
    use_linear_projection=True,
)

# unCLIP: an image embedding beside the prompt, through the class embedding, and a scale-and-shift time embedding.
UNCLIP = unet(
    32,
    down_block_types=(CROSS, PLAIN),
    up_block_types=(UP_PLAIN, UP_CROSS),
    block_out_channels=(16, 24),
    attention_head_dim=(2, 3),
    class_embed_type="projection",
    projection_class_embeddings_input_dim=20,
    resnet_time_scale_shift="scale_shift",
)


def _taesd(name):
    m = fill(diffusers.AutoencoderTiny(**TAESD), name)
    latents = randn(f"{name}/calibrate", 1, 4, 12, 16)
    decoded = m.decode(latents).sample
    m.decoder.layers[-1].weight *= 0.25 / decoded.std()
    m.decoder.layers[-1].bias.fill_(0.5)
    picture = randn(f"{name}/calibrate picture", 1, 3, 48, 64).mul(0.5).clamp(-1, 1)
    scale_output(m.encoder.layers[-1], m.encode(picture).latents, 1.0)
    return m


def _vae16(name):
    m = fill(diffusers.AutoencoderKL(**VAE_16), name)
    picture = randn(f"{name}/calibrate", 1, 3, 48, 64).clamp(-1, 1)
    mean, logvar = m._encode(picture).chunk(2, dim=1)
    scale_output(m.encoder.conv_out, mean, 1.0, slice(0, 16))
    scale_output(m.encoder.conv_out, logvar, 1.0, slice(16, None))
    scale_output(m.decoder.conv_out, m.decode(randn(f"{name}/latents", 1, 16, 12, 16)).sample, 0.45)
    return m


def _unet(config, name):
    m = fill(diffusers.UNet2DConditionModel(**config), name)
    labels = torch.tensor([20, 350]) if config.get("num_class_embeds") else randn(f"{name}/labels", 2, 20)
    x = randn(f"{name}/calibrate", 2, config["in_channels"], 12, 16)
    text = randn(f"{name}/text", 2, 77, 32)
    scale_output(m.conv_out, m(x, torch.tensor([601.0, 51.0]), text, class_labels=labels).sample, 1.0)
    return m


def _reload(model, name):
    """The network with the values that are on disk."""
    folder = MODELS / "parts" / name
    shutil.rmtree(folder, ignore_errors=True)
    build.save(model, folder, "part")
    return type(model).from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


def write():
    """Makes the parts and `goldens/parts.safetensors`."""
    tensors = {}
    m = _reload(_taesd("taesd"), "taesd")
    latents = randn("taesd/latents", 1, 4, 12, 16) * 1.5
    picture = randn("taesd/picture", 1, 3, 48, 64).mul(0.5).clamp(-1, 1)
    # Latents as the sampler holds them: TAESD takes them scaled, unlike the full autoencoder.
    tensors |= {
        "taesd.latents": latents,
        "taesd.decoded": m.decode(latents).sample,
        "taesd.picture": picture,
        "taesd.encoded": m.encode(picture).latents,
    }
    m = _reload(_vae16("vae-16"), "vae-16")
    tensors |= components.autoencoder(m, "vae-16", 12, 16, prefix="vae-16")
    for name, config, labels in (
        ("upscaler", UPSCALER, torch.tensor([20, 350, 999])),
        ("unclip", UNCLIP, randn("unclip/labels", 3, 20)),
    ):
        m = _reload(_unet(config, name), name)
        found = components.unet(m, name, 12, 16, {"class_labels": labels})
        tensors |= {k.replace("unet.", f"{name}."): v for k, v in found.items()}
    save_tensors(GOLDENS / "parts.safetensors", tensors)
