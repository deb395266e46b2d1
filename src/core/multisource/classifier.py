r"""What the total variation of two samples is at least, when no density is known.

    TV(p, q) >= P_p(x in A) - P_q(x in A)    for any set A

A classifier that was trained on some of the data gives A; the rest of the data tells both
probabilities, each with an exact binomial interval (Clopper and Pearson, Biometrika 26, 1934). The
bound holds whatever the classifier is; a poor one makes it low.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import beta
from torch import Tensor

from core.checks import at_least
from core.multisource._checks import fraction
from core.multisource.certified import LowerBound
from core.train.seeds import generator

RIDGE = 1e-2
"""Weight of the squared coefficients, of standardised features, in units of one sample."""


class Interval(NamedTuple):
    """What a probability may be."""

    low: Tensor
    high: Tensor


def clopper_pearson(successes: Tensor, trials: int, delta: float) -> Interval:
    """Return the exact interval of a binomial's probability.

    Args:
        successes: any shape, of the trials.
        trials: of each.
        delta: probability that it misses, at most half of it on either side.

    Raises:
        ValueError: no trials, or delta is not in (0, 1).
    """
    at_least(1, trials=trials)
    fraction(delta=delta)
    s = np.asarray(successes.cpu(), dtype=float)
    with np.errstate(invalid="ignore"):
        low = np.where(s > 0, beta.ppf(delta / 2, s, trials - s + 1), 0.0)
        high = np.where(s < trials, beta.ppf(1 - delta / 2, s + 1, trials - s), 1.0)
    return Interval(*(torch.as_tensor(x, device=successes.device) for x in (low, high)))


def classifier_bound(accepts_p: Tensor, accepts_q: Tensor, *, delta: float = 1e-3) -> LowerBound:
    """Return what TV is at least, from a classifier's decisions on data it has not seen.

    Args:
        accepts_p: `[..., n]` bool, whether it takes each sample of p for one of p.
        accepts_q: `[..., m]` bool, whether it takes each sample of q for one of p.
        delta: probability that the bound is wrong.

    Returns:
        `[...]`, value the difference of both shares.

    Raises:
        ValueError: there are no samples.
    """
    shares, ends = [], []
    for accepts in (accepts_p, accepts_q):
        n = accepts.shape[-1]
        taken = accepts.sum(-1)
        # of each interval one end is used, at delta / 2
        ends.append(clopper_pearson(taken, n, delta))
        shares.append(taken / n)
    value = (shares[0] - shares[1]).double()
    return LowerBound(value, value - (ends[0].low - ends[1].high), delta)


def learned_bound(x: Tensor, y: Tensor, *, seed: int = 0, delta: float = 1e-3) -> LowerBound:
    """Return what TV is at least, with a quadratic logistic regression as the classifier.

    Half of both samples train it, the other half is judged: which, the seed names.

    Args:
        x: `[n, d]` samples of p.
        y: `[m, d]` samples of q.
        seed: of the split.
        delta: probability that the bound is wrong.

    Raises:
        ValueError: the samples are of different variables, or fewer than four.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"want samples [n, d] and [m, d], got {list(x.shape)}, {list(y.shape)}")
    at_least(4, n=len(x), m=len(y))
    rng = generator(seed)
    parts = [z.double()[torch.from_numpy(rng.permutation(len(z))).to(z.device)] for z in (x, y)]
    seen = [z[: len(z) // 2] for z in parts]
    mean, sd = torch.cat(seen).mean(0), torch.cat(seen).std(0).clamp(min=1e-12)
    features = lambda z: _quadratic((z - mean) / sd)  # noqa: E731
    theta = _logistic(features(seen[0]), features(seen[1]))
    accepts = [features(z[len(z) // 2 :]) @ theta > 0 for z in parts]
    return classifier_bound(accepts[0], accepts[1], delta=delta)


def _quadratic(z: Tensor) -> Tensor:
    """Return 1, z and its products, `[n, 1 + d + d (d + 1) / 2]`."""
    i, j = torch.triu_indices(z.shape[1], z.shape[1])
    return torch.cat([z.new_ones(len(z), 1), z, z[:, i] * z[:, j]], dim=1)


def _logistic(of_p: Tensor, of_q: Tensor, steps: int = 25) -> Tensor:
    """Return the coefficients whose sign tells p from q, each sample of weight 1 / its number."""
    F = torch.cat([of_p, of_q])
    target = torch.cat([F.new_ones(len(of_p)), F.new_zeros(len(of_q))])
    weight = torch.cat([F.new_full((len(z),), 1 / len(z)) for z in (of_p, of_q)])
    ridge = RIDGE / len(F) * torch.eye(F.shape[1], dtype=F.dtype, device=F.device)
    theta = F.new_zeros(F.shape[1])
    for _ in range(steps):
        s = (F @ theta).sigmoid()
        slope = F.T @ (weight * (target - s)) - ridge @ theta
        # the curvature of a saturated logistic vanishes: a quarter of it at least keeps steps short
        H = (F * (weight * (s * (1 - s)).clamp(min=1e-3))[:, None]).T @ F + ridge
        theta = theta + torch.linalg.solve(H, slope)
    return theta
