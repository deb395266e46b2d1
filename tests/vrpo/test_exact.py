from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from worlds import MASK, brute_force, pair, tiny_model

from core.vrpo import exact, theory
from core.vrpo.draws import Design, draw


def table(L, seed=0, B=3):
    """S(m) of B responses, at random: the identities hold for any values."""
    rng = np.random.default_rng(seed)
    return -rng.gamma(2.0, size=(B, 2**L - 1)) * exact.counts(L)


def index_of(masks):
    """Places of masks in the order of `all_masks`."""
    L = masks.shape[1]
    return (masks.long() << torch.arange(L - 1, -1, -1)).sum(1).numpy() - 1


def test_every_mask_is_there_once():
    found = {tuple(m.tolist()) for m in exact.all_masks(5)}
    assert found == set(product([False, True], repeat=5)) - {(False,) * 5}
    assert np.array_equal(index_of(exact.all_masks(5)), np.arange(31))


def test_the_sums_are_those_of_one_forward_pass_a_mask():
    model, (x, (w, l)) = tiny_model(), pair(3)
    found = exact.masked_sums(model, [x, x[:0]], [w, l], at_once=7)
    for row, (prompt, y) in zip(found, [(x, w), (x[:0], l)], strict=True):
        expected = [brute_force(model, prompt, y, m) for m in exact.all_masks(3)]
        np.testing.assert_allclose(row, expected, rtol=1e-10, atol=1e-13)


def test_the_elbo_is_below_the_log_likelihood_of_the_best_order():
    """It is the mean over orders of their log-likelihoods (any-order autoregression)."""
    model, (x, (w, _)) = tiny_model(), pair(3)
    sums = exact.masked_sums(model, [x], [w])
    one = {m: brute_force_conditional(model, x, w, m) for m in product([False, True], repeat=3)}
    orders = []
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        masked, total = [True] * 3, 0.0
        for i in order:
            total += one[tuple(masked)][i]
            masked[i] = False
        orders.append(total)
    assert exact.mean(exact.terms(sums))[0] == pytest.approx(np.mean(orders), rel=1e-12)


def brute_force_conditional(model, x, y, mask):
    tokens = torch.cat([x, torch.where(torch.tensor(mask), MASK, y)])
    logp = torch.log_softmax(model.logits(tokens, (len(tokens),)), dim=-1)[len(x) :]
    return logp[torch.arange(len(y)), y].detach().numpy()


@pytest.mark.parametrize("design", [Design(n_t=6), Design(n_t=3, n_y=2)], ids=str)
def test_lemma_5_is_the_variance_of_drawn_estimates(design):
    assert_variance(design, lambda f: exact.split(f).estimate(design.n_t, design.n_y))


@pytest.mark.parametrize("proposal", [None, (3.0, 2.0, 1.0, 1.0), (2.0, 1.0, 0.5)])
@pytest.mark.parametrize("n", [1, 3, 4])
def test_systematic_variance_is_that_of_drawn_estimates(n, proposal):
    design = Design(n_t=n, counts="systematic", proposal=proposal)
    assert_variance(design, lambda f: exact.systematic_variance(f, n, proposal))


def test_importance_variance_is_that_of_drawn_estimates():
    proposal = (3.0, 2.0, 1.0, 1.0)
    design = Design(n_t=3, proposal=proposal)
    assert_variance(design, lambda f: exact.iid_variance(f, 3, proposal))


def assert_variance(design, predicted):
    L, runs = 4, 4000
    sums = table(L, B=1)
    drawn = [draw(design, L, 3, run) for run in range(runs)]
    estimates = np.array([(d.weights.numpy() * sums[0, index_of(d.masks)]).mean() for d in drawn])
    standard_error = estimates.std(ddof=1) / np.sqrt(runs)
    assert abs(estimates.mean() - exact.mean(exact.terms(sums))[0]) < 4.5 * standard_error
    # relative sd of a variance: sqrt((kurtosis - 1) / runs), kurtosis below 9: allow 4.5 of them
    expected = predicted(exact.terms(sums))[0]
    assert estimates.var(ddof=1) == pytest.approx(expected, rel=4.5 * np.sqrt(8 / runs))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), L=st.integers(1, 6))
def test_the_two_parts_are_the_variance(seed, L):
    f = exact.terms(table(L, seed))
    np.testing.assert_allclose(sum(exact.split(f)), exact.variance(f), rtol=1e-10)
    np.testing.assert_allclose(exact.iid_variance(f, 1), exact.variance(f), rtol=1e-9)
    np.testing.assert_allclose(exact.systematic_variance(f, 1), exact.variance(f), rtol=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), L=st.integers(1, 6))
def test_the_averaged_time_form_has_the_variance_of_the_identity(seed, L):
    """Var_RB = (1 + 1/L) Var + B^2 / L, for any values of the masks."""
    sums = table(L, seed)
    f = exact.terms(sums)
    average, variance = exact.rao_blackwell(sums)
    np.testing.assert_allclose(average, exact.mean(f), rtol=1e-12)
    expected = (1 + 1 / L) * exact.variance(f) + exact.mean(f) ** 2 / L
    np.testing.assert_allclose(variance, expected, rtol=1e-10)


def test_the_averaged_time_form_is_the_time_form_given_the_mask():
    """E[1 / t | mask] by quadrature over the density of t given the mask."""
    L = 5
    for l in range(1, L + 1):
        top = quad(lambda t, l=l: t ** (l - 1) * (1 - t) ** (L - l), 0, 1)[0]
        bottom = quad(lambda t, l=l: t**l * (1 - t) ** (L - l), 0, 1)[0]
        assert top / bottom == pytest.approx((L + 1) / l)


@pytest.mark.parametrize("eps", [0.3, 0.01, 1e-4])
@pytest.mark.parametrize("L", [1, 4])
def test_the_cut_time_form_by_quadrature(L, eps):
    sums = table(L, B=1)
    l = exact.counts(L)

    def integral(power, k):
        def integrand(log_t):
            t = np.exp(log_t)
            return (sums[0] ** power * t ** (l - k) * (1 - t) ** (L - l)).sum() * t

        return quad(integrand, np.log(eps), 0, limit=200)[0] / (1 - eps)

    average, variance = exact.time_form(sums, eps)
    assert average[0] == pytest.approx(integral(1, 1), rel=1e-8)
    assert variance[0] == pytest.approx(integral(2, 2) - integral(1, 1) ** 2, rel=1e-7)


def test_the_variance_of_the_time_form_grows_with_the_logarithm_of_eps():
    sums = table(6)
    far, near = (exact.time_form(sums, eps)[1] for eps in (1e-8, 1e-7))
    slope = theory.time_form_growth(sums[:, exact.counts(6) == 1])
    np.testing.assert_allclose((far - near) / np.log(10), slope, rtol=1e-4)


def test_the_time_form_has_a_finite_variance_over_times_and_an_infinite_one_over_masks():
    sums = table(4)
    V_t, V_y = exact.time_form_split(sums)
    assert np.isinf(V_y).all()
    t = np.linspace(0, 1, 20_001)
    l = exact.counts(4)
    given_t = (sums[0] * t[:, None] ** (l - 1) * (1 - t[:, None]) ** (4 - l)).sum(1)
    average = np.trapezoid(given_t, t)
    assert V_t[0] == pytest.approx(np.trapezoid(given_t**2, t) - average**2, rel=1e-6)


def test_the_best_proposal_beats_every_other_for_independent_draws():
    f = exact.terms(table(4, B=1))
    best = exact.iid_variance(f, 1, exact.best_proposal(f))[0]
    rng = np.random.default_rng(0)
    for _ in range(200):
        assert best <= exact.iid_variance(f, 1, tuple(rng.dirichlet(np.ones(4)) + 1e-6))[0]


def test_a_model_that_gives_no_number_is_refused_by_response():
    model, (x, (w, l)) = tiny_model(), pair(3)
    with torch.no_grad():
        model.wte.weight[6] = torch.nan  # of l, not of x or w
    with pytest.raises(ValueError, match=r"nan or infinity for response\(s\) \[1\]"):
        exact.masked_sums(model, [x, x], [w, l])


def test_responses_that_cannot_be_enumerated_are_refused():
    model, (x, (w, l)) = tiny_model(), pair(3)
    with pytest.raises(ValueError, match=r"one length, got lengths \[2, 3\]"):
        exact.masked_sums(model, [x, x], [w, l[:2]])
    with pytest.raises(ValueError, match="1 to 12 tokens"):
        exact.masked_sums(model, [x], [w.repeat(5)])
    with pytest.raises(ValueError, match="variance of the time form is infinite"):
        exact.time_form(table(3), 0.0)
    with pytest.raises(ValueError, match="masks, got"):
        exact.mean(np.zeros(6))
