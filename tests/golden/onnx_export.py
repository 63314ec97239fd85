"""Exports a diffusers folder to ONNX in the layout of optimum's exporter: onnx_export.py MODEL OUT.

    OUT/text_encoder/model.onnx  input_ids -> last_hidden_state
    OUT/unet/model.onnx          sample, timestep, encoder_hidden_states -> out_sample
    OUT/vae_decoder/model.onnx   latent_sample -> sample
    OUT/vae_encoder/model.onnx   sample -> latent_parameters (mean and log variance)

with each part's config.json, the tokenizer, the scheduler and the model index. Needs `onnx` beside requirements.txt.
"""

import json
import shutil
import sys
import warnings
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline


class TextEncoder(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, input_ids):
        return self.inner(input_ids).last_hidden_state


class Unet(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, sample, timestep, encoder_hidden_states):
        return self.inner(sample, timestep, encoder_hidden_states).sample


class Decoder(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, latent_sample):
        return self.inner.decode(latent_sample).sample


class Encoder(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, sample):
        return self.inner.encode(sample).latent_dist.parameters


def export(module, inputs, names, output, axes, path, fold):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        module.eval(),
        inputs,
        str(path),
        input_names=names,
        output_names=[output],
        dynamic_axes=axes,
        opset_version=17,
        do_constant_folding=fold,
        dynamo=False,
    )


def main(model, out, fold=True):
    """With `fold`, what follows from the weights alone is worked out now; without, the weights stay as they are."""
    warnings.filterwarnings("ignore")
    pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None, torch_dtype=torch.float32)
    # Plain matrix products: the exporter then needs no operator that older runtimes lack.
    pipe.unet.set_default_attn_processor()
    pipe.vae.set_default_attn_processor()
    pipe.text_encoder.config._attn_implementation = "eager"
    side, channels, length = pipe.unet.config.sample_size, pipe.vae.config.latent_channels, 77
    batch, square = {0: "batch"}, {0: "batch", 2: "height", 3: "width"}
    states = torch.randn(2, length, pipe.unet.config.cross_attention_dim)
    ids = torch.randint(0, pipe.text_encoder.config.vocab_size, (2, length))
    latents = torch.randn(2, channels, side, side)
    picture = torch.randn(2, 3, side * 4, side * 4)
    with torch.no_grad():
        export(
            TextEncoder(pipe.text_encoder),
            (ids,),
            ["input_ids"],
            "last_hidden_state",
            {"input_ids": {0: "batch", 1: "tokens"}, "last_hidden_state": {0: "batch", 1: "tokens"}},
            out / "text_encoder" / "model.onnx",
            fold,
        )
        export(
            Unet(pipe.unet),
            (latents, torch.tensor([500.0]), states),
            ["sample", "timestep", "encoder_hidden_states"],
            "out_sample",
            {"sample": square, "encoder_hidden_states": {0: "batch", 1: "tokens"}, "out_sample": square},
            out / "unet" / "model.onnx",
            fold,
        )
        export(
            Decoder(pipe.vae),
            (latents,),
            ["latent_sample"],
            "sample",
            {"latent_sample": square, "sample": square},
            out / "vae_decoder" / "model.onnx",
            fold,
        )
        export(
            Encoder(pipe.vae),
            (picture,),
            ["sample"],
            "latent_parameters",
            {"sample": square, "latent_parameters": square},
            out / "vae_encoder" / "model.onnx",
            fold,
        )
    for part in ("scheduler", "tokenizer"):
        shutil.copytree(model / part, out / part, dirs_exist_ok=True)
    for source, target in (("text_encoder", "text_encoder"), ("unet", "unet"), ("vae", "vae_decoder"), ("vae", "vae_encoder")):
        shutil.copy(model / source / "config.json", out / target / "config.json")
    for extra in ("sd-worker.json", "conformance.safetensors"):
        if (model / extra).exists():
            shutil.copy(model / extra, out / extra)
    index = json.loads((model / "model_index.json").read_text())
    index["_class_name"] = "OnnxStableDiffusionPipeline"
    index.pop("vae", None)
    for part in ("text_encoder", "unet", "vae_decoder", "vae_encoder"):
        index[part] = ["diffusers", "OnnxRuntimeModel"]
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
