"""The stack: K layers against K gradient steps, one layer against the paper's, and training."""

import pytest
import torch

from core.mesa import capability
from core.mesa.deep import LinearStack, train_stack
from core.mesa.flow import ReducedFlow
from core.mesa.lsa import LinearSelfAttention
from core.mesa.measure import median_relative_error, relative_mse
from core.mesa.mesa_layer import gradient_step_predict
from core.mesa.moments import gaussian
from core.mesa.process import sample_sequences


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("layers", [1, 2, 5])
@pytest.mark.parametrize("T", [3, 4, 21])
def test_layers_are_gradient_steps(layers, T):
    x = sample_sequences(gaussian(3), T, 20, generator())
    stack = LinearStack.gradient_steps(3, layers, eta=0.15)
    difference = stack(x) - gradient_step_predict(x, 0.15, steps=layers)
    assert difference.abs().max() < 1e-12


def test_one_layer_of_the_stack_is_the_papers_layer():
    """x_t stands in two slots and y_hat is zero: add the columns up, and it is Eq. (1)."""
    d = 2
    stack = LinearStack.gaussian(d, 1, 0.3, generator())
    fold = torch.zeros(4 * d, 2 * d, dtype=torch.float64)
    eye = torch.eye(d, dtype=torch.float64)
    fold[d : 2 * d, :d] = fold[2 * d : 3 * d, :d] = fold[3 * d :, d:] = eye
    layer = LinearSelfAttention(stack.W_PV[0, :d] @ fold, fold.T @ stack.W_KQ[0] @ fold)
    x = sample_sequences(gaussian(d), 9, 5, generator(1))
    torch.testing.assert_close(stack(x), layer(x, impl="loop"), rtol=1e-12, atol=1e-12)


def test_the_future_is_hidden_from_every_layer():
    x = sample_sequences(gaussian(2), 9, 5, generator())
    y = x.clone()
    y[:, 6:] = 1.0
    stack = LinearStack.gaussian(2, 3, 0.1, generator())
    assert torch.equal(stack(x)[:, :5], stack(y)[:, :5])
    assert not torch.equal(stack(x)[:, 5], stack(y)[:, 5])


def test_two_trained_layers_do_what_one_cannot():
    """From small random weights; the exact optimum of one layer is the number to beat."""
    start, T, d = gaussian(2), 12, 2
    stack = LinearStack.gaussian(d, 2, 0.1, generator(1))
    losses = train_stack(stack, start, T, steps=250, generator=generator(2), lr=0.02)
    assert losses[-50:].mean() < losses[:10].mean()
    x = sample_sequences(start, T, 4000, generator(3))
    ab = ReducedFlow.of(start.kappas, T).limit
    with torch.no_grad():
        deep = median_relative_error(stack(x)[:, -1], x[:, -1])
        best = median_relative_error(
            LinearSelfAttention.from_diagonal(d, ab, 1.0)(x)[:, -1], x[:, -1]
        )
    assert deep.value + 4 * deep.standard_error < 0.7 * best.value


def test_one_trained_layer_reaches_the_exact_optimum_and_no_further():
    start, T, d = gaussian(2), 12, 2
    stack = LinearStack.gaussian(d, 1, 0.1, generator(1))
    train_stack(stack, start, T, steps=250, generator=generator(2), lr=0.02)
    x = sample_sequences(start, T, 4000, generator(3))
    kappas, ab = start.kappas, ReducedFlow.of(start.kappas, T).limit
    best = sum(capability.relative_mse(kappas, ab, t) for t in range(2, T)) / (T - 2)
    with torch.no_grad():
        reached = relative_mse(stack(x), x[:, 2:])
    assert reached.value > best - 4 * reached.standard_error
    assert reached.value < best + 4 * reached.standard_error + 0.02


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LinearStack(torch.ones(2, 4, 4), torch.ones(1, 4, 4)), "alike|K, 4d, 4d"),
        (lambda: LinearStack(torch.ones(1, 3, 3), torch.ones(1, 3, 3)), "width 4d"),
        (lambda: LinearStack.gradient_steps(2, 0, 0.1), "layers = 0"),
        (lambda: LinearStack.gradient_steps(2, 1, 0.1)(torch.ones(1, 5, 3) + 0j), "d = 2"),
        (
            lambda: train_stack(
                LinearStack.gradient_steps(2, 1, 0.1),
                gaussian(2),
                5,
                steps=0,
                generator=generator(),
            ),
            "steps >= 1",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
