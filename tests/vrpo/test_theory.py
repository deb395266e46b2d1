import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_expit
from worlds import terms_of_a_pair

from core.vrpo import theory
from core.vrpo.draws import Design
from core.vrpo.exact import probabilities
from core.vrpo.gradient import PairGradients

xs = np.linspace(-40, 40, 200_001)


def test_lemma_1_is_about_the_logarithm_of_the_sigmoid():
    h = xs[1] - xs[0]
    f = log_expit(xs)
    # central differences, error h^2 / 6
    np.testing.assert_allclose(np.gradient(f, h)[1:-1], theory.slope(xs)[1:-1], atol=1e-7)
    second = np.diff(f, 2) / h**2
    np.testing.assert_allclose(second, theory.curvature(xs)[1:-1], atol=1e-6)
    assert np.abs(theory.slope(xs)).max() <= theory.LIPSCHITZ
    assert np.abs(theory.curvature(xs)).max() == pytest.approx(theory.SMOOTHNESS)
    third = np.diff(theory.curvature(xs)) / h
    assert np.abs(third).max() == pytest.approx(theory.THIRD, rel=1e-6)


def laws(seed, M=4, scale=3.0):
    """A discrete law with its mean and variance."""
    rng = np.random.default_rng(seed)
    x, p = scale * rng.standard_normal(M) * rng.gamma(1, 1), rng.dirichlet(np.ones(M))
    return x, p, x @ p, (x - x @ p) ** 2 @ p


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_loss_bounds_hold_for_any_law(seed):
    x, p, s, V = laws(seed)
    f, truth = -log_expit(x), -log_expit(s)
    error, variance = abs(f - truth) @ p, (f - f @ p) ** 2 @ p
    assert error <= theory.loss_bounds(V).error + 1e-12
    assert f @ p - truth <= theory.sharp_loss_bounds(V).error + 1e-12
    assert variance <= theory.sharp_loss_bounds(V).variance + 1e-12
    assert theory.sharp_loss_bounds(V).variance <= theory.loss_bounds(V).variance


def test_the_sharp_constants_are_best_possible():
    h = 1e-3  # two points at +-h around 0, where f'' is -1/4
    bias = float(log_expit(0.0) - (log_expit(h) + log_expit(-h)) / 2)
    assert bias == pytest.approx(float(theory.sharp_loss_bounds(h**2).error), rel=1e-5)
    x = np.array([-40.0, -41.0])  # f is linear there
    assert np.var(log_expit(x)) == pytest.approx(float(theory.sharp_loss_bounds(0.25).variance))


def test_lemma_4_holds_for_laws_of_any_kurtosis():
    for seed in range(200):
        x, p, s, V = laws(seed)
        kurtosis = (x - s) ** 4 @ p / V**2
        low, high = theory.first_order_error(-50.0, V, kurtosis)  # f' = 1 there
        assert low <= abs(x - s) @ p <= high + 1e-12
        assert low == pytest.approx(float(theory.least_deviation(V, kurtosis)))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_equation_9_is_the_variance_of_a_difference(seed):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((2, 2, 2))  # side -> factor of a covariance of (policy, reference)
    C = root @ root.transpose(0, 2, 1)
    rho = C[:, 0, 1] / np.sqrt(C[:, 0, 0] * C[:, 1, 1])
    found = theory.score_variance(0.3, C[:, 0, 0], C[:, 1, 1], rho)
    assert found == pytest.approx(0.09 * sum(np.array([1, -1]) @ c @ [1, -1] for c in C))
    gain = theory.sharing_gain(0.3, C[:, 0, 0], C[:, 1, 1], rho)
    assert gain == pytest.approx(0.09 * 2 * C[:, 0, 1].sum())


def test_figure_2_by_quadrature_has_the_known_values():
    """Gauss-Hermite with 200 nodes, another rule than the function's, for what has no kink."""
    z, w = np.polynomial.hermite_e.hermegauss(200)
    w = w / w.sum()
    for V in (0.1, 0.5, 1.0, 4.0):
        f = -log_expit(np.sqrt(V) * z)
        found = theory.gaussian_loss(0.0, V)
        assert found.bias == pytest.approx(f @ w - np.log(2), abs=1e-9)
        assert found.variance == pytest.approx((f - f @ w) ** 2 @ w, abs=1e-9)
        # at s = 0, |f(x) - f(0)| has mean E|x| / 2: f(x) - f(-x) = x
        assert found.absolute_error == pytest.approx(np.sqrt(2 * V / np.pi) / 2, abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 8])
def test_the_gradient_bounds_hold_for_every_pair(n):
    for seed in range(3):
        terms = terms_of_a_pair(2, seed)
        vectors = np.random.default_rng(seed).standard_normal((6, 4))
        world = PairGradients(vectors @ vectors.T, terms, 0.5)
        V = terms.score_variance(Design(n), 0.5)[0]
        trace = world.score_variance() / n
        of_bounds = [world.split().estimate(n)[k] for k in range(2)]
        assert theory.score_gradient_variance(0.5, *of_bounds) == pytest.approx(trace)
        score = np.concatenate([probabilities(2), -probabilities(2)]) * 0.5
        norm = np.linalg.norm(score @ vectors)
        C = theory.gradient_bound(0.5, np.linalg.norm(vectors, axis=1).max())
        plain = world.plain(n)
        assert plain.bias <= theory.gradient_bias_bound(V, trace, norm)
        assert plain.variance <= theory.gradient_bounds(V, trace, C).variance
        if n % 2 == 0:
            bound = theory.weight_bias_bound(2 * V) * norm
            assert world.cross_fitted(n).bias <= bound


@pytest.mark.parametrize(
    ("L", "b"), [(8, 16), (24, 16), (100, 8), (100, 16), (101, 16), (10, 3), (100, 12), (16, 4)]
)
def test_rounded_counts_are_those_of_the_expression(L, b):
    """The public expression itself, in torch's float64, over every start."""
    starts = torch.arange(1, L + 1)
    found = torch.stack(
        [torch.round(torch.linspace(float(k), k + (b - 1) * (L / b), steps=b)) for k in starts]
    ).long()
    counts = ((found - 1) % L).flatten()
    expected = torch.bincount(counts, minlength=L) / counts.numel()
    law = theory.rounded_counts_law(L, b)
    np.testing.assert_allclose(law, expected, atol=1e-7)
    assert np.allclose(law, 1 / L) == theory.rounded_counts_are_uniform(L, b)


def test_the_criterion_of_uniform_rounded_counts_is_exact():
    for L in range(1, 41):
        for b in range(1, 41):
            uniform = np.allclose(theory.rounded_counts_law(L, b), 1 / L)
            assert uniform == theory.rounded_counts_are_uniform(L, b), (L, b)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="V > 0"):
        theory.gaussian_loss(0.0, 0.0)
    with pytest.raises(ValueError, match="L >= 1"):
        theory.rounded_counts_law(0, 4)
