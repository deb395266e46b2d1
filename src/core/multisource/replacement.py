r"""What it costs to draw a training set with replacement, as the published code does.

The code published with the paper picks n images of a class with `torch.randint(0, N - 1, [n])`:
with replacement, so that some come twice, from N - 1 of the N images, since the upper end is
excluded, and without a seed, so that two archives of one class share only some images.

Of n draws from N, each image is missed with probability q = (1 - 1/N)^n, and any two with
r = (1 - 2/N)^n:

    E distinct  = N (1 - q)                        Var distinct = N q (1 - q) + N (N - 1) (r - q^2)
    E in both of two independent draws = N (1 - q)^2

Source: `real_world_experiments/training/dataset.py` of the published code, commit 90804ee; the
formulae are those of the occupancy problem.
"""

import math
from typing import NamedTuple


class Distinct(NamedTuple):
    """How many different images n draws with replacement give."""

    mean: float
    sd: float
    """Standard deviation over draws."""
    fraction: float
    """`mean / n`: what is left of the size that was asked for."""
    in_both: float
    """Mean number of images that two independent draws have in common."""


def drawn_with_replacement(n: int, N: int) -> Distinct:
    """Return how many different images `n` draws with replacement from `N` give.

    Raises:
        ValueError: fewer than one image, or fewer than none drawn.
    """
    if N < 1 or n < 1:
        raise ValueError(f"want n >= 1 draws from N >= 1 images, got n={n}, N={N}")
    # log1p and expm1: N is large, and 1 - q may be small
    log_q = n * math.log1p(-1 / N) if N > 1 else -math.inf
    log_r = n * math.log1p(-2 / N) if N > 2 else -math.inf
    q, seen = math.exp(log_q), -math.expm1(log_q)
    r_minus_q2 = math.exp(2 * log_q) * math.expm1(log_r - 2 * log_q) if N > 2 else -(q**2)
    variance = N * q * seen + N * (N - 1) * r_minus_q2
    return Distinct(N * seen, math.sqrt(max(variance, 0.0)), N * seen / n, N * seen**2)
