"""Total variation of distributions whose outcomes can be listed."""

import torch
from torch import Tensor

from core.multisource._tensor_checks import probabilities
from core.multisource.certified import EPS, Certified


def enumerated_tv(p: Tensor, q: Tensor) -> Certified:
    """Return half the sum of |p - q| over all outcomes, exact to rounding.

    Args:
        p: `[..., N]` probabilities, on any device; the sum runs in float64.
        q: likewise; leading axes of both are broadcast.

    Returns:
        `[...]`. The error is what N additions in any order can round, and half of what the sums
        lack to one: TV is that of the probabilities divided by their sums.

    Raises:
        ValueError: numbers of outcomes differ, or what came are no probabilities (with the sum).
    """
    if p.shape[-1:] != q.shape[-1:] or not p.shape[-1:].numel():
        raise ValueError(
            f"want p and q over the same outcomes, [..., N], got {list(p.shape)}, {list(q.shape)}"
        )
    p, q = probabilities("p", p), probabilities("q", q)
    value = (p - q).abs().sum(-1) / 2
    lacking = ((p.sum(-1) - 1).abs() + (q.sum(-1) - 1).abs()) / 2
    return Certified(value, lacking + (p.shape[-1] + 2) * EPS * torch.ones_like(value))
