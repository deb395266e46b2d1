import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from core.multisource.gaussian_tv import equal_covariance_tv, gaussian_tv, sampled_gaussian_tv
from core.multisource.quadratic_form import positive_probability


def t(x):
    return torch.tensor(np.asarray(x, dtype=float))


def random_pair(rng, d):
    A, C = rng.standard_normal((2, d, d))
    S0, S1 = A @ A.T + np.eye(d), C @ C.T / 3 + np.eye(d)
    m0, m1 = rng.standard_normal((2, d))
    return t(m0), t(S0), t(m1), t(S1)


@pytest.mark.parametrize("d", [1, 3, 10])
def test_equal_covariances_have_the_error_function(rng, d):
    m0, S0, m1, _ = random_pair(rng, d)
    r = math.sqrt((m0 - m1) @ torch.linalg.solve(S0, m0 - m1))
    found = gaussian_tv(m0, S0, m1, S0)
    assert abs(found.value - (2 * stats.norm.cdf(r / 2) - 1)) <= found.error < 1e-12
    assert equal_covariance_tv(t(r)) == pytest.approx(2 * stats.norm.cdf(r / 2) - 1, abs=1e-15)


@pytest.mark.parametrize(
    ("m", "s"), [(0, 2), (1, 0.5), (3, 1 + 1e-8), (1e-3, 1.001), (0, 1 + 1e-7), (5, 3), (-2, 0.1)]
)
def test_one_coordinate_is_what_quadrature_says(m, s):
    """Gauss-Legendre on cells that end where the densities cross, so that no cell has a kink."""
    roots = np.roots([1 / s**2 - 1, -2 * m / s**2, m**2 / s**2 + 2 * math.log(s)]).real
    ends = np.unique([*np.linspace(-45, 45, 901), *roots[np.abs(roots) < 45]])
    z, w = np.polynomial.legendre.leggauss(20)
    half = np.diff(ends)[:, None] / 2
    x = (ends[:-1, None] + ends[1:, None]) / 2 + half * z
    truth = (half * w * abs(stats.norm.pdf(x) - stats.norm.pdf(x, m, s))).sum() / 2
    found = gaussian_tv(t([0]), t([[1]]), t([m]), t([[s**2]]))
    assert abs(found.value - truth) <= found.error + 1e-14  # rounding of the quadrature


@pytest.mark.parametrize(
    ("d", "c", "m"), [(2, 2.0, 1.0), (3, 0.3, 0.0), (6, 1.5, 2.0), (20, 1.1, 0.5), (50, 0.9, 3.0)]
)
def test_proportional_covariances_are_noncentral_chi_squares(d, c, m):
    """The densities of N(0, I) and N(mu, c I) are equal on a sphere."""
    mu = np.zeros(d)
    mu[0] = m
    k = 1 - 1 / c
    centre = -mu / (c * k)
    radius2 = (k * centre @ centre + mu @ mu / c + d * math.log(c)) / k
    inside_p = stats.ncx2.cdf(radius2, d, centre @ centre)
    inside_q = stats.ncx2.cdf(radius2 / c, d, (mu - centre) @ (mu - centre) / c)
    found = gaussian_tv(t(np.zeros(d)), t(np.eye(d)), t(mu), t(c * np.eye(d)))
    assert abs(found.value - abs(inside_p - inside_q)) <= found.error
    assert found.error < 2e-6


@pytest.mark.parametrize("d", [2, 3, 5, 30])
def test_sampling_agrees_with_the_inversion(rng, d):
    pair = random_pair(rng, d)
    exact, sampled = gaussian_tv(*pair), sampled_gaussian_tv(*pair, rng=rng, samples=20_000)
    assert abs(exact.value - sampled.value) <= exact.error + sampled.error
    assert exact.error < 2e-6
    assert sampled.delta > exact.delta == 0


def test_a_surer_interval_of_samples_is_wider(rng):
    pair, seed = random_pair(rng, 3), 5
    often, rarely = (
        sampled_gaussian_tv(*pair, rng=np.random.default_rng(seed), samples=2000, delta=delta)
        for delta in (0.1, 1e-6)
    )
    assert (often.delta, rarely.delta) == (0.1, 1e-6)
    assert often.value == rarely.value  # of the same samples
    assert often.error < rarely.error


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-8])
def test_a_law_is_inverted_to_the_tolerance(rng, tolerance):
    pair = random_pair(rng, 12)
    found, fine = (gaussian_tv(*pair, tolerance=t) for t in (tolerance, 1e-12))
    assert abs(found.value - fine.value) <= found.error + fine.error
    # rounding adds some 1e-10; what is aimed at is met to within steps of a grid
    assert tolerance / 10 < found.error < 1.1 * tolerance


def test_two_coordinates_are_what_a_plane_integral_says():
    """Between two roots along x; along y by the trapezoidal rule, which is exact to rounding."""
    y = np.linspace(-12, 12, 48_001)
    # log p - log q = -x^2/2 - y^2/2 + (x-1)^2/8 + 2 y^2 + log(2 * 1/2)
    const = 1.5 * y**2 + 1 / 8
    root = np.sqrt(1 / 16 + 1.5 * const)  # of -3/8 x^2 - x/4 + const
    low, high = (-1 / 4 - root) / (3 / 4), (-1 / 4 + root) / (3 / 4)
    in_p = stats.norm.cdf(high) - stats.norm.cdf(low)
    in_q = stats.norm.cdf((high - 1) / 2) - stats.norm.cdf((low - 1) / 2)
    truth = np.sum(stats.norm.pdf(y) * in_p - stats.norm.pdf(y, 0, 0.5) * in_q) * (y[1] - y[0])
    found = gaussian_tv(t([0, 0]), t(np.eye(2)), t([1, 0]), t(np.diag([4, 0.25])))
    assert abs(found.value - truth) <= found.error


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**31), d=st.integers(1, 6))
def test_total_variation_is_symmetric_and_blind_to_coordinates(seed, d):
    m0, S0, m1, S1 = random_pair(np.random.default_rng(seed), d)
    A = t(np.random.default_rng(seed + 1).standard_normal((d, d)) + 3 * np.eye(d))
    one, back = gaussian_tv(m0, S0, m1, S1), gaussian_tv(m1, S1, m0, S0)
    other = gaussian_tv(A @ m0, A @ S0 @ A.T, A @ m1, A @ S1 @ A.T)
    assert abs(one.value - back.value) <= one.error + back.error
    assert abs(one.value - other.value) <= one.error + other.error


@pytest.mark.parametrize("off", [1e-3, 1e-6, 1e-9, 1e-11])
def test_nearly_equal_covariances_are_no_trouble(off):
    found = gaussian_tv(t([0, 0, 0]), t(np.eye(3)), t([1, 0, 0]), t(np.diag([1, 1 + off, 1 - off])))
    # |log sigma| changes by off / 2 twice, and TV by less than half of each
    assert abs(found.value - math.erf(1 / (2 * math.sqrt(2)))) <= off / 2 + found.error
    assert found.error < 2e-8


def test_a_batch_is_its_pairs(rng):
    pairs = [random_pair(rng, 3) for _ in range(4)]
    m0, S0, m1, S1 = (torch.stack(x) for x in zip(*pairs, strict=True))
    S1[1] = S0[1]
    found = gaussian_tv(m0, S0, m1, S1)
    alone = [gaussian_tv(m0[i], S0[i], m1[i], S1[i]) for i in range(4)]
    assert found.value.shape == found.error.shape == (4,)
    for i, one in enumerate(alone):
        assert abs(found.value[i] - one.value) <= found.error[i] + one.error
    one_to_all = gaussian_tv(m0[0], S0[0], m1[:, None], S1[:, None])
    assert one_to_all.value.shape == (4, 1)


@pytest.mark.parametrize("df", [2, 5])
def test_a_sum_of_squares_is_chi_square(df):
    a, b = torch.ones(df, dtype=torch.float64), torch.zeros(df, dtype=torch.float64)
    found = positive_probability(t(-3.0), a, b)
    assert abs(found.value - stats.chi2.sf(3, df)) <= found.error < 1e-5


def test_few_terms_have_a_large_error_and_say_so():
    a, b = t([1.0, -2.0]), t([0.5, 0.0])
    rough, fine = (positive_probability(t(0.3), a, b, most=most) for most in (2**6, 2**18))
    assert abs(rough.value - fine.value) <= rough.error + fine.error
    assert rough.error > 100 * fine.error


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, S: gaussian_tv(m, S, m, -S), "positive definite covariance S1, .* of -1"),
        (lambda m, S: gaussian_tv(m, 0 * S, m, S), "positive definite covariance S0, .* of 0"),
        (lambda m, S: gaussian_tv(m, S + S.triu(1) + 1, m, S.new_ones(2, 2).tril()), "symmetric"),
        (lambda m, S: gaussian_tv(m[:1], S, m, S), r"means \[..., d\] and covariances"),
        (lambda m, S: gaussian_tv(m, S, m.expand(3, 2), S.expand(2, 2, 2)), "broadcast"),
    ],
)
def test_what_is_no_gaussian_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2), torch.eye(2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_is_the_same(rng):
    pair = random_pair(rng, 4)
    here, there = gaussian_tv(*pair), gaussian_tv(*(x.cuda() for x in pair))
    assert there.value.is_cuda
    assert abs(here.value - there.value.cpu()) <= here.error + there.error.cpu()
