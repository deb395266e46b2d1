"""Learning from the context: gradient steps and least squares, against literal definitions."""

from typing import Any, cast

import numpy as np
import pytest
import torch

from core.mesa.lsa import LinearSelfAttention
from core.mesa.measure import relative_mse
from core.mesa.mesa_layer import (
    _conjugate_gradient,
    _round_to,
    gradient_step_predict,
    mesa_predict,
    smallest_eigenvalue,
)
from core.mesa.moments import gaussian, laplace, rademacher
from core.mesa.process import sample_phases, sample_sequences, sequences


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(start=None, T=9, N=3, seed=0):
    return sample_sequences(start or gaussian(3), T, N, generator(seed))


def objective(W, x, t):
    """L_OLS,t of Corollary 4.1 for one sequence, tokens counted from 1."""
    residuals = torch.stack([x[i] - W @ x[i - 1] for i in range(1, t)])
    return 0.5 * residuals.abs().square().sum()


def descend(x, t, step, steps):
    """Gradient descent on the objective, its gradient by autograd; predicts x_{t+1}."""
    W = torch.zeros(x.shape[1], x.shape[1], dtype=x.dtype)
    for _ in range(steps):
        W.requires_grad_()
        (gradient,) = torch.autograd.grad(objective(W, x, t), W)
        W = (W - step * gradient).detach()
    return W @ x[t - 1]


@pytest.mark.parametrize(("a", "b"), [(0.5, 1.5), (-0.7, 0.3)])
@pytest.mark.parametrize("T", [3, 8, 21])
def test_one_forward_pass_is_one_gradient_step(a, b, T):
    """Corollary 4.1: the layer at Assumption 3.1's weights, step ab / (t - 1)."""
    x = draw(T=T)
    layer = LinearSelfAttention.from_diagonal(3, a, b)(x)
    for n in range(len(x)):
        for t in range(2, T):
            step = descend(x[n], t, a * b / (t - 1), steps=1)
            assert (layer[n, t - 2] - step).abs().max() < 1e-12


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_gradient_steps_are_those_of_autograd(steps):
    x, eta = draw(), 0.2
    ours = gradient_step_predict(x, eta, steps=steps)
    for n in range(len(x)):
        for t in range(2, 9):
            truth = descend(x[n], t, eta / (t - 1), steps)
            assert (ours[n, t - 2] - truth).abs().max() < 1e-12


def test_the_ridge_solution_has_no_gradient_left():
    """Residual test: at W the derivative of the literal objective is -ridge W."""
    x, ridge, t = draw(), 0.05, 7
    prediction = mesa_predict(x, ridge=ridge)[:, t - 2]
    for n in range(len(x)):
        A, B = x[n, : t - 1].T, x[n, 1:t].T  # what goes in, what comes out
        W = torch.linalg.lstsq(
            torch.cat([A.T, ridge**0.5 * torch.eye(3, dtype=x.dtype)]),
            torch.cat([B.T, torch.zeros(3, 3, dtype=x.dtype)]),
        ).solution.T
        W.requires_grad_()
        (gradient,) = torch.autograd.grad(objective(W, x[n], t), W)
        assert (gradient + ridge * W).abs().max() < 1e-12
        assert (prediction[n] - W.detach() @ x[n, t - 1]).abs().max() < 1e-11


@pytest.mark.parametrize("start", [gaussian(4), laplace(4), rademacher(4)], ids=lambda s: s.name)
def test_mesa_layer_knows_the_next_token_from_d_plus_one_on(start):
    d, ridge = 4, 1e-10
    x = draw(start, T=12, N=500)
    W_x = x[:, 2:]  # the truth at t = 2, ..., T-1
    prediction = mesa_predict(x, ridge=ridge)
    # with d independent tokens seen, the ridge alone is in the way; a few sequences of 500 have
    # tokens that are almost parallel, so the median speaks
    error = (prediction - W_x).abs().square().sum(-1) / W_x.abs().square().sum(-1)
    assert error[:, d + 1 - 2 :].median(dim=0).values.max() < 1e-12
    assert error[:, : d - 2].mean() > 0.1  # and before that nobody can know


def test_one_gradient_step_does_not_solve_the_gaussian_start_but_many_do():
    x = draw(gaussian(3), T=40, N=300)
    error = [
        relative_mse(gradient_step_predict(x, 0.2, steps=k)[:, -1], x[:, -1]).value
        for k in (1, 30, 3000)
    ]
    assert error[0] > 0.3
    assert error[1] < 0.02
    assert error[2] < 1e-3


@pytest.mark.parametrize("solver", ["sherman_morrison", "cg"])
def test_solvers_agree(solver):
    x, ridge = draw(gaussian(5), T=30, N=50), 1e-2
    truth = mesa_predict(x, ridge=ridge)
    ours = mesa_predict(x, ridge=ridge, solver=solver)
    # condition numbers reach |R| / ridge = 1e5, times eps, times a few dozen operations
    assert (ours - truth).abs().max() < 1e-9


def test_conjugate_gradients_against_numpy():
    g = generator(3)
    M = torch.randn(6, 4, 4, dtype=torch.complex128, generator=g)
    A = M @ M.mH + 0.5 * torch.eye(4)
    b = torch.randn(6, 4, dtype=torch.complex128, generator=g)
    truth = np.linalg.solve(A.numpy(), b.numpy()[..., None])[..., 0]
    error = [np.abs(_conjugate_gradient(A, b, k).numpy() - truth).max() for k in (1, 2, 3, 4, 8)]
    assert error[0] > error[1] > error[2] > error[3]
    assert error[3] < 1e-9  # d steps are enough
    assert error[4] < 1e-9  # and more do not divide zero by zero


def test_zero_tokens_are_predicted_as_zero():
    x = torch.zeros(2, 6, 3, dtype=torch.complex128)
    for solver in ("solve", "sherman_morrison", "cg"):
        assert mesa_predict(x, ridge=1e-3, solver=solver).abs().max() == 0


def test_rounded_states_break_a_small_ridge_and_spare_a_large_one():
    """In miniature: float16 states lose positive definiteness, float32 states do not."""
    x = draw(gaussian(5), T=20, N=500)
    truth = x[:, 2:]

    def error(ridge, dtype):
        prediction = mesa_predict(x, ridge=ridge, solver="cg", iterations=30, state_dtype=dtype)
        return relative_mse(prediction, truth).value

    half, single = torch.float16, torch.float32
    assert (smallest_eigenvalue(x, ridge=1e-4, state_dtype=half) < 0).any()
    assert (smallest_eigenvalue(x, ridge=1e-4, state_dtype=single) > 0).all()
    assert error(1e-4, half) > 100 * error(1e-4, single)
    assert error(1e-1, half) < 1.01 * error(1e-1, single)


def test_rounding_is_elementwise_and_keeps_hermitian_matrices_hermitian():
    z = torch.tensor([1 + 2**-12 + 3j, -1 - 2**-12 + 0.1j], dtype=torch.complex128)
    assert _round_to(z, torch.float16).tolist() == [
        1 + 3j,
        complex(-1, np.float16(0.1)),
    ]
    A = torch.randn(5, 5, dtype=torch.complex128, generator=generator())
    R = _round_to(A @ A.mH / 3, torch.bfloat16)
    H = (A @ A.mH / 3 + (A @ A.mH / 3).mH) / 2
    assert (_round_to(H, torch.bfloat16) - _round_to(H, torch.bfloat16).mH).abs().max() == 0
    assert (R - H).abs().max() <= 2**-8 * H.abs().max()


def test_the_context_ends_before_the_token_that_is_predicted():
    """Changing x_{t+1} and later must not change the prediction of x_{t+1}."""
    x = sequences(gaussian(3).draw(4, generator()), sample_phases(4, 3, generator(1)), 9)
    y = x.clone()
    y[:, 6:] = 7.0
    for predict in (
        lambda z: mesa_predict(z, ridge=1e-3),
        lambda z: gradient_step_predict(z, 0.2),
        LinearSelfAttention.gaussian(3, 0.3, generator()),
    ):
        assert torch.equal(predict(x)[:, : 6 - 1], predict(y)[:, : 6 - 1])
        assert not torch.equal(predict(x)[:, 6 - 1], predict(y)[:, 6 - 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: mesa_predict(x, ridge=0.0), "want ridge > 0"),
        (lambda x: mesa_predict(x, ridge=float("nan")), "want ridge > 0"),
        (lambda x: mesa_predict(x, ridge=1.0, solver=cast(Any, "lu")), "got 'lu'"),
        (lambda x: mesa_predict(x, ridge=1.0, iterations=3), "only for 'cg'"),
        (lambda x: mesa_predict(x, ridge=1.0, solver="cg", iterations=0), "iterations >= 1"),
        (
            lambda x: mesa_predict(
                x, ridge=1.0, solver="sherman_morrison", state_dtype=torch.float16
            ),
            "keeps the inverse",
        ),
        (lambda x: mesa_predict(x.real, ridge=1.0), "complex"),
        (lambda x: gradient_step_predict(x, 0.1, steps=0), "steps >= 1"),
        (lambda x: gradient_step_predict(x[:, :2], 0.1), "T >= 3"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(draw())
