r"""Total variation from samples of two distributions whose densities are known.

    TV(p, q) = E_m |p - q| / (p + q) = E_m |tanh(l / 2)|,    m = (p + q) / 2,    l = log p / q

The mean is of numbers in [0, 1], so that an empirical Bernstein interval holds for any number of
samples and any p and q: with probability 1 - delta

    |mean - TV| <= sqrt(2 V log(4 / delta) / n) + 7 log(4 / delta) / (3 (n - 1))

with V the sample variance (Maurer and Pontil, arXiv:0907.3740v1, Theorem 4, from both sides).
"""

import math

import torch
from torch import Tensor

from core.checks import at_least
from core.multisource._checks import fraction
from core.multisource.certified import Certified


def sampled_tv(log_ratio_p: Tensor, log_ratio_q: Tensor, *, delta: float = 1e-3) -> Certified:
    """Return the mean of |tanh(l / 2)| over samples of both, with its interval.

    Args:
        log_ratio_p: `[..., n]` values of l = log p / q, normalised densities, at n draws from p.
        log_ratio_q: `[..., n]` at n draws from q, independent of the others.
        delta: probability that the interval misses.

    Returns:
        `[...]`, of n pairs of draws.

    Raises:
        ValueError: the shapes differ, n is below two, or a value is nan.
    """
    if log_ratio_p.shape != log_ratio_q.shape or log_ratio_p.ndim == 0:
        raise ValueError(
            "want as many draws of both, [..., n], got "
            f"{list(log_ratio_p.shape)} and {list(log_ratio_q.shape)}"
        )
    at_least(2, n=log_ratio_p.shape[-1])
    seen = (_seen(log_ratio_p) + _seen(log_ratio_q)) / 2
    if seen.isnan().any():
        raise ValueError("want log p - log q at each draw, got nan: is a density zero under both?")
    return Certified(seen.mean(-1), bernstein_radius(seen, delta), delta)


def bernstein_radius(values: Tensor, delta: float) -> Tensor:
    """Return how far the mean of values in [0, 1] may be from its expectation.

    Args:
        values: `[..., n]`, independent, of one law.
        delta: probability that it is further, on either side.
    """
    fraction(delta=delta)
    n, log = values.shape[-1], math.log(4 / delta)
    return (2 * values.var(-1) * log / n).sqrt() + 7 * log / (3 * (n - 1))


def _seen(log_ratio: Tensor) -> Tensor:
    return torch.tanh(log_ratio.double() / 2).abs()
