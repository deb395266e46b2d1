"""The measures of curves for which they are known."""

import numpy as np
import pytest

from core.mup.optimum import Curve
from core.mup.quality import penalty_at_infinity, power_law, quality

GRID = tuple(range(-14, -2))
WIDTHS = (64, 128, 256, 512)


def curves(*, slope=0.0, kappa=0.0, limit=0.2, amplitude=4.0, exponent=0.9, off=(0, 0, 0, 0)):
    """Log loss is a parabola, its vertex, bend and least value power laws of the width."""
    made = {}
    for n, d in zip(WIDTHS, off, strict=True):
        best = -7.0 + slope * np.log2(n / 64) + d
        bend = 0.08 * (n / 64) ** kappa
        least = limit + amplitude * n**-exponent
        losses = least * np.exp(bend * (np.array(GRID) - best) ** 2 / 2)
        made[n] = Curve(GRID, losses[:, None])
    return made


def test_the_law_of_the_optimum_is_found():
    found = quality(curves(slope=-1.0, kappa=0.5))
    assert found.slope == pytest.approx(-1.0)
    assert found.fit_error == pytest.approx(0, abs=1e-9)
    assert found.robustness == pytest.approx(0.5, abs=1e-6)
    assert found.limit == pytest.approx(0.2, abs=1e-6)


def test_what_leaves_the_law_is_its_error():
    # orthogonal to a constant and to a line over four equal steps: the fit does not follow it
    off = 0.3 * np.array([1, -1, -1, 1])
    found = quality(curves(off=off))
    assert found.slope == pytest.approx(0, abs=1e-9)
    assert found.fit_error == pytest.approx(0.3)


def test_the_penalty_is_the_ratio_of_the_limits():
    worse, better = quality(curves(limit=0.23)), quality(curves(limit=0.2))
    assert penalty_at_infinity(worse, better) == pytest.approx(0.15, abs=1e-5)


@pytest.mark.parametrize("exponent", [0.35, 1.0, 2.2])
def test_a_power_law_is_recovered_from_three_points(exponent):
    n = np.array([64, 128, 256])
    found = power_law(n, 0.2 + 5 * n**-exponent)
    assert found.value == pytest.approx(0.2, abs=1e-6)
    assert found.exponent == pytest.approx(exponent, abs=1e-4)
    assert found.amplitude == pytest.approx(5, rel=1e-3)


def test_losses_that_rise_have_no_limit():
    assert np.isnan(quality(curves(amplitude=-4.0)).limit)


def test_an_optimum_that_is_a_bound_has_no_curvature():
    made = curves()
    losses = made[512].losses.copy()
    losses[8:] = np.inf  # from 2^-6 on
    assert np.isnan(quality({**made, 512: Curve(GRID, losses)}).robustness)


def test_two_widths_are_too_few_and_a_width_without_a_run_is_refused():
    made = curves()
    with pytest.raises(ValueError, match="three widths at least"):
        quality({n: made[n] for n in WIDTHS[:2]})
    gone = Curve(GRID, np.full((len(GRID), 1), np.nan))
    with pytest.raises(ValueError, match="every run diverged"):
        quality({**made, 512: gone})
