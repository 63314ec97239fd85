"""Tiny ESRGAN upscalers with random weights under each of the names that files use, and what spandrel makes of them.

`tests/fixtures/models/upscalers/<name>.safetensors` holds the weights, `goldens/upscalers.safetensors` the pictures.
"""

import importlib
import re

import spandrel
import torch
from safetensors.torch import load_file, save_file

from common import GOLDENS, MODELS, generator, randn, save_tensors

FEATURES, GROWTH = 8, 4
# Name, how its tensors are named, enlargements, folding of the input, blocks.
CASES = (
    ("body-x4", "body", 2, 1, 2),
    ("body-x2", "body", 2, 2, 1),
    ("body-x1", "body", 2, 4, 1),
    ("trunk-x4", "trunk", 2, 1, 1),
    ("sequence-x4", "sequence", 2, 1, 1),
    ("sequence-x2", "sequence", 1, 1, 1),
    ("sequence-x1", "sequence", 0, 1, 1),
    ("averaged-x4", "params_ema", 2, 1, 1),
)


def renamed(state, style, ups, blocks):
    """The state under other names; spandrel's own network has those of the first form."""
    if style == "sequence":
        return state
    trunk = style == "trunk"
    table = {
        "model.0": "conv_first",
        f"model.1.sub.{blocks}": "trunk_conv" if trunk else "conv_body",
        f"model.{3 * ups + 2}": "HRconv" if trunk else "conv_hr",
        f"model.{3 * ups + 4}": "conv_last",
    }
    table |= {f"model.{3 * i}": f"upconv{i}" if trunk else f"conv_up{i}" for i in range(1, ups + 1)}
    block = r"RRDB_trunk.\1.RDB\2.conv\3" if trunk else r"body.\1.rdb\2.conv\3"
    prefix = "params_ema." if style == "params_ema" else ""
    out = {}
    for key, value in state.items():
        stem, leaf = key.rsplit(".", 1)
        stem = table.get(stem) or re.sub(r"^model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0$", block, stem)
        out[f"{prefix}{stem}.{leaf}"] = value
    return out


def write():
    """Makes the upscalers and their goldens."""
    arch = importlib.import_module("spandrel.architectures.ESRGAN.__arch.RRDB")
    plain = arch.B.RRDB
    # The networks of the wild have a growth of 32; these are to be small.
    arch.B.RRDB = lambda **kw: plain(**{**kw, "gc": GROWTH})
    folder = MODELS / "upscalers"
    folder.mkdir(parents=True, exist_ok=True)
    # Sides that no folding divides.
    tensors = {"picture": torch.rand(1, 3, 13, 19, generator=generator(1))}
    for name, style, ups, fold, blocks in CASES:
        net = arch.RRDBNet(in_nc=3 * fold * fold, num_filters=FEATURES, num_blocks=blocks, scale=2**ups)
        state = {}
        for key, value in net.state_dict().items():
            noise = randn(f"{name}/{key}", *value.shape)
            fan = value[0].numel() if value.dim() > 1 else 400
            state[key] = (noise / fan**0.5).half()
        last = f"model.{3 * ups + 4}"
        # Values as pictures have them: a deviation of a fifth around grey.
        net.shuffle_factor = fold if fold > 1 else None
        net.load_state_dict({k: v.float() for k, v in state.items()})
        raw = net(tensors["picture"])
        state[f"{last}.weight"] = (state[f"{last}.weight"].float() * 0.2 / raw.std()).half()
        shifted = 0.5 + (state[f"{last}.bias"].float() - raw.mean(dim=(0, 2, 3))) * 0.2 / raw.std()
        state[f"{last}.bias"] = shifted.half()
        path = folder / f"{name}.safetensors"
        save_file(renamed(state, style, ups, blocks), str(path))
        path.chmod(0o644)
        # Read back as any file of the wild would be.
        found = {k.removeprefix("params_ema."): v.float() for k, v in load_file(str(path)).items()}
        model = spandrel.ModelLoader().load_from_state_dict(found).eval()
        assert model.scale == 2**ups // fold, (name, model.scale)
        picture = model.model(tensors["picture"])
        inside = ((picture > 0) & (picture < 1)).float().mean()
        print(f"  {name}: ×{model.scale}, deviation {picture.std():.3f}, {inside:.0%} inside")
        assert picture.std() > 0.05 and inside > 0.5
        tensors[name] = picture.clamp(0, 1)
    save_tensors(GOLDENS / "upscalers.safetensors", tensors)
    arch.B.RRDB = plain
