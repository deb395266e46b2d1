r"""Laws of the first token x_1, as far as the mesa-optimization theory sees them: their moments.

A start law has exchangeable coordinates, so that a moment depends on the exponents alone:

    start.moment((n_1, n_2, ...)) = E[x_1^{n_1} x_2^{n_2} ...]      (distinct coordinates)

Assumption 4.1 of the paper asks that every moment with a first power vanishes, and names
kappa1 = E x_j^4, kappa2 = E x_j^6, kappa3 = sum_{r != j} E[x_j^2 x_r^4]. We add kappa0 = E x_j^2.

Source: arXiv:2405.16845v2, Assumption 4.1. Symbols here = there: `d` $d$, `k1` $\kappa_1$.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import factorial, inf, isfinite, prod
from typing import NamedTuple

import torch
from torch import Tensor

from core.checks import at_least
from core.mesa._checks import finite, positive

Exponents = tuple[int, ...]


class Kappas(NamedTuple):
    """The moments of a start law that decide everything in Theorem 4.1."""

    k0: float
    """E x_j^2 (the paper has no name for it)."""
    k1: float
    """E x_j^4, $\\kappa_1$."""
    k2: float
    """E x_j^6, $\\kappa_2$."""
    k3: float
    """sum over r != j of E[x_j^2 x_r^4], $\\kappa_3$."""

    def check(self) -> "Kappas":
        """Return self, or raise.

        Raises:
            ValueError: a value is not finite or not positive where it must be, or Cauchy-Schwarz
                (kappa0^2 <= kappa1, kappa1^2 <= kappa0 kappa2) fails: no law has these moments.
        """
        finite(**self._asdict())
        if min(self.k0, self.k1, self.k2) <= 0 or self.k3 < 0:
            raise ValueError(f"want kappa0, kappa1, kappa2 > 0 and kappa3 >= 0, got {self}")
        slope = self.k1 / self.k0
        _bound("Cauchy-Schwarz wants kappa0 <= kappa1 / kappa0", self.k0, slope)
        _bound("Cauchy-Schwarz wants kappa1 / kappa0 <= kappa2 / kappa1", slope, self.k2 / self.k1)
        return self


def _bound(law: str, left: float, right: float) -> None:
    """Raise a ValueError unless left <= right, up to rounding."""
    if left > right * (1 + 1e-9):
        raise ValueError(f"no law has these moments: {law}, got {left:.6g} > {right:.6g}")


@dataclass(frozen=True)
class Start:
    """A law of x_1 in R^d with exchangeable coordinates."""

    name: str
    d: int
    """Number of coordinates."""
    moment: Callable[[Exponents], float]
    """Exponents on distinct coordinates -> expectation of the product."""
    draw: Callable[[int, torch.Generator], Tensor]
    """(N, generator) -> `[N, d]` float64 draws."""

    def __post_init__(self) -> None:
        """Refuse a start without coordinates, and moments that no law has."""
        at_least(1, because="the number of coordinates", d=self.d)
        _ = self.kappas

    @property
    def kappas(self) -> Kappas:
        """The four moments of the theory, checked."""
        k0, k1, k2 = (self.finite_moment((n,)) for n in (2, 4, 6))
        k3 = (self.d - 1) * self.finite_moment((2, 4)) if self.d > 1 else 0.0
        kappas = Kappas(k0, k1, k2, k3).check()
        _bound("Hoelder wants kappa3 <= (d - 1) kappa2", k3 / k2, self.d - 1)
        return kappas

    def finite_moment(self, n: Exponents) -> float:
        """Return `moment(n)`.

        Raises:
            ValueError: it is not finite.
        """
        try:
            value = float(self.moment(n))
        except OverflowError:
            value = inf
        if not isfinite(value):
            raise ValueError(
                f"want finite moments of the start {self.name!r}, got {value} for exponents {n}"
            )
        return value

    @property
    def meets_assumption_41(self) -> bool:
        """Whether every moment of order <= 6 with a first power is zero (Assumption 4.1)."""
        return not any(self.moment(n) for n in _exponent_patterns(6) if 1 in n and self._has(n))

    @property
    def cubes_vanish(self) -> bool:
        """Whether E[x_j^3 x_r^3] = 0, which Lemma 5.2 needs besides Assumption 4.1.

        Appendix A.2.2 (step two, category 1) drops this moment with those of Assumption 4.1. A law
        that is symmetric under the change of a sign has it; a skewed one has not.
        """
        return not self._has((3, 3)) or self.moment((3, 3)) == 0

    def require_diagonal_training(self) -> None:
        """Return where training keeps W_12 and W_32 diagonal (Lemma 5.2), or raise.

        Raises:
            ValueError: the start does not meet Assumption 4.1, or E[x_j^3 x_r^3] is not zero.
        """
        if not self.meets_assumption_41:
            n = next(n for n in _exponent_patterns(6) if 1 in n and self._has(n) and self.moment(n))
            raise ValueError(
                f"the start {self.name!r} does not meet Assumption 4.1: its moment with exponents "
                f"{n} on distinct coordinates is {self.moment(n):.6g}, want 0; mask the gradient "
                f"(Theorem 4.3: masked=True) or use `Population`, which needs no assumption"
            )
        if not self.cubes_vanish:
            raise ValueError(
                f"the start {self.name!r} meets Assumption 4.1, but E[x_j^3 x_r^3] = "
                f"{self.moment((3, 3)):.6g}, want 0: training leaves the diagonal; use `Population`"
            )

    def _has(self, n: Exponents) -> bool:
        return len(n) <= min(self.d, 4)


def _exponent_patterns(order: int) -> list[Exponents]:
    """Return the descending tuples of positive exponents of sum <= `order`, low orders first."""
    patterns: list[Exponents] = []

    def extend(head: Exponents, room: int) -> None:
        patterns.append(head)
        for n in range(min(room, head[-1] if head else room), 0, -1):
            extend((*head, n), room - n)

    extend((), order)
    return sorted(patterns[1:], key=sum)


def independent(
    name: str,
    d: int,
    moment: Callable[[int], float],
    draw: Callable[[int, torch.Generator], Tensor],
) -> Start:
    """Return the law with i.i.d. coordinates.

    Args:
        name: how figures and tables call it.
        d: number of coordinates.
        moment: n -> E x^n of one coordinate, needed for n <= 6.
        draw: (number, generator) -> `[number]` float64 draws of one coordinate.
    """
    return Start(
        name,
        d,
        lambda n: prod(moment(k) for k in n),
        lambda N, generator: draw(N * d, generator).reshape(N, d),
    )


def _signs(N: int, generator: torch.Generator) -> Tensor:
    return torch.randint(2, (N,), generator=generator).double() * 2 - 1


def gaussian(d: int, sigma: float = 1.0) -> Start:
    """Return x_1 ~ N(0, sigma^2 I): Proposition 4.1's law, which the layer cannot learn."""
    positive(sigma=sigma)
    return independent(
        f"N(0, {sigma:g}²)",
        d,
        lambda n: 0.0 if n % 2 else sigma**n * factorial(n) / (2 ** (n // 2) * factorial(n // 2)),
        lambda N, g: sigma * torch.randn(N, generator=g, dtype=torch.float64),
    )


def uniform(d: int, c: float = 1.0) -> Start:
    """Return coordinates uniform on [-c, c]."""
    positive(c=c)
    return independent(
        f"uniform ±{c:g}",
        d,
        lambda n: 0.0 if n % 2 else c**n / (n + 1),
        lambda N, g: c * (2 * torch.rand(N, generator=g, dtype=torch.float64) - 1),
    )


def laplace(d: int, scale: float = 1.0) -> Start:
    """Return coordinates with density exp(-|x|/scale) / (2 scale)."""
    positive(scale=scale)
    return independent(
        f"Laplace({scale:g})",
        d,
        lambda n: 0.0 if n % 2 else scale**n * factorial(n),
        lambda N, g: (
            -scale * _signs(N, g) * torch.log1p(-torch.rand(N, generator=g, dtype=torch.float64))
        ),
    )


def ternary(d: int, c: float = 1.0, p: float = 0.5) -> Start:
    """Return coordinates that are 0 with probability 1 - p, else +c or -c alike."""
    positive(c=c, p=p)
    if p > 1:
        raise ValueError(f"want a probability p <= 1, got p = {p}")
    return independent(
        f"ternary ±{c:g}, p = {p:g}" if p < 1 else f"signs ±{c:g}",
        d,
        lambda n: 1.0 if n == 0 else 0.0 if n % 2 else p * c**n,
        lambda N, g: (
            c * _signs(N, g) * (torch.rand(N, generator=g, dtype=torch.float64) < p).double()
        ),
    )


def rademacher(d: int, c: float = 1.0) -> Start:
    """Return coordinates +c or -c alike."""
    return ternary(d, c, 1.0)


def sparse(d: int, c: float = 1.0) -> Start:
    """Return the law of Example 4.1: uniform on the 2d points +c e_i, -c e_i."""
    positive(c=c)

    def draw(N: int, generator: torch.Generator) -> Tensor:
        x = torch.zeros(N, d, dtype=torch.float64)
        at = torch.randint(d, (N,), generator=generator)
        x[torch.arange(N), at] = c * _signs(N, generator)
        return x

    return Start(
        f"sparse ±{c:g}",
        d,
        lambda n: c ** sum(n) / d if len(n) == 1 and n[0] % 2 == 0 else 0.0,
        draw,
    )


def _subfactorial(n: int) -> float:
    """Return E (Exp(1) - 1)^n = n! sum_k (-1)^k / k!, by its recurrence."""
    value = 1.0
    for k in range(1, n + 1):
        value = k * value + (-1) ** k
    return value


def centred_exponential(d: int, scale: float = 1.0) -> Start:
    """Return coordinates scale (Exp(1) - 1): i.i.d., mean zero, skewed.

    They meet Assumption 4.1 as printed, and E[x_j^3 x_r^3] = 4 scale^6 all the same.
    """
    positive(scale=scale)
    return independent(
        f"Exp - 1, scale {scale:g}",
        d,
        lambda n: scale**n * _subfactorial(n),
        lambda N, g: scale * (-torch.log1p(-torch.rand(N, generator=g, dtype=torch.float64)) - 1),
    )


def all_ones(d: int) -> Start:
    """Return the fixed start x_1 = (1, ..., 1) of Section 4.4, which breaks Assumption 4.1."""
    return Start("all ones", d, lambda n: 1.0, lambda N, g: torch.ones(N, d, dtype=torch.float64))
