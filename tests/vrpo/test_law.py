from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_expit
from scipy.stats import norm

from core.vrpo.law import Part, law_of, loss_moments, weight_mean


def part(seed, M=3, scale=2.0):
    rng = np.random.default_rng(seed)
    return Part(scale * rng.standard_normal(M), rng.dirichlet(np.ones(M)))


def enumerated(parts, n):
    """Every value of the score estimate with its probability."""
    sums = []
    for values, p in parts:
        draws = list(product(range(len(p)), repeat=n))
        sums.append([(values[list(d)].mean(), p[list(d)].prod()) for d in draws])
    pairs = [tuple(zip(*combination, strict=True)) for combination in product(*sums)]
    return np.array([[sum(v), np.prod(q)] for v, q in pairs]).T


@pytest.mark.parametrize("n", [1, 2, 4])
def test_the_moments_are_those_of_every_outcome(n):
    parts = [part(1), part(2)]
    s, p = enumerated(parts, n)
    found = loss_moments(parts, n)
    f, truth = -log_expit(s), -log_expit(s @ p)
    assert found.variance == pytest.approx((s - s @ p) ** 2 @ p, rel=1e-12)
    assert found.loss == pytest.approx(truth, rel=1e-12)
    # the grid raises the variance of the score by less than 1e-7
    assert found.bias == pytest.approx(f @ p - truth, abs=1e-7)
    assert found.absolute_error == pytest.approx(abs(f - truth) @ p, abs=1e-6)  # it has a kink
    assert found.loss_variance == pytest.approx((f - f @ p) ** 2 @ p, abs=1e-6)
    average, square = weight_mean(parts, n)
    assert average == pytest.approx(p @ (1 / (1 + np.exp(s))), abs=1e-7)
    assert square == pytest.approx(p @ (1 / (1 + np.exp(s))) ** 2, abs=1e-7)


def test_the_jackknife_bias_is_that_of_every_outcome():
    parts = [part(3), part(4)]
    total = 0.0
    for draws in product(*[list(enumerate(q.values)) for q in parts for _ in range(2)]):
        value = [v for _, v in draws]
        p = np.prod([parts[k // 2].probabilities[i] for k, (i, _) in enumerate(draws)])
        a, b = value[0] + value[2], value[1] + value[3]
        total += p * (-2 * log_expit((a + b) / 2) + (log_expit(a) + log_expit(b)) / 2)
    found = loss_moments(parts, 2)
    assert found.jackknife_bias == pytest.approx(total - found.loss, abs=1e-7)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 8), M=st.integers(2, 9))
def test_the_bounds_hold_for_any_law(seed, n, M):
    found = loss_moments([part(seed, M), part(seed + 1, M)], n)
    # 1e-6: what the grid may add
    assert found.bias >= -1e-6
    assert found.bias <= found.variance / 8 + 1e-6
    assert found.bias <= found.absolute_error + 1e-6
    assert found.absolute_error <= np.sqrt(found.variance) + 1e-6
    assert found.loss_variance <= found.variance + 1e-6


def test_many_draws_are_normal():
    law = law_of([Part(part(5).values / 400, part(5).probabilities)], [400])
    mean, sd = law.mean(lambda s: s), np.sqrt(law.mean(lambda s: s**2) - law.mean(lambda s: s) ** 2)
    upper = law.mean(lambda s: (s > mean + sd).astype(float))
    assert upper == pytest.approx(norm.sf(1), abs=0.02)


def test_the_grid_adds_no_more_variance_than_it_says():
    q = part(6, M=7)
    exact = (q.values - q.values @ q.probabilities) ** 2 @ q.probabilities
    law = law_of([q], [3])
    added = law.mean(lambda s: s**2) - law.mean(lambda s: s) ** 2 - 3 * exact
    assert -1e-12 < added <= law.excess
    assert law.mean(lambda s: s) == pytest.approx(3 * (q.values @ q.probabilities), abs=1e-12)


def test_shifted_means_are_means_of_shifted_sums():
    law = law_of([part(7), part(8)], [2, 1])
    shifts = np.array([[-3.0, 0.0], [0.1, 4.0]])
    found = law.shifted_mean(np.cos, shifts)
    expected = [[law.mean(lambda s, d=d: np.cos(s + d)) for d in row] for row in shifts]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_sum_without_spread_is_a_point():
    law = law_of([Part(np.array([2.0, 2.0]), np.array([0.5, 0.5]))], [3])
    assert law.mean(lambda s: s) == 6.0
    np.testing.assert_array_equal(law.shifted_mean(np.square, np.array([1.0])), [49.0])


def test_no_draw_is_refused():
    with pytest.raises(ValueError, match="n >= 1"):
        loss_moments([part(1)], 0)
