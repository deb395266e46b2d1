r"""A number, and how far it may be from the truth.

    TV(p, q) = 1/2 sum_x |p(x) - q(x)|

Whatever this room says of a total variation comes as `Certified`, or, where only one side can be
known, as `LowerBound`. Rounding is part of the error.

Symbols here = there (arXiv:2502.14583, Section 2): `delta` $\delta$, the probability with which a
statement about random draws may fail.
"""

from typing import NamedTuple

from torch import Tensor

EPS = 2.0**-52
"""Spacing of float64 at one."""


class Certified(NamedTuple):
    """A total variation and its error: |value - TV| <= error."""

    value: Tensor
    """float64, a number for each pair of distributions."""
    error: Tensor
    """Likewise, >= 0."""
    delta: float = 0.0
    """Probability that one such statement fails; 0 where nothing was drawn at random."""

    @property
    def low(self) -> Tensor:
        """Where TV begins."""
        return (self.value - self.error).clamp(0, 1)

    @property
    def high(self) -> Tensor:
        """Where TV ends."""
        return (self.value + self.error).clamp(0, 1)


class LowerBound(NamedTuple):
    """What a total variation is at least: TV >= value - error."""

    value: Tensor
    """float64, estimate of what is a lower bound of TV."""
    error: Tensor
    """How much of it may be chance."""
    delta: float
    """Probability that one such statement fails."""

    @property
    def low(self) -> Tensor:
        """What TV is at least, and never below zero."""
        return (self.value - self.error).clamp(0, 1)
