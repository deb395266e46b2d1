r"""The law of a score estimate, and the mean of any function of it, without sampling.

A score is a sum of parts, each of them a mean of n independent draws from finitely many values,

    s_hat = sum_k sign_k 1/n (X_k1 + ... + X_kn)

With shared masks the parts are the margins policy - reference of the chosen and of the rejected
response; without, each of the four ELBO estimates is a part. The law of the sum is a product of
Fourier transforms on a grid. A value between two points of the grid is split between them so that
the mean is exact and the variance grows by at most h^2 / 4 a draw: `Law.excess` bounds what that
can change in the mean of log sigma, and is of order 1e-9 where it matters.

Source: the quantities are those of arXiv:2505.19223v2, Theorems 1 to 4; the method is ours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.fft import irfft, rfft
from numpy.typing import NDArray
from scipy.special import expit, log_expit

Array = NDArray[np.floating]
Function = Callable[[Array], Array]
POINTS = 2**15
"""Points of the grid that a law occupies; a power of two."""


class Part(NamedTuple):
    """A mean of independent draws within a score."""

    values: Array
    """`[M]`, beta and the sign included."""
    probabilities: Array
    """`[M]`."""


@dataclass(frozen=True)
class Law:
    """The law of a sum of parts, each summed over its own number of draws."""

    start: float
    """Where the grid begins."""
    step: float
    mass: Array
    """Probability of each point."""
    excess: float
    """By how much the grid may raise the variance of the sum, at most."""

    @property
    def points(self) -> Array:
        """Return the points of the grid."""
        return self.start + self.step * np.arange(len(self.mass))

    def mean(self, function: Function) -> float:
        """Return the mean of a function of the sum; functions take and return arrays."""
        return float(self.mass @ function(self.points))

    def shifted_mean(self, function: Function, shifts: Array) -> Array:
        """Return the mean of function(shift + sum) for each shift, any shape.

        Computed on the grid and interpolated: the error is of the order of `excess`.
        """
        if len(self.mass) == 1:
            return function(self.start + shifts)
        low, high = float(shifts.min()), float(shifts.max())
        n = int(np.ceil((high - low) / self.step)) + 2
        at = low + self.start + self.step * np.arange(n + len(self.mass) - 1)
        size = 1 << (len(at) - 1).bit_length()
        transform = np.conj(rfft(self.mass, size)) * rfft(function(at), size)
        means = irfft(transform, size)[:n]
        return np.interp(shifts, low + self.step * np.arange(n), means)


def law_of(parts: list[Part], draws: list[int]) -> Law:
    """Return the law of the sum of `draws[k]` independent values of each part.

    Args:
        parts: with their values; divide these by n for a mean.
        draws: how many of each, from 0.
    """
    used = [(part, n) for part, n in zip(parts, draws, strict=True) if n > 0]
    low = sum(n * float(part.values.min()) for part, n in used)
    high = sum(n * float(part.values.max()) for part, n in used)
    if not used or high == low:
        return Law(low, 1.0, np.ones(1), 0.0)
    step = (high - low) / (POINTS - 1 - sum(n for _, n in used))
    transform, start = np.ones(POINTS // 2 + 1, dtype=complex), 0.0
    for part, n in used:
        first = float(part.values.min())
        transform *= rfft(_on_grid(part, first, step)) ** n
        start += n * first
    mass = np.maximum(irfft(transform, POINTS), 0.0)
    return Law(start, step, mass / mass.sum(), sum(n for _, n in used) * step**2 / 4)


class LossMoments(NamedTuple):
    """What the loss estimate -log sigma(s_hat) does, exactly."""

    variance: float
    """V[s_hat]."""
    loss: float
    """-log sigma of the mean score: what is estimated."""
    bias: float
    """E of the estimate minus the loss, from 0."""
    absolute_error: float
    """E |estimate - loss|: what Theorems 1 and 2 bound."""
    loss_variance: float
    """V of the estimate."""
    jackknife_bias: float
    """Bias of 2 f(s) - (f(s_a) + f(s_b)) / 2 over halves; nan where n is odd."""
    room: float
    """By how much the grid may raise the variances here, at most; the bias by an eighth of it."""


def loss_moments(parts: list[Part], n: int) -> LossMoments:
    """Return the moments of the loss estimate from n independent draws of every part.

    Args:
        parts: of a score whose draws are one mask per count.
        n: draws, at least 1.

    Raises:
        ValueError: n is below 1.
    """
    if n < 1:
        raise ValueError(f"want n >= 1 draws, got {n}")
    score = sum(float(part.values @ part.probabilities) for part in parts)
    spread = sum(
        float((part.values - part.values @ part.probabilities) ** 2 @ part.probabilities)
        for part in parts
    )
    law, loss = _mean_law(parts, n), float(-log_expit(score))
    average = law.mean(lambda s: -log_expit(s))
    jackknife = np.nan
    if n % 2 == 0:
        halves = _mean_law(parts, n // 2).mean(lambda s: -log_expit(s))
        jackknife = 2 * average - halves - loss
    return LossMoments(
        spread / n,
        loss,
        average - loss,
        law.mean(lambda s: abs(-log_expit(s) - loss)),
        law.mean(lambda s: log_expit(s) ** 2) - average**2,
        jackknife,
        law.excess,
    )


def weight_mean(parts: list[Part], n: int) -> tuple[float, float]:
    """Return mean and mean square of the gradient's weight sigma(-s_hat) from n draws."""
    law = _mean_law(parts, n)
    return law.mean(lambda s: expit(-s)), law.mean(lambda s: expit(-s) ** 2)


def _mean_law(parts: list[Part], n: int) -> Law:
    return law_of([Part(part.values / n, part.probabilities) for part in parts], [n] * len(parts))


def _on_grid(part: Part, first: float, step: float) -> Array:
    place = (part.values - first) / step
    below = np.minimum(np.floor(place).astype(int), POINTS - 2)
    above = place - below
    mass = np.zeros(POINTS)
    np.add.at(mass, below, part.probabilities * (1 - above))
    np.add.at(mass, below + 1, part.probabilities * above)
    return mass
