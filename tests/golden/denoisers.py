"""Two denoisers in closed form, which sampler goldens are made with, element by element.

A noised element is x = a·x0 + s·e, with the clean x0 drawn from a known distribution; the denoiser is the
exact mean of x0 given x. Written for the variance exploding form y = x/a at noise level sigma = s/a:

- gauss:   x0 ~ N(mu, std²)                 x0(y) = mu + std²·(y − mu)/(std² + sigma²)
- mixture: x0 ~ N(±m, std²), even chances   x0(y) = (std²·y + sigma²·m·tanh(m·y/v))/v,  v = std² + sigma²

The first is linear and is what the test plugin computes; the second is not, so that solvers of different order give
different answers. From x0 follow e = (x − a·x0)/s and v = a·e − s·x0.
"""

import torch

GAUSS = dict(mu=0.3, std=0.5)
MIXTURE = dict(m=1.0, std=0.4)

FORMULAS = {
    "gauss": {**GAUSS, "x0": "mu + std^2*(y - mu)/(std^2 + sigma^2)"},
    "mixture": {**MIXTURE, "x0": "(std^2*y + sigma^2*m*tanh(m*y/v))/v, v = std^2 + sigma^2"},
}


def clean(name, y, sigma):
    """The expected clean sample for a variance exploding `y` at `sigma` (both any real dtype)."""
    if name == "gauss":
        mu, var = GAUSS["mu"], GAUSS["std"] ** 2
        return mu + (y - mu) * (var / (var + sigma**2))
    m, var = MIXTURE["m"], MIXTURE["std"] ** 2
    v = var + sigma**2
    return (y * var + sigma**2 * m * torch.tanh(y * (m / v))) / v


def predict(name, x, a, s, prediction):
    """The network's answer for `x` = a·x0 + s·e: computed in f64, so that it holds for a = 0 too.

    With a = 0 (a schedule rescaled to zero SNR) nothing is known about x0: its expectation is the mean of the data.
    """
    x64, a, s = x.double(), float(a), float(s)
    if a == 0.0:
        x0 = torch.full_like(x64, GAUSS["mu"] if name == "gauss" else 0.0)
    else:
        x0 = clean(name, x64 / a, s / a)
    if prediction == "sample":
        return x0.float()
    e = (x64 - a * x0) / s
    return (e if prediction == "epsilon" else a * e - s * x0).float()
