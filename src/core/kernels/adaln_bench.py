"""What the bench of adaln measures: shapes, floors, peers.

An activation has N = B T D numbers, a vector B D. Floors: the bytes of

    first norm        forward    2 N    x read, y written
                      backward   4 N    x, u, v read, dx written
    gated residual    forward    4 N    x, h read, x' and y written
                      backward   6 N    x', h, u, v read, dx, dh written

and of the vectors, read in both passes, their gradients written; against them the operations (9 and
17 a number with a residual, 7 and 13 without) never count.
"""

import shutil
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from core.kernels._subject import Case, Peer, Results, Subject, results
from core.kernels.adaln import adaln, reference_adaln


def cases(device: str) -> list[Case]:
    """Return what is measured: DiT-XL/2 at 256 x 256 pixels, 8 images on a CPU, 256 on a GPU."""
    gpu = device == "cuda"
    shape = {"B": 256 if gpu else 8, "T": 256, "D": 1152}
    dtypes = (torch.bfloat16, torch.float32) if gpu else (torch.float32,)
    return [
        case(name, shape, dtype, backward)
        for dtype in dtypes
        for name in ("first norm", "gated residual")
        for backward in (False, True)
    ]


def case(name: str, shape: dict[str, int], dtype: torch.dtype, backward: bool) -> Case:
    """Return a case with its floors.

    Args:
        name: "first norm" or "gated residual".
        shape: B, T, D.
        dtype: of all tensors.
        backward: whether gradients belong to it.
    """
    N, vector, gated = prod(shape.values()), shape["B"] * shape["D"], name == "gated residual"
    numbers = (4 if gated else 2) * N + (3 if gated else 2) * vector
    flop = (9 if gated else 7) * N
    if backward:
        # shift is not read again; one gradient for each vector
        numbers += (6 if gated else 4) * N + (5 if gated else 3) * vector
        flop += (17 if gated else 13) * N
    return Case(name, shape, dtype, backward, float(flop), float(numbers * dtype.itemsize))


def draw(case: Case, device: str) -> tuple[Results, Results]:
    """Return x, shift, scale, perhaps branch and gate; then u and v; the same at every call."""
    generator = torch.Generator(device).manual_seed(1)
    made: dict[str, Any] = {"dtype": case.dtype, "device": device, "generator": generator}
    B, T, D = case.shape.values()
    x, h, u, v = torch.randn(4, B, T, D, **made)
    # as a model has them: parts of one row a sample
    b, s, g, *_ = torch.randn(B, 6 * D, **made).chunk(6, dim=1)
    return ((x, b, s, h, g) if case.name == "gated residual" else (x, b, s)), (u, v)


def formula(case: Case, inputs: Results, g: Tensor | Results) -> Results:
    """Return the definition's results and autograd's gradients."""
    return results(plain, inputs, g, case)


def ours(x: Tensor, shift: Tensor, scale: Tensor, *residual: Tensor) -> Results:
    """Return the op's results."""
    return adaln(x, shift, scale, **dict(zip(("branch", "gate"), residual, strict=False)))


def plain(x: Tensor, shift: Tensor, scale: Tensor, *residual: Tensor) -> Results:
    """Return those of its formula."""
    return reference_adaln(x, shift, scale, **dict(zip(("branch", "gate"), residual, strict=False)))


def eager(x: Tensor, shift: Tensor, scale: Tensor, *residual: Tensor) -> Results:
    """Return the same as diffusers writes it."""
    if residual:
        h, gate = residual
        x = gate.unsqueeze(1) * h + x
    n = torch.nn.functional.layer_norm(x, x.shape[-1:], eps=1e-6)
    return x, n * (1 + scale[:, None]) + shift[:, None]


@cache
def _compiled() -> Any:
    return torch.compile(eager, dynamic=False)


def compiled(x: Tensor, shift: Tensor, scale: Tensor, *residual: Tensor) -> Results:
    """Return the same, compiled by torch."""
    return _compiled()(x, shift, scale, *residual)


def _compiler_missing(device: str) -> str | None:
    if device == "cpu" and not any(map(shutil.which, ("g++", "clang++"))):
        return "needs a C++ compiler: install g++"
    return None


def _scratch(case: Case) -> float:
    """A product, a norm, and as much again for gradients."""
    return (4 if case.backward else 2) * prod(case.shape.values()) * float(case.dtype.itemsize)


BENCH = Subject(
    adaln,
    cases,
    draw,
    formula,
    call=ours,
    given=lambda *inputs: inputs[:3],
    peers={
        "eager": Peer(eager, "as diffusers writes it, gradients by autograd", scratch=_scratch),
        "torch.compile": Peer(compiled, "the same, compiled", missing=_compiler_missing),
    },
)
