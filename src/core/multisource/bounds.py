r"""The paper's guarantee for a conditional maximum-likelihood estimate.

With probability at least 1 - delta, for the class P of conditional distributions that is fitted,

    R_TV <= 3 sqrt((log N(1/n) + log 1/delta) / n)

where N(eps) is the upper bracketing number of P in L1, and R_TV the expected total variation. On
the way stands, for any eps that is fixed before the data are seen (Eq. 12),

    R_TV <= 1/2 sqrt((eps + 4) eps + 2 (eps + 2) (eps + (2/n) log(N(eps) / delta)))

of which eps = 1/n is one choice. The best one is less than half as large, for free.

Source: arXiv:2502.14583, Theorem 3.2 and its proof.

Symbols here = there: `n` $n$ samples of all sources together, `K` $K$ sources, `delta` $\delta$,
`beta_sim` $\beta_{sim}$.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.checks import at_least
from core.multisource._checks import comparison, fraction

Array = NDArray[np.float64]
LogBracket = Callable[[Array], Array]
"""From eps in (0, 1] to log N(eps)."""


class Tight(NamedTuple):
    """Eq. 12 at its best eps."""

    bound: float
    eps: float


def tv_bound(log_N: LogBracket, n: int, delta: float = 0.05) -> float:
    """Return the bound of Theorem 3.2 on R_TV (Eq. 13); above 1 it says nothing.

    Args:
        log_N: log of the bracketing number.
        n: samples of all sources together.
        delta: probability that it fails, at most 1/2.

    Raises:
        ValueError: n is below 1, or delta is not in (0, 1/2].
    """
    _check(n, delta)
    log_count = float(log_N(np.asarray(1 / n)))
    return 3 * math.sqrt((log_count + math.log(1 / delta)) / n)


def tv_bound_at(log_N: LogBracket, n: int, eps: Array, delta: float = 0.05) -> Array:
    """Return the bound of Eq. 12 on R_TV for given eps in (0, 1]."""
    _check(n, delta)
    eps = np.asarray(eps, dtype=float)
    log_count = log_N(eps) + math.log(1 / delta)
    inside = (eps + 4) * eps + 2 * (eps + 2) * (eps + 2 / n * log_count)
    return np.sqrt(inside) / 2


def tv_bound_tight(log_N: LogBracket, n: int, delta: float = 0.05) -> Tight:
    """Return the least of Eq. 12 over eps, which depends on n and the class alone.

    Args:
        log_N: log of the bracketing number.
        n: samples of all sources together.
        delta: probability that it fails, at most 1/2.

    Raises:
        ValueError: n is below 1, or delta is not in (0, 1/2].
    """
    eps = np.geomspace(min(1e-3, 1 / n), 1, 4001)  # the bound is flat at its least
    bounds = tv_bound_at(log_N, n, eps, delta)
    best = int(bounds.argmin())
    return Tight(float(bounds[best]), float(eps[best]))


def first_n(bound: Callable[[int], float], level: float = 1.0) -> int:
    """Return the least n at which a bound that falls with n is below a level.

    Raises:
        ValueError: it is not below it at any n up to 2^60.
    """
    high = 1
    while bound(high) >= level:
        high *= 2
        if high > 2**60:
            raise ValueError(f"want a bound that falls below {level}, got {bound(high):.3g} there")
    low = high // 2  # not below the level, or 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if bound(middle) < level else (middle, high)
    return high


def bound_ratio(K: int, beta_sim: float) -> float:
    """Return the multi-source rate over the single-source one, sqrt(1 - (K - 1) / K beta_sim).

    (arXiv:2502.14583, Section 4; log factors left out. A ratio of bounds: 1 for K = 1 or beta = 0,
    sqrt(1 - beta) for many sources, 1 / sqrt(K) where all is shared.)

    Raises:
        ValueError: K is below 1, or beta_sim is not in [0, 1].
    """
    at_least(1, K=K)
    if not 0 <= beta_sim <= 1:
        raise ValueError(f"want beta_sim in [0, 1], got {beta_sim}")
    return math.sqrt(1 - (K - 1) / K * beta_sim)


def effective_similarity(multi: float, single: float, K: int) -> float:
    """Return the beta_sim that a ratio of errors implies, 0 where pooling gains nothing.

    K / (K - 1) (1 - (multi / single)^2), the inverse of `bound_ratio`; below 0 where it hurts.

    Args:
        multi: error of all sources together, or the constant of its law.
        single: error of sources one by one.
        K: sources, two at least.

    Raises:
        ValueError: there is one source, or an error is not positive.
    """
    comparison(K)
    if not (multi > 0 and single > 0):
        raise ValueError(f"want errors > 0, got {multi} and {single}")
    return K / (K - 1) * (1 - (multi / single) ** 2)


def _check(n: int, delta: float) -> None:
    at_least(1, n=n)
    fraction(delta=delta)
    if delta > 0.5:
        raise ValueError(f"want delta <= 1/2 (Theorem 3.2), got {delta}")
