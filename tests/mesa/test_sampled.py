"""Training on samples: the summed loss against the passes over the sequences, and the limits."""

import numpy as np
import pytest
import torch

from core.mesa.band import finite_sample_band
from core.mesa.lsa import LinearSelfAttention, loss_and_gradient
from core.mesa.moments import all_ones, gaussian, sparse
from core.mesa.population import Population
from core.mesa.process import sample_sequences
from core.mesa.quadratic import diagonal_weights
from core.mesa.sampled import SampledLoss, train, weights_of


def draw(start, T, N, seed=0):
    return sample_sequences(start, T, N, torch.Generator().manual_seed(seed))


def dense(d, dtype=torch.float64):
    return LinearSelfAttention.gaussian(d, 0.3, torch.Generator().manual_seed(5), dtype=dtype)


@pytest.mark.parametrize(("N", "T", "d"), [(1, 3, 1), (7, 9, 2), (400, 20, 2), (30, 12, 3)])
def test_summed_loss_equals_the_loss_of_the_loop(N, T, d):
    x, layer = draw(gaussian(d), T, N), dense(d)
    sampled, weights = SampledLoss(x), weights_of(layer)
    loss = layer.loss(x, impl="loop")
    truth = [g.numpy() for g in torch.autograd.grad(loss, (layer.W_PV, layer.W_KQ))]
    # float64 rounding: Q holds sums of up to N T products of six numbers
    assert sampled.loss(weights) == pytest.approx(loss.item(), rel=1e-12)
    for ours, theirs in zip(sampled.gradient(weights), truth, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12 * np.abs(theirs).max())


def test_summed_loss_tends_to_the_population_loss():
    """Mean over 40 sets of sequences against the exact engine, entry by entry of the gradient."""
    start, T, weights = gaussian(2), 6, weights_of(dense(2))
    sets = [SampledLoss(draw(start, T, 500, seed)) for seed in range(40)]
    for quantity in (
        lambda s: np.array(s.loss(weights)),
        lambda s: s.gradient(weights).W_PV,
        lambda s: s.gradient(weights).W_KQ,
    ):
        values = np.array([quantity(s) for s in sets])
        error = values.std(axis=0, ddof=1) / np.sqrt(len(sets))
        assert np.all(np.abs(values.mean(0) - quantity(Population(start, T))) < 4 * error)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_training_follows_the_gradient_of_the_loop(dtype):
    x, layer, twin = draw(gaussian(3), 9, 20), dense(3, dtype), dense(3, dtype)
    history = train(layer, x, lr=0.02, steps=5, block=7)
    for step in range(5):
        loss = twin.loss(x, impl="loop")
        torch.testing.assert_close(history.loss[step], loss.detach())
        gradient = torch.autograd.grad(loss, (twin.W_PV, twin.W_KQ))
        with torch.no_grad():
            for weight, g in zip((twin.W_PV, twin.W_KQ), gradient, strict=True):
                weight -= 0.02 * g
    torch.testing.assert_close(layer.W_PV, twin.W_PV)
    torch.testing.assert_close(layer.W_KQ, twin.W_KQ)
    torch.testing.assert_close(history.ab[-1], twin.ab)


def test_both_ways_of_training_are_the_same_descent():
    x, layer = draw(gaussian(2), 12, 50), dense(2)
    path = list(SampledLoss(x).descend(weights_of(layer), lr=1e-3, steps=30))
    train(layer, x, lr=1e-3, steps=30)
    for ours, theirs in zip(weights_of(layer), path[-1], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_a_sparse_start_is_learnt_exactly_from_any_sample():
    """Example 4.1: ab = 1/c^2 = 1 predicts every sparse sequence, so no sample can move it."""
    layer = LinearSelfAttention.from_diagonal(3, 0.5, 0.5)
    history = train(layer, draw(sparse(3, 1.0), 10, 60), lr=0.05, steps=300)
    torch.testing.assert_close(layer.ab, torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-5)
    assert history.loss[-1] < 1e-5 * history.loss[0]


def test_masked_all_ones_training_ends_where_theorem_43_says():
    d, T = 2, 8
    x = draw(all_ones(d), T, 2000)
    layer = LinearSelfAttention.from_diagonal(d, 0.5, 0.5)
    train(layer, x, lr=0.05, steps=60, masked=True)
    band = finite_sample_band(all_ones(d), T, 2000, torch.Generator().manual_seed(1), masked=True)
    off = weights_of(layer).W12 - np.diag(np.diag(weights_of(layer).W12))
    assert np.all(off == 0)
    assert abs(layer.ab.mean().item() - band.limit) < 4 * band.standard_error


def test_step_that_is_too_large_says_so():
    with pytest.raises(ValueError, match=r"diverged before step \d+ with lr = 5"):
        train(dense(2), draw(gaussian(2), 9, 20), lr=5.0, steps=50)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: train(dense(2), x, lr=0.0, steps=1), "lr > 0"),
        (lambda x: train(dense(2), x, lr=0.1, steps=-1), "steps >= 0"),
        (lambda x: weights_of(dense(2, torch.complex128)), "want real weights"),
        (lambda x: SampledLoss(x[:, :2]), "T >= 3"),
        (lambda x: SampledLoss(x).loss(diagonal_weights(3, 1.0, 1.0)), "d = 2"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(draw(gaussian(2), 5, 3))


def test_gradient_of_a_trained_layer_is_that_of_loss_and_gradient():
    x, layer = draw(gaussian(2), 7, 9), dense(2)
    ours = SampledLoss(x).gradient(weights_of(layer))
    truth = loss_and_gradient(layer.W_PV.detach(), layer.W_KQ.detach(), x)
    np.testing.assert_allclose(ours.W_PV, truth.W_PV.numpy(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours.W_KQ, truth.W_KQ.numpy(), rtol=0, atol=1e-12)
