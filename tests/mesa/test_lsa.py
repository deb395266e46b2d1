"""The layer: causal form against the published loop, hand-made gradient against autograd."""

import pytest
import torch

from core import kernels
from core.mesa import lsa
from core.mesa.lsa import LinearSelfAttention, loss_and_gradient
from core.mesa.moments import gaussian
from core.mesa.process import sample_sequences

SHAPES = [(1, 3, 1), (2, 4, 2), (3, 9, 3), (70, 8, 2), (2, 25, 5)]  # N, T, d


def draw(N, T, d, seed=0):
    return sample_sequences(gaussian(d), T, N, torch.Generator().manual_seed(seed))


def dense(d, dtype=torch.float64):
    return LinearSelfAttention.gaussian(d, 0.3, torch.Generator().manual_seed(5), dtype=dtype)


def gradients(layer, x, impl):
    return torch.autograd.grad(layer.loss(x, impl=impl), (layer.W_PV, layer.W_KQ))


def worst(ours, truth):
    """Largest difference, relative to the largest entry."""
    return ((ours - truth).abs().max() / truth.abs().max()).item()


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize(("N", "T", "d"), SHAPES)
def test_causal_form_equals_the_published_loop(N, T, d, dtype):
    layer, x = dense(d, dtype), draw(N, T, d)
    assert layer(x).shape == (N, T - 2, d)
    # float64 rounding: sums of at most 25 x 100 products, in another order
    assert worst(layer(x), layer(x, impl="loop")) < 1e-13
    for ours, truth in zip(gradients(layer, x, "causal"), gradients(layer, x, "loop"), strict=True):
        assert worst(ours, truth) < 1e-13


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize(("N", "T", "d"), SHAPES)
@pytest.mark.parametrize("block", [1, 64])
def test_hand_made_gradient_is_autograd_of_the_loop(N, T, d, dtype, block):
    layer, x = dense(d, dtype), draw(N, T, d)
    ours = loss_and_gradient(layer.W_PV.detach(), layer.W_KQ.detach(), x, block=block)
    assert worst(ours.loss, layer.loss(x, impl="loop").detach()) < 1e-13
    truth = gradients(layer, x, "loop")
    assert worst(ours.W_PV, truth[0]) < 1e-13
    assert worst(ours.W_KQ, truth[1]) < 1e-13


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_single_precision_rounds_no_more_than_its_sums_do(dtype):
    N, T = 40, 60
    layer, x = dense(5, dtype), draw(N, T, 5)
    wide = torch.promote_types(dtype, torch.float64)
    twin = LinearSelfAttention(layer.W_PV.to(wide), layer.W_KQ.to(wide))
    truth, x = gradients(twin, x, "loop"), x.to(torch.complex64)
    ours = loss_and_gradient(layer.W_PV.detach(), layer.W_KQ.detach(), x)
    # errors of a sum add up as a random walk of as many steps as it has terms, at worst one
    # after the other: how many of them are, depends on the machine's matrix product
    rounding = (N * (T - 2)) ** 0.5 * torch.finfo(dtype).eps
    for g, exact in zip(ours[1:], truth, strict=True):
        assert worst(g, exact) < rounding


def test_the_layer_runs_on_the_op_of_the_library(monkeypatch):
    """In each way the library has of computing it, all called through one function."""
    calls, op = [], lsa.causal_linear_attention

    def spy(q, k, v, **options):
        calls.append((tuple(v.shape), options))
        return op(q, k, v, **options)

    monkeypatch.setattr(lsa, "causal_linear_attention", spy)
    layer, x = dense(3), draw(5, 9, 3)
    weights = layer.W_PV.detach(), layer.W_KQ.detach()
    forward, by_hand = layer(x), loss_and_gradient(*weights, x, block=4)
    # the forward pass asks for d columns; the gradient twice for 2d, for four sequences and for one
    shapes = [(5, 8, 3), (4, 8, 6), (4, 8, 6), (1, 8, 6), (1, 8, 6)]
    assert calls == [(shape, {"normalize": True}) for shape in shapes]
    with kernels.use("reference"):
        assert worst(layer(x), forward) < 1e-13
        for ours, truth in zip(loss_and_gradient(*weights, x), by_hand, strict=True):
            assert worst(ours, truth) < 1e-13


def test_one_entry_by_the_definition():
    """Eq. (1) at t = 3, written out with sums over tokens and no matrix product."""
    layer, x = dense(2), draw(1, 5, 2)
    zero = torch.zeros(2, dtype=x.dtype)
    e = [torch.cat([x[0, 0], zero])] + [torch.cat([x[0, t], x[0, t - 1]]) for t in range(1, 5)]
    key = layer.W_KQ.to(x.dtype) @ e[2]
    total = sum(e[i] * (e[i].conj() * key).sum() for i in range(3)) / (3 - 1)
    torch.testing.assert_close(layer(x)[0, 1], layer.W_PV.to(x.dtype) @ total)


def test_gradient_passes_gradcheck():
    x = draw(2, 5, 2)

    def loss(W_PV, W_KQ):
        layer = torch.func.functional_call(dense(2), {"W_PV": W_PV, "W_KQ": W_KQ}, (x,))
        return 0.5 * (layer - x[:, 2:]).abs().square().sum()

    weights = tuple(p.detach().requires_grad_() for p in dense(2).parameters())
    assert torch.autograd.gradcheck(loss, weights)


def test_a_strided_view_of_sequences_is_as_good():
    x = draw(4, 9, 6)[::2, :, ::2]
    assert worst(dense(3)(x), dense(3)(x.contiguous(), impl="loop")) < 1e-13


def test_diagonal_start_is_assumption_31():
    layer = LinearSelfAttention.from_diagonal(3, a=0.5, b=1.5)
    W32, W12 = layer.W_KQ[3:, :3], layer.W_PV[:, :3]
    assert torch.equal(W32, 0.5 * torch.eye(3, dtype=torch.float64))
    assert torch.equal(W12, 1.5 * torch.eye(3, dtype=torch.float64))
    assert layer.W_KQ.count_nonzero() + layer.W_PV.count_nonzero() == 6
    assert layer.ab.tolist() == [0.75] * 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dense(2)(torch.ones(1, 2, 2) + 0j), "T >= 3"),
        (lambda: dense(2)(torch.ones(1, 5, 3) + 0j), r"d = 2\], got \[1, 5, 3\]"),
        (lambda: dense(2)(torch.ones(0, 5, 2) + 0j), "N >= 1"),
        (lambda: dense(2)(torch.ones(1, 5, 2)), "want complex sequences"),
        (lambda: dense(2)(torch.full((1, 5, 2), torch.nan) + 0j), "finite"),
        (lambda: dense(2)(draw(1, 5, 2), impl="fast"), "want impl 'loop' or 'causal', got 'fast'"),
        (lambda: LinearSelfAttention(torch.ones(2, 3), torch.ones(4, 4)), r"W_PV \[d, 2d\]"),
        (lambda: LinearSelfAttention(torch.ones(1, 2), torch.ones(2, 2) / 0), "finite weights"),
        (lambda: LinearSelfAttention(torch.ones(1, 2), torch.ones(2, 2) + 0j), "one dtype"),
        (lambda: LinearSelfAttention.from_diagonal(0, 1.0, 1.0), "d >= 1"),
        (lambda: LinearSelfAttention.gaussian(0, 1.0, torch.Generator()), "d >= 1"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
