"""Writes `goldens/samplers.safetensors` and its index `samplers.json`."""

import json

import diffusers
import torch

import denoisers
import kdiffusion
import schedulers
import schedules
from common import GOLDENS, generator, save_tensors

SHAPE = (1, 4, 8, 8)
DRAWS = 96
STEPS = (1, 2, 5, 10, 20, 30, 50)


def _betas():
    """ᾱ of the beta schedules that configs name, from diffusers."""
    sd = schedulers.SD
    configs = {
        "scaled_linear": sd,
        "linear": {**sd, "beta_schedule": "linear"},
        "squaredcos_cap_v2": {**sd, "beta_schedule": "squaredcos_cap_v2"},
        "scaled_linear.zero_snr": {**sd, "rescale_betas_zero_snr": True},
    }
    return {f"alphas_cumprod.{k}": diffusers.DDIMScheduler.from_config(v).alphas_cumprod for k, v in configs.items()}


def _number(value):
    """Shortest text that reads back as the same f32."""
    return float(f"{value:.9g}")


def write():
    """Runs every case and writes one stack of final latents with an index beside it."""
    g = generator(20)
    initial = torch.randn(SHAPE, generator=g)
    noise = torch.randn(DRAWS, *SHAPE[1:], generator=g)
    finals, index = [], []
    jobs = [(kdiffusion, c) for c in kdiffusion.cases()] + [(schedulers, c) for c in schedulers.cases()]
    for module, case in jobs:
        final, about = module.run(case, initial, noise)
        assert torch.isfinite(final).all(), about
        for key in ("timesteps", "levels"):
            if key in about:
                about[key] = [_number(v) for v in about[key]]
        finals.append(final)
        index.append(about)
    save_tensors(
        GOLDENS / "samplers.safetensors",
        {"initial": initial, "noise": noise, "finals": torch.cat(finals), **_betas()},
    )
    head = {
        "denoisers": denoisers.FORMULAS,
        "defaults": schedulers.SD,
        "shape": SHAPE,
        "schedules": {
            name: {
                "defined_by": schedules.ABOUT[name],
                "sigmas": {
                    str(n): [_number(float(v)) for v in schedules.sigmas(name, n)]
                    for n in STEPS
                    if n > 1 or name in ("normal", "simple", "karras", "sgm_uniform")
                },
            }
            for name in schedules.NAMES
        },
    }
    # One case a line: the place in the list is the row of `finals`.
    lines = ",\n".join(json.dumps(a, sort_keys=True) for a in index)
    text = json.dumps(head, indent=1, sort_keys=True)[:-2] + ',\n "cases": [\n' + lines + "\n]}\n"
    json.loads(text)
    (GOLDENS / "samplers.json").write_text(text)
    print(f"  {len(index)} cases")
