"""The measured numbers, against laws whose value is known."""

import math

import numpy as np
import pytest
import torch

from core.mesa import capability
from core.mesa.flow import ReducedFlow
from core.mesa.lsa import LinearSelfAttention
from core.mesa.measure import (
    energy_slope,
    mean_ratio,
    median_relative_error,
    relative_mse,
    robust_ratio,
)
from core.mesa.moments import gaussian, sparse, uniform
from core.mesa.process import sample_sequences


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("start", [gaussian(3), uniform(3)], ids=["gaussian", "uniform"])
@pytest.mark.parametrize("T_te", [2, 7, 20])
def test_measurements_are_the_closed_forms(start, T_te):
    ab = ReducedFlow.of(start.kappas, 20).limit
    x = sample_sequences(start, T_te + 1, 8000, generator())
    prediction = LinearSelfAttention.from_diagonal(3, ab, 1.0)(x)[:, -1].detach()
    for measure, truth in (
        (relative_mse, capability.relative_mse(start.kappas, ab, T_te)),
        (energy_slope, capability.energy_slope(start.kappas, ab)),
    ):
        estimate = measure(prediction, x[:, -1])
        assert abs(estimate.value - truth) < 4 * estimate.standard_error


def noisy(N, seed):
    """A law whose three numbers are known: y normal, y_hat = y / 2 + y * noise."""
    g = generator(seed)
    y = torch.randn(N, 4, generator=g, dtype=torch.float64) + 0j
    return y * (0.5 + 0.3 * torch.randn(N, 4, generator=g, dtype=torch.float64)), y


@pytest.mark.parametrize(
    ("measure", "truth"),
    [(relative_mse, 0.25 + 0.09), (energy_slope, 0.5), (mean_ratio, 0.5), (robust_ratio, 0.5)],
)
def test_the_standard_errors_cover(measure, truth):
    """400 sets: the pulls must have mean 0 and spread 1, each within its own sampling error."""
    estimates = [measure(*noisy(300, seed)) for seed in range(400)]
    value, error = np.array(estimates).T
    assert abs(value.mean() - truth) < 4 * value.std() / 20
    # the spread of 400 normals: 3.5 %. A median deviation of 41 groups: 12 % a set, which lets the
    # pulls' own spread grow; so compare the spread with the mean error, 15 %
    assert value.std() == pytest.approx(error.mean(), rel=0.15)


def test_the_robust_ratio_survives_cauchy_tails():
    """y_hat = y/2 + 0.05 z over a normal y: the mean of y_hat / y does not exist."""

    def draw(seed):
        g = generator(seed)
        y, z = torch.randn(2, 1000, 1, generator=g, dtype=torch.float64)
        return 0.5 * y + 0.05 * z, y

    robust = np.array([robust_ratio(*draw(seed)) for seed in range(300)])
    plain = np.array([mean_ratio(*draw(seed)).value for seed in range(300)])
    assert abs(robust[:, 0].mean() - 0.5) < 4 * robust[:, 0].std() / math.sqrt(300)
    assert np.abs(plain - 0.5).max() > 1  # one set in 300 is far off, as Cauchy's are
    assert np.abs(robust[:, 0] - 0.5).max() < 0.2


def test_median_error_and_its_standard_error():
    """y_hat = y (1 + u), u uniform on [0, 1]: the median of u^2 is 1/4, of spread 1/(2 sqrt N)."""
    N, runs = 400, 300

    def draw(seed):
        y = torch.ones(N, 2, dtype=torch.float64)
        return y * (1 + torch.rand(N, 1, generator=generator(seed), dtype=torch.float64)), y

    value, error = np.array([median_relative_error(*draw(seed)) for seed in range(runs)]).T
    spread = 0.5 / math.sqrt(N)  # sd of the median of u, times the slope 2 u = 1 at 1/2
    # the sd of 300: 4 %; the mean of 300 errors, each of which has an own sd of about a third: 2 %
    assert value.std() == pytest.approx(spread, rel=0.16)
    assert error.mean() == pytest.approx(spread, rel=0.1)
    assert abs(value.mean() - 0.25) < 4 * spread / math.sqrt(runs) + 1 / N


def test_zeros_of_a_sparse_truth_are_left_out_of_the_ratio():
    x = sample_sequences(sparse(4, 1.0), 5, 200, generator())[:, -1]
    assert mean_ratio(0.75 * x, x, offset=0.0).value == pytest.approx(0.75, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda y: relative_mse(y, y[:, :1]), r"alike, got \[9, 2\] and \[9, 1\]"),
        (lambda y: energy_slope(y[:1], y[:1]), "N >= 2"),
        (lambda y: mean_ratio(y, 0 * y), "not all zero"),
        (lambda y: median_relative_error(y, y * (torch.arange(9) > 0)[:, None]), "is zero"),
        (lambda y: robust_ratio(y, y), "9 sequences, got 41 groups"),
        (lambda y: robust_ratio(y, y, groups=2), "groups >= 3"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.ones(9, 2))
