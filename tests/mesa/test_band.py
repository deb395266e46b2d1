"""The finite-sample band, against the spread of many simulated fits."""

import numpy as np
import pytest
import torch

from core.mesa.band import diagonal_fit, finite_sample_band
from core.mesa.moments import all_ones, gaussian, rademacher, sparse, ternary, uniform
from core.mesa.population import Population
from core.mesa.process import sample_sequences
from core.mesa.quadratic import diagonal_weights
from core.mesa.sampled import SampledLoss

T, D = 8, 2


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def fits(start, N, runs, seed=1):
    g = generator(seed)
    return np.array([diagonal_fit(sample_sequences(start, T, N, g)) for _ in range(runs)])


def test_diagonal_fit_is_the_minimum_of_the_sampled_loss():
    x = sample_sequences(gaussian(3), 9, 40, generator())
    best, loss = diagonal_fit(x), SampledLoss(x)
    around = [loss.loss(diagonal_weights(3, ab, 1.0)) for ab in (best - 1e-3, best, best + 1e-3)]
    assert around[1] < min(around[0], around[2])
    # a parabola is symmetric about its minimum
    assert around[0] - around[1] == pytest.approx(around[2] - around[1], rel=1e-6)


@pytest.mark.parametrize(
    ("start", "N"),
    [(uniform(D), 1000), (rademacher(D), 300), (all_ones(D), 300)],
    ids=["uniform", "signs", "ones"],
)
def test_standard_error_is_the_spread_of_the_fits(start, N):
    runs = 300
    band = finite_sample_band(start, T, N, generator(), masked=True)  # (a, b) alone
    values = fits(start, N, runs)
    # the sd of 300 normals has relative sd sqrt(1/600) = 4 %, that of the pilot's phases 2 %;
    # what is of second order in 1/N measured below 5 %
    assert values.std(ddof=1) == pytest.approx(band.standard_error, rel=0.15)
    assert abs(values.mean() - band.limit - band.bias) < 4 * band.standard_error / np.sqrt(runs)


def test_a_gaussian_start_needs_thousands_of_sequences():
    band = finite_sample_band(gaussian(D), T, 4000, generator())
    values = fits(gaussian(D), 4000, 100)
    # the sd of 100 normals has relative sd 7 %
    assert values.std(ddof=1) == pytest.approx(band.standard_error, rel=0.28)
    assert abs(values.mean() - band.limit - band.bias) < 4 * band.standard_error / 10


def test_bias_is_that_of_many_small_fits():
    start, N, runs = ternary(D, 1.0, 0.5), 100, 2000
    band = finite_sample_band(start, T, N, generator(), pilot=20_000)
    values = fits(start, N, runs)
    error = values.std(ddof=1) / np.sqrt(runs)
    assert band.bias > 4 * error  # so that the next line tests something
    # second order in 1/N: a few per cent of the first
    assert abs(values.mean() - band.limit - band.bias) < 4 * error + 0.1 * band.bias


def test_training_all_weights_spreads_as_the_band_says():
    start, N, runs = rademacher(D), 600, 40
    band, g, ab = finite_sample_band(start, T, N, generator()), generator(4), []
    start_weights = diagonal_weights(D, 0.5, 0.5)
    lr = 0.5 / Population(start, T).sharpness(diagonal_weights(D, 1.0, 1.0))
    for _ in range(runs):
        loss = SampledLoss(sample_sequences(start, T, N, g))
        *_, last = loss.descend(start_weights, lr=lr, steps=200)
        ab.append(last.ab.mean())
    # relative sd of an sd of 40: 11 %
    assert np.std(ab, ddof=1) == pytest.approx(band.standard_error, rel=0.45)


def test_a_sparse_start_has_no_spread():
    band = finite_sample_band(sparse(D, 2.0), T, 10, generator())
    assert band.limit == pytest.approx(0.25)
    assert band.standard_error < 1e-9
    assert abs(band.bias) < 1e-9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: finite_sample_band(gaussian(2), 2, 10, generator()), "T = 2"),
        (lambda: finite_sample_band(gaussian(2), 5, 0, generator()), "N = 0"),
        (lambda: finite_sample_band(gaussian(2), 5, 5, generator(), pilot=1), "pilot = 1"),
        (lambda: finite_sample_band(all_ones(2), 5, 5, generator()), r"Assumption 4\.1"),
        (lambda: finite_sample_band(gaussian(2, 1e-30), 5, 5, generator()), "choose another unit"),
        (lambda: finite_sample_band(gaussian(2, 1e30), 5, 5, generator()), "want finite moments"),
        (lambda: diagonal_fit(torch.tensor(1j)), r"d >= 1\], got \[\]"),
        (lambda: diagonal_fit(torch.zeros(3, 5, 2) + 0j), "not all zero"),
        (lambda: diagonal_fit(torch.ones(3, 2, 2) + 0j), "T >= 3"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
