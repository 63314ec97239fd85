"""Sampler goldens of diffusers' schedulers, run as a pipeline runs them."""

import diffusers
import torch

import denoisers
from families import BETAS
from kdiffusion import Bank

SD = dict(**BETAS)
SPACINGS = (
    dict(timestep_spacing="leading", steps_offset=1),
    dict(timestep_spacing="trailing"),
    dict(timestep_spacing="linspace"),
)
LEADING, TRAILING, LINSPACE = SPACINGS
SIGMAS = ({}, dict(use_karras_sigmas=True), dict(use_exponential_sigmas=True), dict(use_beta_sigmas=True))
KARRAS = SIGMAS[1]
ZERO_SNR = dict(rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction")

# Classes whose samples are variance preserving at the timestep's ᾱ.
BY_ALPHA = ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "LCMScheduler", "TCDScheduler")


def grid():
    """(class, config, step options, counts of steps) of everything that is run."""
    d = "DDIMScheduler"
    ddim = dict(clip_sample=False, set_alpha_to_one=False)
    for spacing in SPACINGS:
        for eta in (0.0, 0.5, 1.0):
            yield d, {**ddim, **spacing}, dict(eta=eta), (10,)
    for prediction in ("v_prediction", "sample"):
        yield d, {**ddim, **LEADING, "prediction_type": prediction}, dict(eta=0.0), (10,)
    yield d, {**ddim, **LEADING}, dict(eta=0.0), (5, 20, 30)
    yield d, {**ddim, **LEADING, "set_alpha_to_one": True}, dict(eta=0.0), (10,)
    yield d, {**ddim, **LEADING, "clip_sample": True}, dict(eta=0.5), (10,)
    yield d, {**ddim, **ZERO_SNR}, dict(eta=0.0), (10, 20)
    yield d, {**ddim, **ZERO_SNR}, dict(eta=0.5), (10,)
    for betas in (dict(beta_schedule="linear"), dict(beta_schedule="squaredcos_cap_v2")):
        yield d, {**ddim, **LEADING, **betas}, dict(eta=0.0), (10,)

    d = "DDPMScheduler"
    for spacing in SPACINGS:
        yield d, dict(clip_sample=False, **spacing), {}, (10, 30)
    yield d, dict(clip_sample=False, variance_type="fixed_large", **LEADING), {}, (10,)
    yield d, dict(clip_sample=False, prediction_type="v_prediction", **LEADING), {}, (10,)

    d = "PNDMScheduler"
    for spacing in SPACINGS:
        yield d, dict(skip_prk_steps=True, **spacing), {}, (5, 10, 20, 30)
    yield d, dict(skip_prk_steps=True, prediction_type="v_prediction", **LEADING), {}, (10,)
    yield d, dict(skip_prk_steps=True, set_alpha_to_one=True, **LEADING), {}, (10,)
    yield d, dict(skip_prk_steps=False, **LEADING), {}, (10,)

    d = "EulerDiscreteScheduler"
    for spacing in SPACINGS:
        for sigmas in SIGMAS:
            yield d, {**spacing, **sigmas}, {}, (10,)
    yield d, LEADING, {}, (5, 20, 30)
    for prediction in ("v_prediction", "sample"):
        yield d, {**LEADING, "prediction_type": prediction}, {}, (10,)
    yield d, {**LINSPACE, **KARRAS, "final_sigmas_type": "sigma_min"}, {}, (10,)
    yield d, ZERO_SNR, {}, (10, 20)
    yield d, TRAILING, {}, (1, 4)

    for d in ("EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler"):
        for spacing in SPACINGS:
            yield d, spacing, {}, (10,)
        yield d, LEADING, {}, (5, 20)
        yield d, {**LEADING, "prediction_type": "v_prediction"}, {}, (10,)
    yield "EulerAncestralDiscreteScheduler", TRAILING, {}, (1, 4)
    yield "EulerAncestralDiscreteScheduler", ZERO_SNR, {}, (10,)
    kdpm2 = ("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler")
    for d in ("HeunDiscreteScheduler", "LMSDiscreteScheduler", *kdpm2):
        for sigmas in SIGMAS[1:]:
            yield d, {**LINSPACE, **sigmas}, {}, (10,)
    for d in kdpm2:
        for spacing in SPACINGS:
            yield d, spacing, {}, (10,)
        yield d, LEADING, {}, (5, 20)

    d = "DPMSolverMultistepScheduler"
    for algorithm in ("dpmsolver++", "sde-dpmsolver++"):
        for order in (1, 2, 3):
            for solver in ("midpoint", "heun"):
                yield d, dict(algorithm_type=algorithm, solver_order=order, solver_type=solver, **LEADING), {}, (10,)
        for spacing in SPACINGS:
            for sigmas in (*SIGMAS, dict(use_lu_lambdas=True)):
                yield d, {**spacing, **sigmas, "algorithm_type": algorithm}, {}, (10,)
        yield d, dict(algorithm_type=algorithm, **LEADING), {}, (5, 20, 30)
        yield d, dict(algorithm_type=algorithm, **LEADING, **KARRAS), {}, (5, 20, 30)
    for options in (
        dict(prediction_type="v_prediction"),
        dict(prediction_type="sample"),
        dict(lower_order_final=False),
        dict(euler_at_final=True),
        dict(final_sigmas_type="sigma_min"),
        dict(algorithm_type="dpmsolver", final_sigmas_type="sigma_min"),
    ):
        yield d, {**LEADING, **options}, {}, (10,)
    yield d, ZERO_SNR, {}, (10,)

    d = "DPMSolverSinglestepScheduler"
    for order in (1, 2, 3):
        yield d, dict(solver_order=order), {}, (5, 10, 20)
    yield d, dict(**KARRAS), {}, (10,)
    yield "DPMSolverSDEScheduler", LINSPACE, {}, (10,)
    yield "DPMSolverSDEScheduler", {**LINSPACE, **KARRAS}, {}, (10, 20)

    d = "UniPCMultistepScheduler"
    for solver in (
        # bh1 is not a number at sigma 0 in diffusers: minus infinity times zero.
        dict(solver_type="bh1", final_sigmas_type="sigma_min"),
        dict(solver_type="bh2"),
    ):
        for order in (1, 2, 3):
            yield d, dict(solver_order=order, **solver, **LEADING), {}, (5, 10)
        for spacing in SPACINGS:
            for sigmas in SIGMAS:
                yield d, {**spacing, **sigmas, **solver}, {}, (10,)
        yield d, dict(**solver, **LEADING), {}, (20, 30)
    for options in (
        dict(prediction_type="v_prediction"),
        dict(prediction_type="sample"),
        dict(lower_order_final=False, final_sigmas_type="sigma_min"),
        dict(disable_corrector=[0]),
        dict(predict_x0=False, final_sigmas_type="sigma_min"),
        dict(final_sigmas_type="sigma_min"),
    ):
        yield d, {**LEADING, **options}, {}, (10,)
    yield d, ZERO_SNR, {}, (10,)

    d = "DEISMultistepScheduler"
    for order in (1, 2, 3):
        yield d, dict(solver_order=order, **LEADING), {}, (5, 10, 20)
    for sigmas in SIGMAS[1:]:
        yield d, {**LINSPACE, **sigmas}, {}, (10,)
    yield d, {**LEADING, "prediction_type": "v_prediction"}, {}, (10,)

    for steps in (1, 4, 8):
        yield "LCMScheduler", dict(clip_sample=False, original_inference_steps=50), {}, (steps,)
        for eta in (0.0, 0.3, 1.0):
            yield "TCDScheduler", dict(clip_sample=False, original_inference_steps=50), dict(eta=eta), (steps,)
    yield "LCMScheduler", dict(clip_sample=False, prediction_type="v_prediction"), {}, (4,)

    edm = dict(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
    for prediction in ("epsilon", "v_prediction"):
        for schedule in ("karras", "exponential"):
            options = dict(**edm, prediction_type=prediction, sigma_schedule=schedule)
            yield "EDMEulerScheduler", options, {}, (10, 20)
            yield "EDMDPMSolverMultistepScheduler", options, {}, (10, 20)
    yield "EDMDPMSolverMultistepScheduler", dict(**edm, algorithm_type="sde-dpmsolver++"), {}, (10,)


def cases():
    """(class, full config, step options, steps, denoiser)."""
    for name, config, options, counts in grid():
        full = config if name.startswith("EDM") else {**SD, **config}
        for steps in counts:
            for denoiser in ("gauss", "mixture") if steps == 10 else ("mixture",):
                yield name, full, options, steps, denoiser


def _level(scheduler, name, call, t):
    """(a, s) of the noised sample that the network sees: a² + s² = 1."""
    if name in BY_ALPHA:
        alpha = float(scheduler.alphas_cumprod[int(t)])
        return alpha**0.5, (1 - alpha) ** 0.5
    if name.startswith("KDPM2") and not scheduler.state_in_first_order:
        back = 1 if "Ancestral" in name else 0
        sigma = float(scheduler.sigmas_interpol[scheduler.step_index - back])
    elif name == "DPMSolverSDEScheduler" and not scheduler.state_in_first_order:
        sigma = float(scheduler.mid_point_sigma)
    else:
        sigma = float(scheduler.sigmas[call if scheduler.step_index is None else scheduler.step_index])
    return 1 / (1 + sigma**2) ** 0.5, sigma / (1 + sigma**2) ** 0.5


def _edm_output(scheduler, denoiser, scaled):
    """The raw network of an EDM model, whose preconditioning (Karras et al. 2022, table 1) the scheduler undoes."""
    sigma, data = float(scheduler.sigmas[scheduler.step_index]), scheduler.config.sigma_data
    y = scaled.double() * (sigma**2 + data**2) ** 0.5
    x0 = denoisers.clean(denoiser, y, sigma)
    skip, out = data**2 / (sigma**2 + data**2), sigma * data / (sigma**2 + data**2) ** 0.5
    if scheduler.config.prediction_type == "v_prediction":
        out = -out
    return ((x0 - skip * y) / out).float()


def run(case, initial, noise):
    """Runs one case. Returns the final latents and its description."""
    name, config, options, steps, denoiser = case
    scheduler = getattr(diffusers, name).from_config(config)
    scheduler.set_timesteps(steps)
    bank = Bank(noise)
    if name == "DPMSolverSDEScheduler":
        # In place of its Brownian tree.
        scheduler.noise_sampler = bank.next
    prediction = scheduler.config.get("prediction_type", "epsilon")
    x, levels = initial * scheduler.init_noise_sigma, []
    original = torch.randn
    torch.randn = lambda *args, **kwargs: bank.next()
    try:
        for call, t in enumerate(scheduler.timesteps):
            scaled = scheduler.scale_model_input(x, t)
            if name.startswith("EDM"):
                out = _edm_output(scheduler, denoiser, scaled)
                levels.append(float(scheduler.sigmas[scheduler.step_index]))
            else:
                a, s = _level(scheduler, name, call, t)
                levels.append(s / a if a else -1.0)
                out = denoisers.predict(denoiser, scaled, a, s, prediction)
            result = scheduler.step(out, t, x, **options, return_dict=False)
            x = result[0]
    finally:
        torch.randn = original
    about = dict(
        library="diffusers",
        sampler=name,
        config={k: v for k, v in sorted(config.items()) if k not in SD or config[k] != SD[k]},
        options=options,
        steps=steps,
        denoiser=denoiser,
        draws=bank.used,
        calls=len(levels),
        timesteps=[float(t) for t in scheduler.timesteps],
        # Noise level of each call in units of the signal; -1 where there is no signal at all.
        levels=levels,
    )
    return x, about
