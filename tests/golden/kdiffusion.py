"""Sampler goldens in the k-diffusion form: k-diffusion's own functions, and three that it lacks."""

import importlib
import sys
import types
from pathlib import Path

import torch

import denoisers
import schedules


def _load():
    """k_diffusion.sampling without the package's __init__, which imports training tools that are not needed."""
    spec = importlib.util.find_spec("k_diffusion")
    package = types.ModuleType("k_diffusion")
    package.__path__ = [str(Path(spec.origin).parent)]
    sys.modules["k_diffusion"] = package
    return importlib.import_module("k_diffusion.sampling")


K = _load()


def ipndm(model, x, sigmas, max_order=4):
    """iPNDM (Zhang and Chen 2022, "Fast sampling of diffusion models with exponential integrator", section
    3.3): Adams-Bashforth of order up to 4 with the coefficients of equal steps, on dx/dsigma. The
    last step, to 0, takes the denoised sample, as in ComfyUI.
    """
    weights = ([1], [3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24])
    slopes = []
    for now, following in zip(sigmas[:-1], sigmas[1:]):
        denoised = model(x, now * x.new_ones(1))
        if following == 0:
            return denoised
        slopes = [(x - denoised) / now, *slopes][:max_order]
        x = x + (following - now) * sum(w * d for w, d in zip(weights[len(slopes) - 1], slopes))
    return x


def lcm(model, x, sigmas, noise_sampler):
    """Multistep consistency sampling (Luo et al. 2023) in sigma space: denoise, then noise to the next level."""
    for now, following in zip(sigmas[:-1], sigmas[1:]):
        x = model(x, now * x.new_ones(1))
        if following > 0:
            x = x + following * noise_sampler(now, following)
    return x


def restart_plan(sigmas):
    """Steps (from, to) of the Restart sampler (Xu et al. 2023) with A1111's choice of intervals.

    From 20 steps on 9 of them, from 36 on twice a quarter, go into restarts between sigma 0.1 and 2; the rest is a
    Karras schedule between the ends of the given one. Where sigma goes up between two pairs, noise is added.
    """
    steps = len(sigmas) - 1
    if steps < 20:
        return list(zip(sigmas[:-1], sigmas[1:]))
    extra, times = (steps // 4, 2) if steps >= 36 else (9, 1)
    sigmas = K.get_sigmas_karras(steps - extra * times, sigmas[-2].item(), sigmas[0].item())
    low, high = int((sigmas - 0.1).abs().argmin()), int((sigmas - 2.0).abs().argmin())
    plan = list(zip(sigmas[:-1], sigmas[1:]))
    if high < low:
        again = K.get_sigmas_karras(extra + 1, sigmas[low].item(), sigmas[high].item())[:-1]
        plan[low:low] = list(zip(again[:-1], again[1:])) * times
    return plan


def restart(model, x, sigmas, noise_sampler):
    """Heun steps along `restart_plan`, with noise wherever it goes up."""
    last = None
    for now, following in restart_plan(sigmas):
        if last is not None and last < now:
            x = x + noise_sampler(last, now) * (now**2 - last**2) ** 0.5
        d = (x - model(x, now * x.new_ones(1))) / now
        ahead = x + d * (following - now)
        if following > 0:
            d = (d + (ahead - model(ahead, following * x.new_ones(1))) / following) / 2
        x = x + d * (following - now)
        last = following
    return x


def _fixed(name, **options):
    return lambda model, x, sigmas, noise: getattr(K, name)(model, x, sigmas, disable=True, **options)


def _noisy(name, **options):
    return lambda model, x, sigmas, noise: getattr(K, name)(
        model, x, sigmas, disable=True, noise_sampler=noise, **options
    )


def _dpm_fast(model, x, sigmas, noise, **options):
    low, high = float(sigmas[sigmas > 0].min()), float(sigmas[0])
    return K.sample_dpm_fast(model, x, low, high, len(sigmas) - 1, disable=True, noise_sampler=noise, **options)


def _dpm_adaptive(model, x, sigmas, noise, **options):
    low, high = float(sigmas[sigmas > 0].min()), float(sigmas[0])
    return K.sample_dpm_adaptive(model, x, low, high, disable=True, noise_sampler=noise, **options)


# Name to (function, parameters to tell). `draws_always`: the function draws even where the noise is multiplied by 0.
SAMPLERS = {
    "euler": (_fixed("sample_euler"), {}),
    "euler_churn": (_fixed("sample_euler", s_churn=4.0), dict(s_churn=4.0)),
    "euler_ancestral": (_noisy("sample_euler_ancestral"), dict(eta=1.0)),
    "euler_ancestral_eta05": (_noisy("sample_euler_ancestral", eta=0.5), dict(eta=0.5)),
    "heun": (_fixed("sample_heun"), {}),
    "dpm_2": (_fixed("sample_dpm_2"), {}),
    "dpm_2_ancestral": (_noisy("sample_dpm_2_ancestral"), dict(eta=1.0)),
    "lms": (_fixed("sample_lms"), dict(order=4)),
    "dpmpp_2s_ancestral": (_noisy("sample_dpmpp_2s_ancestral"), dict(eta=1.0)),
    "dpmpp_sde": (_noisy("sample_dpmpp_sde"), dict(eta=1.0)),
    "dpmpp_2m": (_fixed("sample_dpmpp_2m"), {}),
    "dpmpp_2m_sde": (_noisy("sample_dpmpp_2m_sde"), dict(eta=1.0, solver_type="midpoint")),
    "dpmpp_2m_sde_heun": (_noisy("sample_dpmpp_2m_sde", solver_type="heun"), dict(eta=1.0, solver_type="heun")),
    "dpmpp_3m_sde": (_noisy("sample_dpmpp_3m_sde"), dict(eta=1.0)),
    "dpm_fast": (_dpm_fast, dict(eta=0.0)),
    "dpm_fast_eta1": (lambda m, x, s, n: _dpm_fast(m, x, s, n, eta=1.0), dict(eta=1.0)),
    "dpm_adaptive": (_dpm_adaptive, dict(eta=0.0, order=3, rtol=0.05, atol=0.0078)),
    "dpm_adaptive_eta1": (lambda m, x, s, n: _dpm_adaptive(m, x, s, n, eta=1.0), dict(eta=1.0)),
    "restart": (lambda m, x, s, n: restart(m, x, s, n), {}),
    "ipndm": (lambda m, x, s, n: ipndm(m, x, s), dict(max_order=4)),
    "lcm": (lambda m, x, s, n: lcm(m, x, s, n), {}),
}

# These read only the ends of the schedule and the step count.
ENDS_ONLY = ("dpm_fast", "dpm_fast_eta1", "dpm_adaptive", "dpm_adaptive_eta1")


class Bank:
    """Hands out the stored noise in order, and counts."""

    def __init__(self, noise):
        self.noise, self.used = noise, 0

    def next(self, *_args, **_kwargs):
        """The next tensor of the bank."""
        self.used += 1
        return self.noise[self.used - 1 : self.used].clone()


def cases():
    """(sampler, schedule, steps, denoiser) of the whole grid."""
    for sampler in SAMPLERS:
        names = ["karras"] if sampler in ENDS_ONLY else schedules.NAMES
        for name in names:
            for denoiser in ("gauss", "mixture"):
                yield sampler, name, 10, denoiser
        for name in [n for n in ("normal", "karras") if n in names]:
            for steps in (5, 20, 30):
                yield sampler, name, steps, "mixture"
    for steps in (40,):
        yield "restart", "karras", steps, "mixture"


def run(case, initial, noise):
    """Runs one case. Returns the final latents and its description."""
    sampler, name, steps, denoiser = case
    sigmas = schedules.sigmas(name, steps)
    bank, calls = Bank(noise), 0

    def model(x, sigma, **_):
        nonlocal calls
        calls += 1
        return denoisers.clean(denoiser, x, sigma.reshape(-1, 1, 1, 1))

    original = torch.randn_like
    # Churn draws through randn_like, at every step.
    torch.randn_like = bank.next if sampler == "euler_churn" else original
    try:
        final = SAMPLERS[sampler][0](model, initial * sigmas[0], sigmas, bank.next)
    finally:
        torch.randn_like = original
    deterministic = sampler in ("dpm_fast", "dpm_adaptive")
    about = dict(
        library="k-diffusion",
        sampler=sampler,
        params=SAMPLERS[sampler][1],
        schedule=name,
        steps=steps,
        denoiser=denoiser,
        draws=0 if deterministic else bank.used,
        calls=calls,
    )
    return final, about
