"""Optima of curves whose optimum is known, their bounds, and intervals against scipy's."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from core.mup.optimum import Curve, Interval, interval, optimum, penalty, shift

GRID = tuple(range(-11, -4))


def bowl(best, *, least=0.2, bend=0.1):
    """Log loss is a parabola."""
    return least * np.exp(bend * (np.array(GRID) - best) ** 2 / 2)


@pytest.mark.parametrize("best", [-9.0, -8.3, -7.51, -6.6])
def test_a_parabola_is_found_exactly(best):
    found = optimum(GRID, bowl(best))
    assert found.bound == ""
    assert found.log2_lr == pytest.approx(best, abs=1e-12)
    assert found.loss == pytest.approx(0.2, rel=1e-12)
    assert found.curvature == pytest.approx(0.1, rel=1e-9)


def test_a_finer_grid_gives_the_same():
    grid = np.arange(-9, -6, 0.5)
    found = optimum(grid, 0.2 * np.exp(0.05 * (grid + 7.6) ** 2))
    assert found.log2_lr == pytest.approx(-7.6)
    assert found.curvature == pytest.approx(0.1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1.01])
def test_next_to_divergence_the_optimum_is_a_bound(bad):
    losses = bowl(-6.4)
    losses[-2:] = bad  # -6 is stable, -5 is not
    losses[-2] = bad
    best = np.argmin(np.where(np.isfinite(losses), losses, np.inf))
    found = optimum(GRID, losses, stuck=1.0)
    assert GRID[best] == -7
    assert found.bound == ">="
    assert found.log2_lr == -7
    assert found.slack == 1
    assert str(found) == ">=-7.0"


def test_the_ends_of_the_grid_are_bounds():
    high, low = optimum(GRID, bowl(-4.0)), optimum(GRID, bowl(-13.0))
    assert (high.log2_lr, high.bound, high.slack) == (-5, ">=", 6)
    assert (low.log2_lr, low.bound, low.slack) == (-11, "<=", 6)


def test_too_small_a_rate_that_learned_nothing_is_no_divergence():
    losses = bowl(-8.2)
    losses[:3] = 1.2  # -11 to -9
    assert optimum(GRID, losses, stuck=1.0).bound == ""


def test_where_everything_diverged_nothing_is_known():
    found = optimum(GRID, np.full(7, np.nan))
    assert found.bound == "?"
    assert str(found) == "none"


def test_a_seed_that_diverged_is_not_averaged_away():
    losses = np.stack([bowl(-7.0), bowl(-7.0)], axis=1)
    losses[-3, 1] = np.nan
    curve = Curve(GRID, losses)
    assert curve.mean[-3] == np.inf
    assert np.isnan(curve.error[-3])
    assert curve.optimum.bound == ">="
    assert GRID[curve.best] == -8


def test_the_shift_is_paired_by_seed():
    # optima far apart between seeds, and moved by one octave in each
    first = Curve(GRID, np.stack([bowl(-8.9), bowl(-7.5), bowl(-8.2)], axis=1))
    second = Curve(GRID, np.stack([bowl(-7.9), bowl(-6.5), bowl(-7.2)], axis=1))
    moved = shift(first, second)
    assert moved.mean == pytest.approx(1.0)
    assert moved.error < 1e-9
    assert shift(second, first).mean == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("first", "second", "open_by"),
    [(-8, -4, 6), (-4, -8, 6), (-8, -13, 6), (-4, -4, 6), (-4, -13, 12)],
)
def test_a_shift_from_or_to_the_end_of_the_grid_is_open_by_the_grid(first, second, open_by):
    a, b = (Curve(GRID, np.stack([bowl(best)] * 2, axis=1)) for best in (first, second))
    moved = shift(a, b)
    assert moved.bounds == 2
    assert moved.error == open_by  # octaves; the two seeds agree
    assert str(moved).endswith(f"+- {open_by}.00 (bounds in 2)")


def test_divergence_leaves_one_step_open_in_the_seeds_that_it_meets():
    level = Curve(GRID, np.stack([bowl(-8)] * 4, axis=1))
    cut = np.stack([bowl(-7)] * 4, axis=1)
    cut[-2, 0] = np.nan  # the first seed diverges right of its best, 2^-7
    moved = shift(level, Curve(GRID, cut))
    assert moved == (pytest.approx(1.0), pytest.approx(0.25), 1)


def test_the_interval_is_students(rng):
    values = rng.normal(size=5)
    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    found = interval(values)
    assert found.mean - found.error == pytest.approx(low)
    assert found.mean + found.error == pytest.approx(high)


def test_one_value_has_no_error_and_an_infinite_one_no_mean():
    assert interval([1.0]) == Interval(1.0, np.inf)
    assert interval([1.0, np.inf]) == (np.inf, np.inf, 0)


def test_the_penalty_of_a_rate_tuned_elsewhere():
    proxy = Curve(GRID, np.stack([bowl(-6), bowl(-6)], axis=1))
    target = Curve(GRID, np.stack([bowl(-8), bowl(-8)], axis=1))
    found = penalty(proxy, target)
    assert found.mean == pytest.approx(np.exp(0.1 * 2**2 / 2) - 1)
    assert found.error == pytest.approx(0, abs=1e-12)
    assert penalty(target, target).mean == 0


def test_a_proxy_whose_rate_diverges_at_the_target_costs_without_bound():
    losses = np.stack([bowl(-8), bowl(-8)], axis=1)
    losses[-2:] = np.nan
    proxy = Curve(GRID, np.stack([bowl(-6), bowl(-6)], axis=1))
    assert penalty(proxy, Curve(GRID, losses)).mean == np.inf


def test_a_curve_that_is_none_is_refused():
    with pytest.raises(ValueError, match="equally spaced"):
        Curve((-8, -7, -5), np.ones((3, 1)))
    with pytest.raises(ValueError, match=r"want losses \[7 rates, seeds\], got \(3, 1\)"):
        Curve(GRID, np.ones((3, 1)))
    one, two = Curve(GRID, np.ones((7, 1))), Curve(GRID, np.ones((7, 2)))
    with pytest.raises(ValueError, match="same seeds"):
        shift(one, two)
