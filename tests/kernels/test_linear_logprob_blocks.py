"""What the form in blocks holds and computes, counted operation by operation."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from core.kernels import _linear_logprob_blocks as blocks
from core.kernels.linear_logprob import reference_logprob

N, D, V = 130, 8, 1000


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", {"cpu": (64, 64)})


class Largest(TorchDispatchMode):
    """The most numbers of any tensor that an operation made."""

    def __init__(self):
        super().__init__()
        self.numbers, self.flop = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor) and not x._is_view()]
        self.numbers = max([self.numbers, *(x.numel() for x in made)])
        if func._schema.name in ("aten::mm", "aten::addmm_"):
            a, b = args[-2:]
            self.flop += 2 * a.shape[0] * a.shape[1] * b.shape[1]
        return out


def cost(head):
    """Forward, and backward where a gradient is wanted: of hidden, or of all."""
    hidden, weight, bias = torch.randn(N, D), torch.randn(V, D), torch.randn(V)
    target, g = torch.randint(V, (N,)), torch.randn(N)
    with Largest() as largest:
        found = blocks.torch_logprob(hidden, weight, target, bias, frozen=head == "frozen")
        if head == "trained":
            given = hidden, weight, target, bias, *found[:2], g, g, [True, True, False]
            blocks.torch_gradients(*given)
    return largest


def test_no_more_than_a_block_of_logits_is_held():
    assert cost("none").numbers == 64 * 64
    assert cost("frozen").numbers == 64 * 64
    assert cost("trained").numbers == V * D  # the gradient of weight itself
    with Largest() as largest:
        reference_logprob(torch.randn(N, D), torch.randn(V, D), torch.zeros(N, dtype=torch.int64))
    assert largest.numbers == N * V


@pytest.mark.parametrize(("head", "times"), [("none", 2), ("frozen", 4), ("trained", 8)])
def test_a_frozen_head_takes_half_the_products_of_a_trained_one(head, times):
    assert cost(head).flop == times * N * D * V


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 129, 1000])
def test_parts_cover_everything_once_and_none_is_too_large(n):
    parts = list(blocks._parts(n, 128))
    assert [i for part in parts for i in range(n)[part]] == list(range(n))
    assert all(len(range(n)[part]) <= 128 for part in parts)


def test_at_the_size_of_a_language_model_scratch_is_a_hundredth_of_the_logits(monkeypatch):
    """LLaDA's vocabulary, 512 rows of which half are masked: the blocks in use, nothing is run."""
    monkeypatch.undo()
    rows, columns = (
        max(len(range(n)[part]) for part in blocks._parts(n, most))
        for n, most in zip((256, 126_464), blocks.BLOCK["cpu"], strict=True)
    )
    assert rows * columns <= 512 * 126_464 / 50


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_on_a_gpu_logits_are_float32_and_what_is_multiplied_is_not(dtype, monkeypatch):
    """Nothing runs, but the products that a GPU is asked for are seen."""
    seen = []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if func._schema.name in ("aten::mm", "aten::addmm_"):
                seen.append((*(x.dtype for x in args if isinstance(x, torch.Tensor)), out.dtype))
            return out

    monkeypatch.setattr(blocks, "LARGE", (64, 64))
    made = {"dtype": dtype, "device": "meta"}
    hidden, weight, bias = (torch.empty(*n, **made) for n in ((N, D), (V, D), (V,)))
    target = torch.empty(N, dtype=torch.int64, device="meta")
    with Products():
        _, lse, unit = blocks.torch_logprob(hidden, weight, target, bias, frozen=True)
        given = hidden, weight, target, bias, lse, lse, lse, lse, [True, True, True]
        found = blocks.torch_gradients(*given)
    assert (lse.dtype, unit.dtype) == (torch.float32, torch.float32)
    assert {x.dtype for x in found} == {dtype}
    assert {kinds[-1] for kinds in seen} == {torch.float32}
    assert all(kinds[-3:-1] == (dtype, dtype) for kinds in seen)
    assert len(seen) == 3 * 16 * (2 + 4)  # blocks; forward two products, backward four
