import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp

from core.multisource.log_linear import Block, fit

T = torch.from_numpy


def a_block(rng, C=3, O=4, m=3):
    return Block(T(rng.standard_normal((C, O, m))), torch.tensor([True, False, True]))


def a_sample(rng, R=2, K=3, C=3, O=4):
    return T(rng.multinomial(200, np.full(O, 1 / O), size=(R, K, C)))


@pytest.mark.parametrize("multi", [True, False])
def test_newton_ends_where_scipy_does(rng, multi):
    block, counts = a_block(rng), a_sample(rng)
    found = fit(block, counts, multi=multi)
    design = block.design(3, multi=multi).numpy()
    f, n = block.features.numpy(), counts.numpy()

    def loss(theta, r):
        logits = np.einsum("com,kmp,p->kco", f, design, theta)
        return -(n[r] * (logits - logsumexp(logits, axis=2, keepdims=True))).sum()

    for r in range(2):
        start = np.zeros(design.shape[2])
        best = minimize(loss, start, args=(r,), method="BFGS", options={"gtol": 1e-4})
        # both are within gtol of the top; its curvature is some 100 samples
        assert np.abs(found.theta[r].numpy() - design @ best.x).max() < 1e-4
    assert found.slope.max() < 1e-6


def test_newton_doubles_its_digits(rng):
    """Eight steps are enough, as the curvature is the right one."""
    assert fit(a_block(rng), a_sample(rng), multi=True, steps=8).slope.max() < 1e-8


def test_what_is_shared_is_alike_and_the_rest_is_not(rng):
    theta = fit(a_block(rng), a_sample(rng), multi=True).theta
    assert (theta[:, 0, [0, 2]] == theta[:, 2, [0, 2]]).all()
    assert (theta[:, 0, 1] != theta[:, 2, 1]).all()


def test_replications_do_not_see_each_other(rng):
    block, counts = a_block(rng), a_sample(rng, R=5)
    together = fit(block, counts, multi=True).theta
    for r in range(5):
        alone = fit(block, counts[r : r + 1], multi=True).theta
        torch.testing.assert_close(together[r], alone[0], rtol=0, atol=1e-8)


def test_scores_are_derivatives(rng):
    block, theta = a_block(rng), T(rng.standard_normal(3))
    jacobian = torch.autograd.functional.jacobian(block.log_probs, theta)
    assert isinstance(jacobian, torch.Tensor)
    torch.testing.assert_close(block.scores(theta), jacobian)


def test_a_context_that_was_never_seen_is_no_trouble(rng):
    counts = a_sample(rng)
    counts[:, :, 1] = 0
    found = fit(a_block(rng), counts, multi=True)
    assert found.theta.isfinite().all()
    assert found.slope.max() < 1e-6


def test_one_outcome_alone_gives_a_large_but_finite_estimate():
    """A coin that never fell on 1: the likelihood has no maximum, the ridge gives one."""
    block = Block(torch.tensor([[[0.0], [1.0]]], dtype=torch.float64), torch.tensor([False]))
    found = fit(block, torch.tensor([[[[50.0, 0.0]]]]), multi=False)
    assert -20 < found.theta.item() < -5
    assert found.slope.max() < 1e-6


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (torch.ones(2, 3, 3, 5), r"counts \[R, K, 3, 4\]"),
        (torch.ones(2, 3, 3, 4) * torch.tensor([1, 0, 1])[:, None, None], "without data: 1;"),
    ],
)
def test_what_cannot_be_fitted_is_refused(rng, counts, message):
    with pytest.raises(ValueError, match=message):
        fit(a_block(rng), counts, multi=True)
    with pytest.raises(ValueError, match=r"features \[C, O, m\]"):
        Block(torch.zeros(1, 2, 3), torch.zeros(2, dtype=torch.bool))
