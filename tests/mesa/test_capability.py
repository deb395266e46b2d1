"""What the trained layer predicts, from moments, against simulated sequences."""

import numpy as np
import pytest
import torch

from core.mesa.capability import (
    energy_slope,
    error_floor,
    mean_ratio,
    relative_mse,
    sampled_mse_error,
)
from core.mesa.flow import ReducedFlow
from core.mesa.moments import gaussian, laplace, rademacher, sparse, ternary, uniform

STARTS = [gaussian(4), uniform(4), laplace(4, 0.7), rademacher(4), ternary(4), sparse(4)]


@pytest.mark.parametrize("start", STARTS, ids=lambda s: s.name)
@pytest.mark.parametrize("T_te", [2, 7])
def test_the_three_numbers_are_those_of_simulated_sequences(start, T_te, rng):
    N = 40_000
    ab = ReducedFlow.trained_on(start, 30).limit
    x_1 = start.draw(N, torch.Generator().manual_seed(5)).numpy()
    powers = np.exp(1j * rng.uniform(0, 2 * np.pi, (N, 1, 4)) * np.arange(T_te + 1)[:, None])
    x = powers * x_1[:, None, :]
    moments = np.einsum("nij,nik->njk", x[:, 1:T_te], x[:, : T_te - 1].conj())
    y_hat = ab / (T_te - 1) * np.einsum("njk,nk->nj", moments, x[:, T_te - 1])
    y = x[:, T_te]
    energy = 4 * start.kappas.k0  # E|y|^2, exactly
    samples = np.abs(y_hat - y) ** 2
    for draws, expected in [
        (samples.sum(1) / energy, relative_mse(start.kappas, ab, T_te)),
        ((y_hat * y.conj()).real.sum(1) / energy, energy_slope(start.kappas, ab)),
    ]:
        assert abs(draws.mean() - expected) < 4.5 * draws.std() / np.sqrt(N) + 1e-12


def test_gaussian_values_are_the_papers_fifth_and_its_energy_twin():
    start, ab = gaussian(3, 0.5), 0.8  # kappa_1 / kappa_2 = 1 / (5 sigma^2)
    assert mean_ratio(start.kappas, ab) == pytest.approx(1 / 5)
    assert energy_slope(start.kappas, ab) == pytest.approx(3 / 5)


@pytest.mark.parametrize(
    ("start", "floor"),
    [
        (gaussian(3), 0.4),
        (uniform(3), 0.16),
        (laplace(3), 0.6),
        (rademacher(3, 0.3), 0.0),
        (ternary(3, 2.0, 0.2), 0.0),
        (sparse(3), 0.0),
    ],
)
def test_the_floor_is_zero_only_for_two_valued_squares(start, floor):
    assert error_floor(start.kappas) == pytest.approx(floor, abs=1e-14)


def test_the_floor_is_where_the_error_tends():
    k = gaussian(5).kappas
    far = relative_mse(k, ReducedFlow.of(k, 10**6).limit, 10**6)
    assert far == pytest.approx(error_floor(k), rel=1e-4)


def test_no_context_is_refused():
    with pytest.raises(ValueError, match="want T_te >= 2"):
        relative_mse(gaussian(2).kappas, 0.2, 1)


@pytest.mark.parametrize(
    "start", [uniform(3), sparse(3), ternary(3, 1.0, 0.3)], ids=lambda s: s.name
)
def test_the_error_of_a_sampled_mse_is_the_spread_of_repeated_samples(start, rng):
    # the summand of Eq. (3) with a long context: sum_j x_j^2 (1 - ab x_j^2)^2, drawn directly
    ab, N, repetitions = 0.4, 50, 4000
    x = start.draw(N * repetitions, torch.Generator().manual_seed(2)).numpy()
    errors = (x**2 * (1 - ab * x**2) ** 2).sum(axis=1) / (3 * start.kappas.k0)
    spread = errors.reshape(repetitions, N).mean(axis=1).std()
    # the deviation of 4,000 normals has a relative error of 1.1 %: allow four of them
    # (and a variance that is zero is the difference of numbers of order one: 1e-16)
    assert spread == pytest.approx(sampled_mse_error(start, ab, N), rel=0.045, abs=1e-8)


def test_no_sample_has_no_error():
    with pytest.raises(ValueError, match="want N >= 1"):
        sampled_mse_error(uniform(2), 0.5, 0)
