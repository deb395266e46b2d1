import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from core.multisource.bracket import GaussianBracket

KINDS = ["down", "nearest"]


@pytest.mark.parametrize("rounding", KINDS)
@pytest.mark.parametrize(("d", "eps"), [(1, 1.0), (1, 0.1), (2, 1.0), (2, 0.3)])
def test_the_gap_is_the_integral_of_bracket_minus_density(d, eps, rounding):
    """The bracket is above the density, so that the gap is its mass less one."""
    bracket = GaussianBracket(eps, d, rounding)
    one = lambda x: math.exp(float(bracket.log_bracket([x] + [0.0] * (d - 1), np.zeros(d))))  # noqa: E731
    # it is a product: the other coordinates integrate to the same as the first, at x = 0
    mass = integrate.quad(one, -30, 30, epsabs=1e-13)[0] / one(0)
    assert (mass**d) * one(0) - 1 == pytest.approx(bracket.gap, rel=1e-9)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**31), d=st.integers(1, 12), rounding=st.sampled_from(KINDS))
def test_the_bracket_is_above_every_density_of_the_class(seed, d, rounding):
    rng = np.random.default_rng(seed)
    B, bracket = 2.0, GaussianBracket(float(rng.uniform(0.01, 1)), d, rounding)
    mu = rng.uniform(-B, B, d)
    m = bracket.rounded(mu, B)
    assert np.abs(mu - m).max() <= bracket.h * (1 + 1e-9)
    x = mu + 5 * rng.standard_normal((200, d))
    log_p = stats.norm.logpdf(x, mu).sum(1)
    above = bracket.log_bracket(x, m) - log_p
    assert above.min() >= -1e-9
    assert above.min() >= bracket.margin(mu - m) - 1e-9


def test_the_least_margin_is_reached():
    bracket, off = GaussianBracket(0.7, 3, "nearest"), np.array([0.02, -0.01, 0.0])
    worst = (1 - bracket.h) / bracket.h * off  # mu = off, m = 0: x - mu
    log_p = stats.norm.logpdf(worst).sum()
    above = bracket.log_bracket(off + worst, np.zeros(3)) - log_p
    assert above == pytest.approx(bracket.margin(off), abs=1e-12)
    assert bracket.margin(np.full(3, bracket.h)) == pytest.approx(0, abs=1e-15)
    assert bracket.margin(np.full(3, 1.01 * bracket.h)) < 0


def test_the_printed_bracket_is_too_wide_from_three_dimensions_on():
    gaps = {d: GaussianBracket(1.0, d, "down").gap for d in (1, 2, 3, 5, 10, 50)}
    wanted = {1: 0.60, 2: 0.87, 3: 1.04, 5: 1.23, 10: 1.43, 50: 1.65}  # found before, by hand
    assert {d: round(gap, 2) for d, gap in gaps.items()} == wanted
    # the proof's exponent hides it
    assert all(GaussianBracket(1.0, d, "down").printed_gap <= 1 for d in (1, 2, 3))
    # at eps = 1/n with n >= d / 2 it is fine
    assert all(
        GaussianBracket(1 / n, d, "down").gap <= 1 / n
        for d in (3, 10, 57, 200)
        for n in (math.ceil(d / 2), d, 10 * d)
    )


@pytest.mark.parametrize("d", [1, 2, 3, 10, 100, 1000])
def test_the_centred_grid_proves_theorem_b_1(d):
    for eps in np.linspace(0.01, 1, 100):
        bracket = GaussianBracket(float(eps), d)
        assert bracket.gap <= 0.6488 * eps  # sqrt(e) - 1 in the limit
        for B in (0.1, 1.0, 7.3):
            assert bracket.cells(B) <= bracket.counted(B)


def test_every_mean_has_a_cell_and_there_are_no_more():
    bracket, B = GaussianBracket(0.9, 4), 1.3
    mu = np.linspace(-B, B, 100_001)
    assert len(np.unique(bracket.rounded(mu, B).round(12))) <= bracket.cells(B)


@pytest.mark.parametrize(
    ("eps", "d", "rounding", "message"),
    [
        (1.5, 3, "down", r"eps in \(0, 1\]"),
        (0.5, 0, "down", "d >= 1"),
        (0.5, 3, "up", "down or nearest, got 'up'"),
    ],
)
def test_what_is_no_bracket_is_refused(eps, d, rounding, message):
    with pytest.raises(ValueError, match=message):
        GaussianBracket(eps, d, rounding)
