r"""How sure the mean of a few independent values is: Student's interval.

    mean +- t s / sqrt(N),    s^2 = sum_i (x_i - mean)^2 / (N - 1)

with t the quantile at (1 + confidence) / 2 of Student's distribution of N - 1 degrees of freedom:
exact where the values are normal. A single value has no spread, and says nothing of how sure it is:
its interval is the whole line, never a point.

Symbols: `N` values, `s` their standard deviation.
"""

from math import inf, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


class Interval(NamedTuple):
    """A mean and half the width of its interval, in the unit of the values."""

    mean: float
    half: float
    """inf of a single value."""

    @property
    def low(self) -> float:
        """Return the lower end."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """Return the upper end."""
        return self.mean + self.half


def student(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Return the mean of independent values with Student's interval.

    Args:
        values: `[N]`, finite; of one value the half width is inf.
        confidence: of the two-sided interval, in (0, 1).

    Raises:
        ValueError: no values, or not one row of them.
    """
    v = np.asarray(values, float)
    if v.ndim != 1 or len(v) == 0:
        raise ValueError(f"want values [N], one or more, got {v.shape}")
    s = float(v.std(ddof=1)) if len(v) > 1 else 0.0
    return Interval(float(v.mean()), half_width(s, len(v), confidence))


def half_width(s: float, N: int, confidence: float = 0.95) -> float:
    """Return half the width of Student's interval where the values are known by their spread only.

    Args:
        s: their standard deviation, that of N - 1 degrees of freedom.
        N: how many there are; of one, the half width is inf.
        confidence: of the two-sided interval, in (0, 1).

    Returns:
        In the unit of `s`.
    """
    if N < 2:
        return inf
    return float(stats.t.ppf((1 + confidence) / 2, N - 1)) * s / sqrt(N)
