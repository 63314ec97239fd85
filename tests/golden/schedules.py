"""Noise levels of the named schedules, written from their definitions, as A1111 and ComfyUI use them.

All work on the training schedule of Stable Diffusion: sigma_t = sqrt((1 − ᾱ_t)/ᾱ_t), t = 0 … 999; a sigma of a
fractional timestep is interpolated in its logarithm. Sigmas fall and end in 0 unless said otherwise.
"""

import numpy as np
import torch
from scipy.stats import beta as beta_distribution

T = 1000


def training_alphas():
    """ᾱ of Stable Diffusion in f32 steps, as the libraries compute it."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, T, dtype=torch.float32) ** 2
    return torch.cumprod(1.0 - betas, dim=0)


ALPHAS = training_alphas()
SIGMAS = ((1 - ALPHAS) / ALPHAS) ** 0.5
SIGMA_MIN, SIGMA_MAX = float(SIGMAS[0]), float(SIGMAS[-1])

# Sabour et al., "Align Your Steps" (2024): the published ten-step schedules.
AYS = {
    "align_your_steps": [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029],
    "align_your_steps_xl": [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029],
}


def at_timesteps(timesteps):
    """Sigmas at fractional timesteps."""
    return np.exp(np.interp(timesteps, np.arange(T), np.log(SIGMAS.double().numpy())))


def _normal(n):
    return at_timesteps(np.linspace(T - 1, 0, n))


def _sgm_uniform(n):
    # One point more, and the last (timestep 0) left out.
    return at_timesteps(np.linspace(T - 1, 0, n + 1)[:-1])


def _simple(n):
    return np.array([float(SIGMAS[T - 1 - int(i * T / n)]) for i in range(n)])


def _ddim_uniform(n):
    # Every (T // n)-th timestep from 1 on: more than n of them where n does not divide T.
    return SIGMAS[1 :: max(T // n, 1)].double().numpy()[::-1]


def _karras(n, rho=7.0):
    ramp = np.linspace(0, 1, n)
    return (SIGMA_MAX ** (1 / rho) + ramp * (SIGMA_MIN ** (1 / rho) - SIGMA_MAX ** (1 / rho))) ** rho


def _exponential(n):
    return np.exp(np.linspace(np.log(SIGMA_MAX), np.log(SIGMA_MIN), n))


def _polyexponential(n, rho=1.0):
    ramp = np.linspace(1, 0, n) ** rho
    return np.exp(ramp * (np.log(SIGMA_MAX) - np.log(SIGMA_MIN)) + np.log(SIGMA_MIN))


def _beta_a1111(n):
    # Lee et al., "Beta Sampling is All You Need" (2024), applied to sigma.
    return SIGMA_MIN + beta_distribution.ppf(1 - np.linspace(0, 1, n), 0.6, 0.6) * (SIGMA_MAX - SIGMA_MIN)


def _beta_comfyui(n):
    # The same, applied to the timestep; rounded ones that coincide are taken once.
    t = np.rint(beta_distribution.ppf(1 - np.linspace(0, 1, n, endpoint=False), 0.6, 0.6) * (T - 1)).astype(int)
    return np.array([float(SIGMAS[i]) for k, i in enumerate(t) if k == 0 or i != t[k - 1]])


def _ays(table, n):
    at = np.linspace(0, len(table) - 1, n)
    return np.exp(np.interp(at, np.arange(len(table)), np.log(table)))


def _kl(ramp):
    return np.tan(ramp * np.arctan(SIGMA_MIN) + (1 - ramp) * np.arctan(SIGMA_MAX))


def _kl_comfyui(n):
    return _kl(np.linspace(0, 1, n))


# Name to (function of the step count, who defines it so). A name with a variant differs between the two.
NAMED = {
    "normal": (_normal, "both"),
    "simple": (_simple, "both"),
    "sgm_uniform": (_sgm_uniform, "both"),
    "ddim_uniform": (_ddim_uniform, "both"),
    "karras": (_karras, "both"),
    "karras_rho5": (lambda n: _karras(n, 5.0), "both"),
    "exponential": (_exponential, "both"),
    "polyexponential": (_polyexponential, "a1111"),
    "polyexponential_rho2": (lambda n: _polyexponential(n, 2.0), "a1111"),
    "beta": (_beta_a1111, "a1111"),
    "beta_comfyui": (_beta_comfyui, "comfyui"),
    "align_your_steps": (lambda n: _ays(AYS["align_your_steps"], n), "both"),
    "align_your_steps_xl": (lambda n: _ays(AYS["align_your_steps_xl"], n), "both"),
    "kl_optimal": (_kl_comfyui, "comfyui"),
}


def sigmas(name, n):
    """f32 sigmas of a named schedule for `n` steps, the final 0 included."""
    if name == "kl_optimal_a1111":
        # A1111 spends the last interval on reaching sigma_min and never goes to 0.
        return torch.tensor(_kl(np.arange(n + 1) / n), dtype=torch.float32)
    values = NAMED[name][0](n)
    return torch.tensor(np.append(values, 0.0), dtype=torch.float32)


NAMES = [*NAMED, "kl_optimal_a1111"]
ABOUT = {**{k: v[1] for k, v in NAMED.items()}, "kl_optimal_a1111": "a1111"}


def timestep(sigma):
    """The fractional timestep of a sigma, as k-diffusion's sigma_to_t: linear in log sigma, clamped."""
    return float(np.interp(np.log(float(sigma)), np.log(SIGMAS.double().numpy()), np.arange(T)))
