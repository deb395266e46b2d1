r"""Where a sweep of the learning rate has its optimum, how sure that is, and how far it has moved.

The optimum is the vertex of the parabola through the best point of the grid and its two neighbours,
of log loss over log2 learning rate. Where the best point ends the grid, or the next larger rate
diverges, nothing brackets it: the point is then a bound, and is said to be one.

A sweep has several seeds, and two sweeps share them: seed s is the same stream of initial weights,
images, times and noise in both. So differences are taken seed by seed, and their mean has Student's
interval of `seeds - 1` degrees of freedom. (A bootstrap of three to five numbers is no interval.)
A bound adds to it what it leaves open: one step of the grid next to a rate that diverged, as the
optimum lies between the two; the whole grid where the grid ends.

A run counts as diverged if its loss is not finite, or, right of the best point, no smaller than
`stuck`: what a model has that has learned nothing.
"""

from dataclasses import dataclass
from math import inf, nan, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.stats import student


class Optimum(NamedTuple):
    """The best base learning rate of one curve."""

    log2_lr: float
    loss: float
    """At the vertex; at the best point where that is a bound."""
    bound: str = ""
    """Which side the optimum is known to lie on: `>=`, the grid or stability ends here; `<=`, the
    grid ends; empty, it is bracketed; `?`, nothing was finite."""
    slack: float = 0.0
    """How far from `log2_lr` a bound leaves it, octaves."""
    curvature: float = nan
    """Second derivative of log loss at the vertex, per octave squared."""

    def __str__(self) -> str:
        """Return it as `-6.3`, or with its bound."""
        return "none" if self.bound == "?" else f"{self.bound}{self.log2_lr:.1f}"


class Interval(NamedTuple):
    """A mean over seeds and half the width of its 95 % interval."""

    mean: float
    error: float
    """With what bounds leave open."""
    bounds: int = 0
    """Seeds in which an optimum was a bound."""

    def __str__(self) -> str:
        """Return it as `-1.90 +- 0.40`, and of how many seeds it is a bound."""
        told = f" (bounds in {self.bounds})" if self.bounds else ""
        return f"{self.mean:+.2f} +- {self.error:.2f}{told}"


@dataclass(frozen=True)
class Curve:
    """Losses of one setting over a grid of base learning rates, several seeds."""

    log2_lrs: tuple[float, ...]
    """Rising, equally spaced."""
    losses: NDArray[np.float64]
    """`[lrs, seeds]`, nan or inf where a run diverged."""
    stuck: float = inf
    """What a model has that has learned nothing."""

    def __post_init__(self) -> None:
        """Refuse a grid that is none, and losses of another shape.

        Raises:
            ValueError: fewer than two rates, not equally spaced and rising, or not one row a rate.
        """
        steps = np.diff(self.log2_lrs)
        if len(steps) < 1 or steps[0] <= 0 or not np.allclose(steps, steps[0]):
            raise ValueError(f"want equally spaced rising log2 rates, got {self.log2_lrs}")
        if self.losses.ndim != 2 or len(self.losses) != len(self.log2_lrs):
            raise ValueError(
                f"want losses [{len(self.log2_lrs)} rates, seeds], got {self.losses.shape}"
            )

    @property
    def mean(self) -> NDArray[np.float64]:
        """Return the mean over seeds, `[lrs]`; inf where one seed diverged."""
        return _finite(self.losses).mean(axis=1)

    @property
    def error(self) -> NDArray[np.float64]:
        """Return the standard error of the mean, `[lrs]`; nan where it is not finite."""
        seeds = self.losses.shape[1]
        kept = np.where(np.isfinite(self.mean)[:, None], self.losses, nan)
        return kept.std(axis=1, ddof=1) / sqrt(seeds) if seeds > 1 else np.full(len(kept), nan)

    @property
    def best(self) -> int:
        """Return the index of the best rate on the grid, by the mean over seeds."""
        return int(self.mean.argmin())

    @property
    def optimum(self) -> Optimum:
        """Return the optimum of the mean over seeds."""
        return optimum(self.log2_lrs, self.mean, self.stuck)

    @property
    def optima(self) -> list[Optimum]:
        """Return the optimum of each seed."""
        return [optimum(self.log2_lrs, column, self.stuck) for column in self.losses.T]

    @property
    def where(self) -> Interval:
        """Return the mean of the seeds' optima."""
        found = interval([o.log2_lr for o in self.optima])
        open_ = float(np.mean([o.slack for o in self.optima]))
        return Interval(found.mean, found.error + open_, sum(o.bound != "" for o in self.optima))

    @property
    def tuned(self) -> NDArray[np.float64]:
        """Return the loss at the best rate of the grid, by seed."""
        return self.losses[self.best]


def optimum(log2_lrs: ArrayLike, losses: ArrayLike, stuck: float = inf) -> Optimum:
    """Return the optimum of one curve.

    Args:
        log2_lrs: `[L]` rising, equally spaced.
        losses: `[L]`, positive; nan or inf where it diverged.
        stuck: the loss of a model that has learned nothing.
    """
    x, y = np.asarray(log2_lrs, float), _finite(np.asarray(losses, float))
    i = int(y.argmin())
    step = float(x[1] - x[0])
    if not np.isfinite(y[i]):
        return Optimum(nan, inf, "?", inf)
    if i == len(x) - 1:
        return Optimum(float(x[i]), float(y[i]), ">=", float(x[-1] - x[0]))
    if y[i + 1] >= stuck or not np.isfinite(y[i + 1]):
        return Optimum(float(x[i]), float(y[i]), ">=", step)
    if i == 0 or not np.isfinite(y[i - 1]):
        return Optimum(float(x[i]), float(y[i]), "<=", float(x[-1] - x[0]))
    low, middle, high = np.log(y[i - 1 : i + 2])
    slope, bend = (high - low) / 2, high + low - 2 * middle  # per step, and per step squared
    at, value = (-slope / bend, middle - slope**2 / (2 * bend)) if bend > 0 else (0.0, middle)
    return Optimum(float(x[i] + step * at), float(np.exp(value)), "", 0.0, float(bend / step**2))


def shift(first: Curve, second: Curve) -> Interval:
    """Return by how many octaves the optimum moves from one curve to the other, seed by seed.

    Raises:
        ValueError: they have not the same number of seeds.
    """
    if first.losses.shape[1] != second.losses.shape[1]:
        raise ValueError(
            f"want curves of the same seeds, got {first.losses.shape[1]} and "
            f"{second.losses.shape[1]} of them"
        )
    pairs = list(zip(first.optima, second.optima, strict=True))
    found = interval([b.log2_lr - a.log2_lr for a, b in pairs])
    # bounds on one side cancel in part: what they leave open is the larger
    slacks = [max(a.slack, b.slack) if a.bound == b.bound else a.slack + b.slack for a, b in pairs]
    error = found.error + float(np.mean(slacks))
    return Interval(found.mean, error, sum(bool(a.bound or b.bound) for a, b in pairs))


def penalty(proxy: Curve, target: Curve) -> Interval:
    """Return what it costs to take the proxy's best rate to the target, as a share of its loss.

    Both rates are points of the grid, the best by the mean over seeds. Zero if they are the same;
    inf if a run of the target diverges at the proxy's rate.
    """
    there = target.losses[target.log2_lrs.index(proxy.log2_lrs[proxy.best])]
    return interval(_finite(there) / target.tuned - 1)


def interval(values: ArrayLike) -> Interval:
    """Return the mean and half the 95 % interval of independent values (Student's t).

    Args:
        values: `[N]`; of one value the error is inf, of one that is not finite the mean too.
    """
    v = np.asarray(values, float)
    if not np.isfinite(v).all():
        return Interval(inf, inf)
    return Interval(*student(v))


def _finite(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Diverged is worse than anything: inf, never averaged away, never the least."""
    return np.where(np.isfinite(losses), losses, inf)
