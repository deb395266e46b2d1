"""Symmetric means against sums over index tuples; the tests' size and Holm's rule."""

from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from core.mesa.moment_tests import (
    MomentTest,
    _zero_test,
    exchangeability_tests,
    first_power_tests,
    holm,
    phase_tests,
    symmetric_mean,
)


@pytest.mark.parametrize("n", [(1,), (2, 4), (3, 3), (1, 2, 3), (1, 1, 1, 3), (1, 1, 2, 2)])
@pytest.mark.parametrize("d", [4, 6])
def test_symmetric_mean_is_the_mean_over_distinct_indices(n, d):
    x = np.random.default_rng(0).standard_normal((7, d))
    tuples = list(permutations(range(d), len(n)))
    brute = sum(np.prod([x[:, i] ** k for i, k in zip(t, n, strict=True)], axis=0) for t in tuples)
    # sums of at most 360 products of order one
    np.testing.assert_allclose(symmetric_mean(x, n), brute / len(tuples), rtol=0, atol=1e-12)


def test_more_exponents_than_coordinates_are_refused():
    with pytest.raises(ValueError, match="at most d = 2 exponents"):
        symmetric_mean(np.ones((3, 2)), (1, 1, 1))


def test_assumption_41_has_sixteen_moments():
    """Counted by hand: 1, 1, 2, 3, 4 and 5 of the orders one to six, less than five indices."""
    assert len(first_power_tests(np.random.default_rng(0).standard_normal((9, 5)))) == 16
    names = [test.name for test in first_power_tests(np.ones((9, 2)))]
    assert names == ["E x_i"] + [f"E x_i x_j^{k}".replace("^1", "") for k in range(1, 6)]


def testzero_test_is_students():
    values = np.random.default_rng(0).standard_normal(30) + 0.3
    ours = _zero_test("x", values)
    _, p = stats.ttest_1samp(values, 0.0)
    assert ours.p == pytest.approx(p, rel=1e-12)


def test_constants_leave_no_doubt():
    assert _zero_test("x", np.zeros(5)).p == 1
    assert _zero_test("x", np.full(5, 0.1)).p == 0


def test_holm_by_hand():
    tests = [MomentTest("", 0.0, 1.0, p) for p in (0.04, 0.01, 0.03)]
    # sorted .01 .03 .04, times 3 2 1, made monotone
    assert [test.p for test in holm(tests)] == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []


def test_one_loud_coordinate_is_not_exchangeable():
    x = np.random.default_rng(0).uniform(-1, 1, (4000, 3))
    assert min(test.p for test in holm(exchangeability_tests(x))) > 0.05
    x[:, 1] *= 1.2
    assert min(test.p for test in holm(exchangeability_tests(x))) < 0.001


def test_tied_phases_are_seen_though_each_is_uniform():
    theta = np.random.default_rng(0).uniform(0, 2 * np.pi, (500, 2))
    assert min(test.p for test in holm(phase_tests(np.exp(1j * theta)))) > 0.05
    theta[:, 1] = -theta[:, 0]  # conjugate pairs, as real matrices have
    worst = min(holm(phase_tests(np.exp(1j * theta))), key=lambda test: test.p)
    assert worst.name == "E Re lambda_1 lambda_2"
    assert worst.p == 0
