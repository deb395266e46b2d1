r"""The reduced dynamics of Lemma 5.2 in closed form.

Under Assumptions 3.1 and 4.1 the weights stay W_32^{KQ} = a I, W_12^{PV} = b I; gradient flow is

    a' = b (c2 - c1 a b),   b' = a (c2 - c1 a b),   c1 = (T-2) k2 + k3 H,   c2 = (T-2) k1

with H = sum_{t=2}^{T-1} 1/(t-1). The paper proves convergence of ab to c2/c1. In the sum p = a + b
and the difference m = a - b the flow can be solved: p m = a^2 - b^2 =: c is conserved, and

    P = p^2:   P' = 2 c2 P - (c1/2) (P^2 - c^2)

is a Riccati equation whose two fixed points have opposite sign: a logistic curve, for every start.

Source: arXiv:2405.16845v2, Theorem 4.1, Lemmas 5.2-5.4; the closed form is ours.
Symbols here = there: `k1`..`k3` kappa_1..kappa_3, `a`, `b`, `c1`, `c2`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.checks import at_least
from core.mesa._checks import finite, positive, training_length
from core.mesa.moments import Kappas, Start

Curve = NDArray[np.float64]


def harmonic(T: int) -> float:
    """Return H = sum_{t=2}^{T-1} 1/(t-1)."""
    training_length(T)
    return float((1 / np.arange(1, T - 1)).sum())


@dataclass(frozen=True)
class ReducedFlow:
    """The flow of (a, b), and what it does forever."""

    c1: float
    c2: float

    def __post_init__(self) -> None:
        """Refuse what no start and no length have."""
        positive(c1=self.c1, c2=self.c2)

    @classmethod
    def of(cls, kappas: Kappas, T: int) -> "ReducedFlow":
        """Return the flow of a start law and a training length (Lemma 5.2).

        Args:
            kappas: moments of the start, `start.kappas`.
            T: training length T_tr, >= 3.

        Raises:
            ValueError: T < 3, or no law has these moments.
        """
        kappas.check()
        training_length(T)
        return cls((T - 2) * kappas.k2 + kappas.k3 * harmonic(T), (T - 2) * kappas.k1)

    @classmethod
    def trained_on(cls, start: Start, T: int, *, masked: bool = False) -> "ReducedFlow":
        """Return the flow where the theory licenses it.

        Args:
            start: law of x_1.
            T: training length T_tr, >= 3.
            masked: whether off-diagonal gradients are set to zero (Theorem 4.3), so that the start
                need not meet Assumption 4.1.

        Raises:
            ValueError: unmasked training on this start leaves the diagonal.
        """
        if not masked:
            start.require_diagonal_training()
        return cls.of(start.kappas, T)

    @property
    def limit(self) -> float:
        """The product a b at the end of training (Theorem 4.1)."""
        return self.c2 / self.c1

    def velocity(self, a: float, b: float) -> tuple[float, float]:
        """Return (a', b') of Lemma 5.2."""
        finite(a=a, b=b)
        return self._velocity(a, b)

    def _velocity(self, a: float, b: float) -> tuple[float, float]:
        force = self.c2 - self.c1 * a * b
        return b * force, a * force

    def solve(self, a0: float, b0: float, tau: ArrayLike) -> tuple[Curve, Curve]:
        """Return a and b at the times tau, for any start.

        Args:
            a0: a at time 0.
            b0: b at time 0.
            tau: `[n]` times >= 0 (learning rate times steps).

        Returns:
            `[n]`, `[n]`.

        Raises:
            ValueError: a0, b0 or a time is not finite, or a time is negative.
        """
        time = np.asarray(tau, dtype=float)
        self._check_point(a0, b0)
        finite(tau=time)
        if (time < 0).any():
            raise ValueError(f"want times >= 0, got {time.min()}")
        p0, m0 = a0 + b0, a0 - b0
        if p0 == 0:  # the saddle's own line: p stays 0, and m dies
            fall = np.exp(-2 * self.c2 * time)
            m = m0 * np.sqrt(fall / (1 + self.c1 * m0**2 / (4 * self.c2) * (1 - fall)))
            return m / 2, -m / 2
        c = p0 * m0
        high, low, rate = self._roots(c)
        left = (p0**2 - high) / (p0**2 - low) * np.exp(-rate * time)
        p = np.sign(p0) * np.sqrt((high - low * left) / (1 - left))
        return (p + c / p) / 2, (p - c / p) / 2

    def time_to(self, fraction: float, a0: float, b0: float) -> float:
        """Return when ab reaches `fraction` of its limit.

        Raises:
            ValueError: the curve never passes there, or an argument is not finite.
        """
        self._check_point(a0, b0)
        finite(fraction=fraction)
        product = fraction * self.limit
        c, P0 = a0**2 - b0**2, (a0 + b0) ** 2
        high, low, rate = self._roots(c)
        P = 2 * product + np.sqrt(4 * product**2 + c**2)
        if not (P0 <= P < high or high < P <= P0) or P0 == 0:
            raise ValueError(
                f"ab starts at {a0 * b0:.6g} and ends at {self.limit:.6g}: it never passes "
                f"{product:.6g}; want a fraction between the two"
            )
        return float(np.log((P0 - high) * (P - low) / ((P0 - low) * (P - high))) / rate)

    def largest_stable_step(self, a0: float, b0: float) -> float:
        """Return 2 / sharpness at the limit of the flow from (a0, b0), for the map of (a, b).

        The whole layer's largest step is smaller: its Hessian has directions that (a, b) lack
        (`Population.sharpness`).

        Raises:
            ValueError: a0 or b0 is not finite.
        """
        self._check_point(a0, b0)
        return 2 / self._roots(a0**2 - b0**2)[2]

    def descend(self, a0: float, b0: float, *, lr: float, steps: int) -> tuple[Curve, Curve]:
        """Return a and b `[steps + 1]` of gradient descent on the reduced loss.

        Raises:
            ValueError: a0, b0 or lr is not finite, lr <= 0, steps < 0, or the descent diverges.
        """
        self._check_point(a0, b0)
        positive(lr=lr)
        at_least(0, steps=steps)
        a, b = np.empty(steps + 1), np.empty(steps + 1)
        a[0], b[0] = a0, b0
        with np.errstate(over="ignore", invalid="ignore"):  # a divergence is reported below
            for n in range(steps):
                da, db = self._velocity(a[n], b[n])
                a[n + 1], b[n + 1] = a[n] + lr * da, b[n] + lr * db
        if not np.isfinite([a[-1], b[-1]]).all():
            raise ValueError(f"diverged with lr = {lr}: want lr < `largest_stable_step`")
        return a, b

    def surrogate(self, a: ArrayLike, b: ArrayLike) -> Curve:
        """Return the loss of Lemma 5.3, (c2 - c1 ab)^2 / (2 c1): zero at the limit."""
        finite(a=a, b=b)
        return (self.c2 - self.c1 * np.multiply(a, b)) ** 2 / (2 * self.c1)

    def _check_point(self, a: float, b: float) -> None:
        """Refuse what is not finite, or so large that its square is not."""
        finite(a0=a, b0=b)
        if not np.isfinite(self.c1 * (a * a + b * b)):
            raise ValueError(f"want a0 and b0 whose squares are finite, got {a:.3g} and {b:.3g}")

    def _roots(self, c: float) -> tuple[float, float, float]:
        """Return the fixed points of P, positive and negative, and the rate of the logistic."""
        root = np.hypot(self.c2, self.c1 * c / 2)
        high = 2 * (self.c2 + root) / self.c1
        return high, -(c**2) / high, 2 * float(root)
