"""Seeded weights that make a fault visible.

PyTorch's own initialisation hides mistakes: norms are the identity, biases near zero and attention
uniform. Here every tensor matters: norms scale and shift, biases are of the size of the signal,
queries and keys are large enough for attention to choose.
"""

import torch

from common import generator, seed_of


def _value(name, p, seed_name):
    g = generator(seed_of(f"{seed_name}/{name}"))
    noise = torch.randn(p.shape, generator=g)
    leaf = name.rsplit(".", 1)[-1]
    if "token_embedding" in name:
        return noise * 0.7
    if "position_embedding" in name:
        return noise * 0.3
    if p.ndim == 1:
        # A 1-D "weight" is a norm's gain.
        return 1.0 + 0.2 * noise if leaf == "weight" else 0.1 * noise
    fan_in = p[0].numel()
    gain = 0.8
    if any(k in name for k in ("to_q.", "to_k.", "q_proj.", "k_proj.", "query.", "key.")):
        gain = 1.6
    # The last layer of each residual branch: smaller, so that depth does not blow the signal up.
    if any(k in name for k in ("conv2.", "to_out.0.", "ff.net.2.", "proj_out.", "out_proj.", "mlp.fc2.")):
        gain = 0.5
    if "add_embedding." in name or "time_emb_proj." in name or ("attn2." in name and "to_out" in name):
        # The prompt, and the sizes that ride on the timestep, have to change the picture.
        gain = 2.0
    return noise * (gain / fan_in**0.5)


def fill(model, seed_name):
    """Overwrites every parameter of `model` with seeded values and puts it into inference mode."""
    for name, p in model.named_parameters():
        p.copy_(_value(name, p, seed_name))
    return model.eval()


def open_outer_skip(unet):
    """Gives a UNet a clear view of its input at the output, as a trained denoiser has.

    The outermost skip brings the first convolution's result to the last residual block: its pixel's
    own value is made to dominate there.
    """
    unet.conv_in.weight[:, :, 1, 1] *= 4.0
    last = unet.up_blocks[-1].resnets[-1].conv_shortcut
    last.weight[:, -unet.conv_in.out_channels :] *= 8.0


def scale_output(layer, value, target, channels=slice(None)):
    """Scales the output `channels` of a linear or convolution `layer` so that `value` gets std `target`."""
    factor = target / value.std()
    layer.weight[channels] *= factor
    layer.bias[channels] *= factor


def fit_denoiser(model, v_prediction, rows, forward, remainder=0.8):
    """Fits `model.conv_out` so that the random network denoises, keeping a random part of std `remainder`.

    The layers before act as random features; the last one is a ridge regression onto the noise (or v)
    in samples whose clean part is white. Without it twenty steps end far from the range of latents, and
    what the last steps do could not be seen in the picture. `forward(x, t)` runs the network on the
    first four channels `x` of `rows` samples.
    """
    open_outer_skip(model)
    out = model.conv_out
    random_weight, random_bias = out.weight.clone(), out.bias.clone()
    features, targets, importance = [], [], []
    hook = out.register_forward_pre_hook(lambda _m, args: features.append(args[0]))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, 0).float()
    g = generator(11)
    for t in (999, 900, 800, 650, 500, 350, 200, 100, 40, 1):
        clean, noise = torch.randn(2, rows, 4, 12, 16, generator=g)
        a, s = alphas[t].sqrt(), (1 - alphas[t]).sqrt()
        forward(a * clean + s * noise, torch.full((rows,), float(t)))
        targets.append(a * noise - s * clean if v_prediction else noise)
        # An error of the noise counts by what it does to the clean part: with sigma, bounded.
        importance.append(torch.full((rows * 12 * 16, 1), float(s / a) ** 0.5))
    hook.remove()
    columns = torch.cat([torch.nn.functional.unfold(f, 3, padding=1).transpose(1, 2).flatten(0, 1) for f in features])
    columns = torch.cat([columns, torch.ones(len(columns), 1)], 1).double()
    target = torch.cat([t.flatten(2).transpose(1, 2).flatten(0, 1) for t in targets]).double()
    weight = torch.ones(1) if v_prediction else torch.cat(importance).double()
    ridge = 1e-3 * len(columns) * torch.eye(columns.shape[1], dtype=torch.float64)
    fitted = torch.linalg.solve((columns * weight).T @ columns + ridge, (columns * weight).T @ target).float()
    spread = torch.nn.functional.conv2d(torch.cat(features), random_weight, random_bias, padding=1).std()
    out.weight.copy_(fitted[:-1].T.reshape(out.weight.shape) + random_weight * (remainder / spread))
    out.bias.copy_(fitted[-1])
    error = (columns @ fitted.double() - target).std() / target.std()
    return float(error)
