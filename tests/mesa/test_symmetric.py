"""The four-number reduction against the whole engine, its limit against training everything."""

import numpy as np
import pytest

from core.mesa.moments import all_ones
from core.mesa.population import Population
from core.mesa.quadratic import diagonal_weights
from core.mesa.symmetric import SymmetricLoss, SymmetricWeights, off_diagonal_gradient


def test_loss_and_gradient_are_the_engines(rng):
    population = Population(all_ones(4), 9)
    reduced = SymmetricLoss(population)
    z = SymmetricWeights(*rng.standard_normal(4))
    full, off = population.gradient(z.full(4)), ~np.eye(4, dtype=bool)
    assert reduced.loss(z) == pytest.approx(population.loss(z.full(4)), rel=1e-12)
    expected = [full.W12[0, 0], full.W12[off][0], full.W32[0, 0], full.W32[off][0]]
    assert reduced.gradient(z) == pytest.approx(expected, rel=1e-11)
    for block in (full.W12, full.W32):  # one number does stand for all entries
        assert np.ptp(np.diagonal(block)) < 1e-10
        assert np.ptp(block[off]) < 1e-10
    assert np.abs(full.others).max() < 1e-12


def test_the_limit_is_where_training_all_parameters_ends():
    population = Population(all_ones(5), 25)
    z = SymmetricLoss(population).flow_limit(0.1, 0.1)
    *_, last = population.descend(diagonal_weights(5, 0.1, 0.1), lr=2e-3, steps=20_000)
    expected = z.full(5)
    # the finite step moves the end along the valley by its own order: 2e-3
    assert np.abs(last.W12 - expected.W12).max() < 2e-3
    assert np.abs(last.W32 - expected.W32).max() < 2e-3
    assert population.loss(last) == pytest.approx(population.loss(expected), rel=1e-9)
    assert np.abs(population.gradient(expected).W_KQ).max() < 1e-8


def test_the_preconditioner_names_the_eigenvalues_of_both_blocks():
    z = SymmetricWeights(0.9, -0.03, 0.92, -0.05)
    for block, (bulk, ones) in zip(z.full(5), z.preconditioner(5), strict=True):
        matrix = block[-5:, :5]  # W12 fills the first half of W_PV, W32 the lower left of W_KQ
        values = np.linalg.eigvalsh(matrix)
        assert values == pytest.approx([ones, bulk, bulk, bulk, bulk])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SymmetricLoss(Population(all_ones(1), 5)), "want d >= 2"),
        (lambda: SymmetricWeights(1, 0, 1, 0).full(0), "got d = 0"),
        (lambda: SymmetricWeights(1, 0, 1, 0).preconditioner(0), "got d = 0"),
        (lambda: SymmetricWeights(np.nan, 0, 1, 0).full(3), "want finite weights"),
        (lambda: off_diagonal_gradient(3, 2, 0.1, 0.1), "want T >= 3"),
        (lambda: off_diagonal_gradient(1, 9, 0.1, 0.1), "want d >= 2"),
        (lambda: off_diagonal_gradient(3, 9, np.nan, 0.1), "want finite a"),
        (lambda: small_loss().loss(SymmetricWeights(np.inf, 0, 1, 0)), "want finite"),
        (lambda: small_loss().gradient(SymmetricWeights(0, np.nan, 1, 0)), "want finite"),
        (lambda: small_loss().flow_limit(np.nan, 0.1), "want finite a0"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def small_loss():
    return SymmetricLoss(Population(all_ones(2), 4))
