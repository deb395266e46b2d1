r"""The bracket behind Theorem B.1, with the grid it is printed with and the one that proves it.

Means are rounded to a grid of spacing eta = eps / (1 + d). A bracket of parameter h stands over the
rounded mean m,

    p'(x) = (2 pi)^(-d/2) exp(-c1 |x - m|^2 / 2 + c2),    c1 = 1 - h,  c2 = d (1 - h) h / 2

    it is above N(mu, I) everywhere    if and only if |mu_i - m_i| <= h for all i (of one size)
    its gap int p' - p                 is c1^(-d/2) exp(c2) - 1

Rounding down needs h = eta; the gap then exceeds eps for d >= 3 and eps near 1. In the printed
proof the gap has c1^(-1/2). Rounding to the nearest point needs h = eta / 2 only: the gap is below
eps for all eps <= 1 and all d, and a coordinate has no more points than the theorem counts. The
theorem stands as printed, and its proof for eps = 1/n with n >= d/2, the only case that is used.

Source: arXiv:2502.14583, Appendix B.1. Symbols: `eps` $\epsilon$, `eta` $\eta$, `B` $B$, `d` $d$.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from core.checks import at_least
from core.multisource.bounds import Array


@dataclass(frozen=True)
class GaussianBracket:
    """Brackets for N(mu, I), mu in [-B, B]^d."""

    eps: float
    """What their gaps are to stay below, in (0, 1]."""
    d: int
    rounding: Literal["down", "nearest"] = "nearest"
    """`down` is printed, `nearest` proves the theorem."""

    def __post_init__(self) -> None:
        """Refuse what is no bracket."""
        at_least(1, d=self.d)
        if not 0 < self.eps <= 1:
            raise ValueError(f"want eps in (0, 1], got {self.eps}")
        if self.rounding not in ("down", "nearest"):
            raise ValueError(f"want rounding down or nearest, got {self.rounding!r}")

    @property
    def spacing(self) -> float:
        """Of the grid, eta."""
        return self.eps / (1 + self.d)

    @property
    def h(self) -> float:
        """Furthest that a coordinate is from its grid point."""
        return self.spacing if self.rounding == "down" else self.spacing / 2

    @property
    def gap(self) -> float:
        """L1 distance of a bracket to any density below it."""
        return math.expm1(-self.d / 2 * math.log1p(-self.h) + self._c2)

    @property
    def printed_gap(self) -> float:
        """The same with c1^(-1/2), as the proof has it."""
        return math.expm1(-math.log1p(-self.h) / 2 + self._c2)

    def cells(self, B: float) -> int:
        """Return how many grid points a coordinate in [-B, B] needs.

        Rounding down, a point below -B is needed, whatever the grid's offset; to the nearest, cells
        of width eta that cover the interval are enough.
        """
        across = 2 * B / self.spacing
        return math.floor(across) + 2 if self.rounding == "down" else math.ceil(across)

    def counted(self, B: float) -> float:
        """Return how many the theorem counts, 2 (1 + d) B / eps + 1."""
        return 2 * (1 + self.d) * B / self.eps + 1

    def rounded(self, mu: ArrayLike, B: float) -> Array:
        """Return the grid point of each coordinate."""
        mu = np.asarray(mu, dtype=float)
        if self.rounding == "down":
            return np.floor(mu / self.spacing) * self.spacing
        cell = np.clip(np.floor((mu + B) / self.spacing), 0, self.cells(B) - 1)
        return -B + (cell + 0.5) * self.spacing

    def log_bracket(self, x: ArrayLike, m: ArrayLike) -> Array:
        """Return log p' at points `[..., d]`, of the bracket over the grid point m `[..., d]`."""
        square = ((np.asarray(x) - np.asarray(m)) ** 2).sum(-1)
        return -self.d / 2 * math.log(2 * math.pi) - (1 - self.h) * square / 2 + self._c2

    def margin(self, off: ArrayLike) -> Array:
        """Return the least of log p' - log p over all x, for mu - m = `off` `[..., d]`."""
        off = np.asarray(off, dtype=float)
        return (1 - self.h) / 2 * (self.d * self.h - (off**2).sum(-1) / self.h)

    @property
    def _c2(self) -> float:
        return self.d * (1 - self.h) * self.h / 2
