import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from core.multisource.bounds import (
    bound_ratio,
    effective_similarity,
    first_n,
    tv_bound,
    tv_bound_at,
    tv_bound_tight,
)
from core.multisource.bracketing import GaussianFamily

SINGLE, MULTI = (
    GaussianFamily(d=10, d1=5, B=5).log_bracket(5, multi=multi) for multi in (False, True)
)


def test_theorem_4_1_has_the_values_worked_out_by_hand():
    """K = 5, n = 500, d = 10, d1 = 5, B = 5: dimensions 50 and 30, base 2 * 11 * 5 * 500 + 1."""
    for log_N, dim, rounded in ((SINGLE, 50, 3.14), (MULTI, 30, 2.44)):
        by_hand = 3 * math.sqrt((dim * math.log(55_001) + math.log(20)) / 500)
        assert tv_bound(log_N, 500, 0.05) == pytest.approx(by_hand, rel=1e-13)
        assert round(by_hand, 2) == rounded


def test_equation_12_at_one_over_n_is_below_equation_13():
    """The proof rounds sqrt(34) / 2 up to 3."""
    for n in (3, 100, 10**6):
        for log_N in (SINGLE, MULTI, lambda eps: 0 * eps):
            at = tv_bound_at(log_N, n, np.array(1 / n), 0.05)
            assert at <= tv_bound(log_N, n, 0.05)


@pytest.mark.parametrize("n", [20, 500, 5000, 10**6])
@pytest.mark.parametrize("log_N", [SINGLE, MULTI])
def test_the_tight_form_is_the_least_that_scipy_finds(n, log_N):
    best: Any = minimize_scalar(
        lambda x: float(tv_bound_at(log_N, n, np.exp(x))),
        bounds=(math.log(1e-8), 0),
        method="bounded",
        options={"xatol": 1e-10},
    )
    tight = tv_bound_tight(log_N, n)
    assert tight.bound == pytest.approx(best.fun, rel=1e-5)  # the grid's width, squared
    assert tight.bound == tv_bound_at(log_N, n, np.array(tight.eps))
    assert tight.bound < tv_bound(log_N, n)


def test_as_eps_vanishes_the_constant_is_the_root_of_two():
    n = 10**12
    log_N = lambda eps: 100.0 + 0 * eps  # noqa: E731
    plain = math.sqrt((100 + math.log(20)) / n)
    assert tv_bound_tight(log_N, n).bound / plain == pytest.approx(math.sqrt(2), rel=1e-2)
    assert tv_bound(log_N, n) / plain == pytest.approx(3)


@pytest.mark.parametrize(("log_N", "loose", "tight"), [(SINGLE, 6103, 887), (MULTI, 3509, 538)])
def test_where_the_bounds_begin_to_say_something(log_N, loose, tight):
    """Found before by a search in steps of one per cent, which ends up to so much later."""
    found = first_n(lambda n: tv_bound(log_N, n))
    assert tv_bound(log_N, found) < 1 <= tv_bound(log_N, found - 1)
    assert found <= loose <= found * 1.011 + 1
    found = first_n(lambda n: tv_bound_tight(log_N, n).bound)
    assert found <= tight <= found * 1.011 + 1


def test_a_bound_is_asked_below_another_level():
    assert first_n(lambda n: 1 / n, level=0.1) == 11  # 1/10 is at the level, not below


@pytest.mark.parametrize(
    ("K", "beta", "ratio"),
    [(1, 0.7, 1), (5, 0, 1), (4, 1, 0.5), (5, 0.5, math.sqrt(0.6)), (10**9, 0.3, math.sqrt(0.7))],
)
def test_the_ratio_has_the_limits_of_section_4(K, beta, ratio):
    assert bound_ratio(K, beta) == pytest.approx(ratio, rel=1e-8)


def test_the_ratio_falls_with_sources_and_with_similarity():
    table = np.array([[bound_ratio(K, b) for b in (0.0, 0.3, 0.9, 1.0)] for K in (1, 2, 5, 50)])
    assert (np.diff(table, axis=0) <= 0).all()
    assert (np.diff(table, axis=1) <= 0).all()


def test_similarity_comes_back_from_a_ratio_that_was_made_of_it():
    for K, beta in ((2, 0.3), (7, 0.9), (50, 0.0)):
        ratio = bound_ratio(K, beta)
        assert effective_similarity(0.2 * ratio, 0.2, K) == pytest.approx(beta, abs=1e-12)


def test_bounds_fall_with_n_and_rise_with_confidence():
    ns = [10, 100, 1000, 10_000]
    for bound in (tv_bound, lambda f, n, d=0.05: tv_bound_tight(f, n, d).bound):
        assert (np.diff([bound(SINGLE, n) for n in ns]) < 0).all()
        assert bound(SINGLE, 100, 0.01) > bound(SINGLE, 100, 0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tv_bound(SINGLE, 0), "n >= 1"),
        (lambda: tv_bound(SINGLE, 10, 0.7), "delta <= 1/2"),
        (lambda: tv_bound(SINGLE, 10, 0.0), r"delta in \(0, 1\)"),
        (lambda: bound_ratio(3, 1.5), r"beta_sim in \[0, 1\], got 1.5"),
        (lambda: bound_ratio(0, 0.5), "K >= 1"),
        (lambda: effective_similarity(0.1, 0.2, 1), "K >= 2.*of one both are the same"),
        (lambda: effective_similarity(0.0, 0.2, 3), "errors > 0"),
        (lambda: first_n(lambda n: 2.0), "falls below 1"),
    ],
)
def test_what_has_no_bound_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
