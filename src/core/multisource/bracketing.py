r"""Bracketing numbers of the paper's three families, several sources at once or one by one.

Every bound has the form

    log N(eps) <= dim log(scale / eps + offset)
    dim = shared + K specific           one class for all sources
    dim = K (shared + specific)         a class for each

so that beta_sim = shared / (shared + specific) is all that the ratio of rates sees.

Symbols here = there (arXiv:2502.14583): `d1` $d_1$ coordinates that differ, of `d`; `L` layers, `W`
width, `S` non-zero entries, `B` largest entry of a ReLU network; `d_e` width of an embedding; `D`
tokens or coordinates, `M` values of a token.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial

import numpy as np

from core.checks import at_least
from core.multisource.bounds import Array, LogBracket


class Family(ABC):
    """What the three have in common."""

    @property
    @abstractmethod
    def shared(self) -> int:
        """Parameters that all sources have in common."""

    @property
    @abstractmethod
    def specific(self) -> int:
        """Parameters that each source has of its own."""

    @property
    @abstractmethod
    def log_scale(self) -> tuple[float, float]:
        """The logarithm of `scale`, and `offset`."""

    @property
    def beta_sim(self) -> float:
        """Share of one source's parameters that it has in common with the others."""
        return self.shared / (self.shared + self.specific)

    def dim(self, K: int, *, multi: bool) -> int:
        """Return the exponent of the bracketing number of K sources."""
        at_least(1, K=K)
        return self.shared + K * self.specific if multi else K * (self.shared + self.specific)

    def log_bracket(self, K: int, *, multi: bool) -> LogBracket:
        """Return log N as a function of eps in (0, 1]."""
        return partial(self._log_bracket, self.dim(K, multi=multi))

    def _log_bracket(self, dim: int, eps: Array) -> Array:
        eps = np.asarray(eps, dtype=float)
        if not ((eps > 0) & (eps <= 1)).all():
            raise ValueError(f"want eps in (0, 1], got {eps}")
        log_scale, offset = self.log_scale
        # log(scale / eps + offset), where scale may be too large for a float
        log_ratio = log_scale - np.log(eps)
        return dim * (log_ratio + np.log1p(offset * np.exp(-log_ratio)))


@dataclass(frozen=True)
class GaussianFamily(Family):
    """N((phi_k, psi), I), both in [-B, B] (Theorem B.1, and B.2 for sources one by one)."""

    d: int
    d1: int
    B: float

    def __post_init__(self) -> None:
        """Refuse what is no such family."""
        at_least(1, d=self.d)
        at_least(0, d1=self.d1)
        if self.d1 > self.d:
            raise ValueError(f"want d1 <= d, got d1 = {self.d1}, d = {self.d}")
        if not self.B > 0:
            raise ValueError(f"want B > 0, the largest mean in absolute value, got {self.B}")

    @property
    def shared(self) -> int:
        """Return d - d1."""
        return self.d - self.d1

    @property
    def specific(self) -> int:
        """Return d1."""
        return self.d1

    @property
    def log_scale(self) -> tuple[float, float]:
        """Return those of 2 (1 + d) B / eps + 1."""
        return math.log(2 * (1 + self.d) * self.B), 1.0


@dataclass(frozen=True)
class ArmFamily(Family):
    """Autoregressive: embeddings, a sigmoid encoding, a ReLU network (Thm. 4.3 and C.8)."""

    L: int
    W: int
    S: int
    B: float
    D: int
    M: int
    d_e: int

    @property
    def shared(self) -> int:
        """Return S + D + (D + M) d_e."""
        return self.S + self.D + (self.D + self.M) * self.d_e

    @property
    def specific(self) -> int:
        """Return d_e."""
        return self.d_e

    @property
    def log_scale(self) -> tuple[float, float]:
        """Return those of 24 e D (L + 3) (B v 1)^(L + 2) (W + 1)^L / eps."""
        constant = math.log(24 * math.e * self.D * (self.L + 3))
        return constant + _log_size(self.B, self.L + 2, self.W, self.L), 0.0


@dataclass(frozen=True)
class EbmFamily(Family):
    """Energy-based: a ReLU network of x in [0, 1]^D and an embedding (Thm. 4.4 and D.3)."""

    L: int
    W: int
    S: int
    B: float
    d_e: int

    @property
    def shared(self) -> int:
        """Return S."""
        return self.S

    @property
    def specific(self) -> int:
        """Return d_e."""
        return self.d_e

    @property
    def log_scale(self) -> tuple[float, float]:
        """Return those of 12 e (L + 1) (B v 1)^(L + 1) (W + 1)^L / eps."""
        constant = math.log(12 * math.e * (self.L + 1))
        return constant + _log_size(self.B, self.L + 1, self.W, self.L), 0.0


def _log_size(B: float, power: int, W: int, L: int) -> float:
    return power * math.log(max(B, 1)) + L * math.log(W + 1)
