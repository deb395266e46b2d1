"""Few-shot regression: the closed form against simulation, the step against autograd."""

import numpy as np
import pytest
import torch

from core.mesa.measure import relative_mse
from core.mesa.regression import (
    best_step,
    one_step_predict,
    one_step_relative_mse,
    sample_prompts,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("n", "d", "sigma"), [(1, 1, 1.0), (5, 3, 0.5), (40, 5, 2.0)])
@pytest.mark.parametrize("scale", [0.5, 1.0, 1.3])
def test_closed_form_is_the_simulated_error(n, d, sigma, scale):
    step = scale * best_step(n, d, sigma)
    prompts = sample_prompts(n, d, 20_000, generator(), sigma=sigma)
    prediction, answer = one_step_predict(prompts, step), prompts.answer
    estimate = relative_mse(prediction[:, None], answer[:, None])
    truth = one_step_relative_mse(n, d, step, sigma)
    assert abs(estimate.value - truth) < 4 * estimate.standard_error


@pytest.mark.parametrize(("n", "d", "sigma"), [(1, 1, 1.0), (7, 3, 0.5), (100, 5, 2.0)])
def test_best_step_is_the_bottom_of_the_parabola(n, d, sigma):
    steps = best_step(n, d, sigma) * np.linspace(0.9, 1.1, 201)
    errors = [one_step_relative_mse(n, d, step, sigma) for step in steps]
    assert np.argmin(errors) == 100
    assert min(errors) == pytest.approx((d + 1) / (n + d + 1), rel=1e-12)


def test_error_vanishes_with_examples():
    errors = [one_step_relative_mse(n, 5, best_step(n, 5)) for n in (10, 100, 10_000)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-3


def test_prediction_is_one_gradient_step_on_the_examples():
    prompts, step = sample_prompts(6, 3, 4, generator()), 0.7
    for n, prediction in enumerate(one_step_predict(prompts, step)):
        x, y, query, _ = (field[n] for field in prompts)
        w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(0.5 * (y - x @ w).square().sum(), w)
        assert abs(prediction - (-step / 6 * gradient) @ query) < 1e-13


def test_answers_are_linear_in_the_inputs():
    x, y, query, answer = sample_prompts(5, 3, 8, generator())
    w = torch.linalg.lstsq(x, y[..., None]).solution
    torch.testing.assert_close((query[:, None] @ w)[:, 0, 0], answer)


@pytest.mark.parametrize(
    ("n", "d", "sigma"), [(0, 1, 1.0), (1, 0, 1.0), (1, 1, 0.0), (2.5, 1, 1.0)]
)
def test_bad_input_is_refused(n, d, sigma):
    for call in (
        lambda: best_step(n, d, sigma),
        lambda: one_step_relative_mse(n, d, 1.0, sigma),
        lambda: sample_prompts(n, d, 2, generator(), sigma=sigma),
    ):
        with pytest.raises(ValueError, match=r"want (n >= 1|d >= 1|sigma > 0)"):
            call()
