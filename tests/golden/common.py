"""Paths, determinism, seeded weights and file writing shared by every part of the golden maker."""

import contextlib
import json
import os
import zlib
from pathlib import Path

# Before torch is imported: one thread, so that sums are made in one order.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from safetensors.torch import save_file

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
torch.set_grad_enabled(False)

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = Path(os.environ.get("GOLDEN_OUT", ROOT / "tests" / "fixtures"))
MODELS = FIXTURES / "models"
GOLDENS = FIXTURES / "goldens"


def seed_of(text):
    """A stable 32-bit seed for a name, so that adding one tensor never changes another."""
    return zlib.crc32(text.encode())


def generator(seed):
    """PyTorch's CPU generator (MT19937) at `seed`: the noise source of all pictures here."""
    return torch.Generator("cpu").manual_seed(seed)


def randn(name, *shape):
    """Seeded normal test input, named for what it feeds."""
    return torch.randn(*shape, generator=generator(seed_of(name)))


def save_tensors(path, tensors):
    """Writes contiguous copies, sorted by name; floating tensors as f32, indices as i64."""
    path.parent.mkdir(parents=True, exist_ok=True)
    out = {}
    for name in sorted(tensors):
        t = torch.as_tensor(tensors[name]).detach()
        keep_f64 = t.dtype == torch.float64 and name.endswith("_f64")
        if t.is_floating_point() and not keep_f64:
            t = t.float()
        assert not t.is_floating_point() or torch.isfinite(t).all(), f"{path.name}: {name} is not finite"
        out[name] = t.contiguous().clone()
    save_file(out, str(path))
    path.chmod(0o644)


def save_json(path, value, indent=1):
    """Writes JSON that diffs well: sorted keys, one trailing newline. With `indent` None a list's entry is a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if indent is None:
        entry = lambda v: json.dumps(v, sort_keys=True, ensure_ascii=True)  # noqa: E731
        text = ",\n".join(f'"{k}": [\n' + ",\n".join(map(entry, value[k])) + "\n]" for k in sorted(value))
        path.write_text("{\n" + text + "\n}\n")
    else:
        path.write_text(json.dumps(value, indent=indent, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path):
    """Reads one JSON file."""
    return json.loads(Path(path).read_text())


@contextlib.contextmanager
def recorded_noise():
    """Collects every normal tensor drawn through torch.randn / torch.randn_like, in call order.

    diffusers draws all its noise through these two, so the list is what a foreign
    implementation must replay to walk the same path.
    """
    draws = []
    randn_, randn_like_ = torch.randn, torch.randn_like

    def keep(fn):
        def wrapped(*args, **kwargs):
            t = fn(*args, **kwargs)
            draws.append(t.detach().clone().float())
            return t

        return wrapped

    torch.randn, torch.randn_like = keep(randn_), keep(randn_like_)
    try:
        yield draws
    finally:
        torch.randn, torch.randn_like = randn_, randn_like_
