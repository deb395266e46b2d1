r"""What DiT minimises: the noise, and a variational bound that trains nothing but the variance.

    loss = |eps(x_t) - noise|^2 + L_vb        each a mean over the numbers of an image

A network with 2 C channels out tells the noise and, by v in [-1, 1], a variance between the two
extremes of the reverse process, in logarithms:

    log sigma^2 = (v + 1) / 2 log beta_t + (1 - v) / 2 log beta~_t

L_vb is the Kullback-Leibler divergence of the step's reverse distributions, in bits a number, and
does not move the noise. At t = 0 it is the likelihood of x in steps of 2 / 255, as if latents were
pixels of 8 bits: so it is in DiT's code, and so it is here.

(arXiv:2102.09672v1, Eqs. (9)-(11), (14)-(16), with both terms weighted alike as in the code of
arXiv:2212.09748v2. Noise schedule: `core.mup.digits`.)

Symbols: `x` $x_0$; `t` counts from 0; `beta~` is the variance of q(x_{t-1} | x_t, x_0).
"""

from functools import lru_cache
from math import log
from typing import NamedTuple

import torch
from torch import Tensor

from core.mup.digits import alpha_bar

HALF_STEP = 1 / 255
"""Half the distance of two values of 8 bits in [-1, 1]."""


class Losses(NamedTuple):
    """A number for each image."""

    noise: Tensor
    """`[B]` mean squared error of the noise: 1 for a network that predicts zero."""
    bound: Tensor
    """`[B]` L_vb in bits; 0 where the network does not tell a variance."""


def noised(x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Return x_t = sqrt(alpha_bar_t) x + sqrt(1 - alpha_bar_t) noise, in the dtype of `x`.

    Args:
        x: `[B, C, S, S]` images or latents.
        t: `[B]` int64 in [0, 1000).
        noise: like `x`, standard normal.
    """
    return (_at(t, "of_x") * x + _at(t, "of_added") * noise).to(x.dtype)


def losses(output: Tensor, x: Tensor, t: Tensor, noise: Tensor) -> Losses:
    """Return what the output of a network on `noised(x, t, noise)` costs.

    Args:
        output: `[B, C, S, S]` the noise, or `[B, 2 C, S, S]` noise and v.
        x: `[B, C, S, S]`, as are the others what `noised` was given.
        t: `[B]`.
        noise: like `x`.

    Raises:
        ValueError: the output has another number of channels.
    """
    C = x.shape[1]
    if output.shape[1] not in (C, 2 * C):
        raise ValueError(
            f"want an output of {C} channels, or {2 * C} with a variance, got {output.shape[1]}"
        )
    told = output[:, :C]
    error = _mean((told - noise).square())
    if output.shape[1] == C:
        return Losses(error, torch.zeros_like(error))
    return Losses(error, _bound(told.detach(), output[:, C:], x, t, noise))


def _bound(told: Tensor, v: Tensor, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    log_beta, log_tilde = _at(t, "log_beta"), _at(t, "log_tilde")
    log_var = (v + 1) / 2 * log_beta + (1 - v) / 2 * log_tilde
    # the means of both reverse steps take x_t alike, and differ by the noise alone
    apart = _at(t, "of_noise") * (noise - told)
    divergence = (
        log_var - log_tilde - 1 + (log_tilde - log_var).exp() + apart.square() / log_var.exp()
    ) / 2
    ends = (t == 0).view(-1, 1, 1, 1)
    mean = _at(t, "of_x_t") * (noised(x, t, noise) - _at(t, "of_told") * told)
    nats = torch.where(ends, -_log_likelihood(x, mean, log_var / 2), divergence)
    return _mean(nats) / log(2)


def _log_likelihood(x: Tensor, mean: Tensor, log_sd: Tensor) -> Tensor:
    """Logarithm of the probability of x's step of 8 bits; what is beyond the ends is theirs."""
    to_sd = (-log_sd).exp()
    above = torch.special.ndtr((x - mean + HALF_STEP) * to_sd)
    below = torch.special.ndtr((x - mean - HALF_STEP) * to_sd)
    above = torch.where(x > 0.999, 1.0, above)
    below = torch.where(x < -0.999, 0.0, below)
    return (above - below).clamp(min=1e-12).log()


def _mean(each: Tensor) -> Tensor:
    return each.flatten(1).mean(1)


def _at(t: Tensor, name: str) -> Tensor:
    """Return a constant of the schedule for each time, `[B, 1, 1, 1]`, float32."""
    return _schedule(t.device)[name][t].view(-1, 1, 1, 1)


@lru_cache(maxsize=4)
def _schedule(device: torch.device) -> dict[str, Tensor]:
    kept = alpha_bar()
    before = torch.cat([torch.ones(1, dtype=kept.dtype), kept[:-1]])
    alpha = kept / before
    beta = 1 - alpha
    tilde = beta * (1 - before) / (1 - kept)
    tilde[0] = tilde[1]  # is 0, and has no logarithm
    found = {
        "of_x": kept.sqrt(),
        "of_added": (1 - kept).sqrt(),
        "log_beta": beta.log(),
        "log_tilde": tilde.log(),
        "of_x_t": alpha.rsqrt(),
        "of_told": beta / (1 - kept).sqrt(),
        "of_noise": beta / (1 - kept).sqrt() / alpha.sqrt(),
    }
    return {name: value.float().to(device) for name, value in found.items()}
