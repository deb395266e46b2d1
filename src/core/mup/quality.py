r"""How good a transfer is, in three numbers, after Kalra and Barkeshli (arXiv:2605.21486v1).

They ask how well a law of the optimum over the width fits (E), how robust the loss is to an error
of what the law extrapolates (an exponent kappa), and what the parametrization costs in the limit
(R at infinity). We know their abstract and summaries of it, not their formulas; what is computed
here are measures of ours of the same three things. With widths n, optimal base learning rates
eta*(n) and the losses L*(n) there,

    E        the residual of   log2 eta*(n) = a + b log2 n    (root mean square, octaves)
    kappa    the slope of      log2 h(n) = a' + kappa log2 n,   h = d^2 log L / d (log2 eta)^2
             at the optimum: above zero, a rate that is wrong by an octave costs more the wider
    R_inf    L(inf) / L_ref(inf) - 1, with each limit from   L*(n) = L(inf) + A n^-alpha

b is zero where the learning rate transfers as it is, as muP would have it; a law with another b
transfers too, for whoever fits it. Of three widths E has one degree of freedom and the limits none.
"""

from collections.abc import Mapping
from math import nan
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from core.mup.optimum import Curve

EXPONENTS = (0.1, 4.0)
"""Where alpha is looked for."""


class Quality(NamedTuple):
    """The three measures, and the law's slope."""

    slope: float
    """b, octaves of learning rate per octave of width."""
    fit_error: float
    """E, octaves."""
    robustness: float
    """kappa; nan where an optimum is only a bound."""
    limit: float
    """L(inf); nan if the losses do not fall towards one."""


class Limit(NamedTuple):
    """A power law towards a limit."""

    value: float
    amplitude: float
    exponent: float


def quality(curves: Mapping[int, Curve]) -> Quality:
    """Return the measures of one parametrization.

    Args:
        curves: width -> its sweep; three widths at least. Their means over seeds are taken.

    Raises:
        ValueError: fewer than three widths, or one at which nothing was finite.
    """
    if len(curves) < 3:
        raise ValueError(
            f"want three widths at least, got {sorted(curves)}: any two lie on a line, and have no "
            "residual"
        )
    n = np.array(sorted(curves), float)
    optima = [curves[int(width)].optimum for width in n]
    if any(o.bound == "?" for o in optima):
        raise ValueError("want a finite loss at every width, and at one every run diverged")
    line = _line(n, [o.log2_lr for o in optima])
    residual = np.array([o.log2_lr for o in optima]) - np.polyval(line, np.log2(n))
    bends = [o.curvature for o in optima]
    sharp = all(np.isfinite(b) and b > 0 for b in bends)
    kappa = float(_line(n, np.log2(bends))[0]) if sharp else nan
    limit = power_law(n, [o.loss for o in optima])
    return Quality(
        float(line[0]),
        float(np.sqrt(np.square(residual).mean())),
        kappa,
        limit.value if limit.amplitude > 0 else nan,
    )


def penalty_at_infinity(one: Quality, reference: Quality) -> float:
    """Return R_inf: how much more one parametrization loses in the limit, as a share."""
    return one.limit / reference.limit - 1


def power_law(widths: ArrayLike, losses: ArrayLike) -> Limit:
    """Return the least-squares fit of `L(n) = value + amplitude n^-exponent`.

    For each exponent the other two are linear; the exponent is searched for between 0.1 and 4.

    Args:
        widths: `[N]`, three at least.
        losses: `[N]`.
    """
    n, y = np.asarray(widths, float), np.asarray(losses, float)

    def solved(exponent: float) -> tuple[NDArray[np.float64], float]:
        columns = np.stack([np.ones_like(n), (n / n[0]) ** -exponent], axis=1)
        found = np.linalg.lstsq(columns, y, rcond=None)[0]
        return found, float(np.square(columns @ found - y).sum())

    # from a grid, as the error can have two valleys
    grid = np.linspace(*EXPONENTS, 40)
    i = int(np.argmin([solved(a)[1] for a in grid]))
    around = grid[max(0, i - 1)], grid[min(len(grid) - 1, i + 1)]
    fitted: Any = minimize_scalar(
        lambda a: solved(a)[1], bounds=around, method="bounded", options={"xatol": 1e-9}
    )
    exponent = float(fitted.x)
    value, scaled = solved(exponent)[0]
    return Limit(float(value), float(scaled * n[0] ** exponent), exponent)


def _line(widths: ArrayLike, values: ArrayLike) -> NDArray[np.float64]:
    """Return slope and offset over the octaves of width."""
    return np.polyfit(np.log2(widths), np.asarray(values, float), 1)
