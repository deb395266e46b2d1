"""What the bench of linear log-probabilities measures: shapes, floors, peers.

The inputs are all rows, as a model returns them, and which of them are masked. Whoever computes
only those gathers them within the time that is measured. Floors, for n masked rows:

    forward                           2 n D V    hidden, weight, target read, n numbers written
    forward + backward, frozen head   4 n D V    the same, then g read and dh written
    forward + backward, trained head  6 n D V    the same, and dW written

That the trained head forms its logits a second time, which is how it does without keeping them, is
not counted: a floor must not be too high.
"""

from collections.abc import Callable
from importlib.util import find_spec
from math import inf
from typing import Any

import torch
from torch import Tensor

from core.kernels._subject import Case, Peer, Results, Subject
from core.kernels.linear_logprob import linear_logprob, reference_logprob

LOGITS = 2**30
"""Logits that the formula holds at once."""


def cases(device: str) -> list[Case]:
    """Return what is measured: the head of LLaDA-8B on a GPU, one of width 256 on a CPU."""
    gpu = device == "cuda"
    shape = {"rows": 16_384, "masked": 8192, "D": 4096, "V": 126_464}
    if not gpu:
        shape = {"rows": 512, "masked": 256, "D": 256, "V": 126_464}
    dtype = torch.bfloat16 if gpu else torch.float32
    ways = (("likelihood", False), ("frozen head", True), ("trained head", True))
    return [
        case(name, shape, dtype, backward, most=inf if gpu else 1e-6) for name, backward in ways
    ]


def case(
    name: str, shape: dict[str, int], dtype: torch.dtype, backward: bool, *, most: float = inf
) -> Case:
    """Return a case with its floors.

    Args:
        name: "likelihood", "frozen head" or "trained head".
        shape: rows, masked, D, V.
        dtype: of hidden and weight.
        backward: whether gradients belong to it.
        most: the largest relative error allowed.
    """
    n, D, V = (shape[axis] for axis in ("masked", "D", "V"))
    trained = name == "trained head"
    products = 1 + backward + (backward and trained)
    numbers = (n * D + V * D) + backward * n * D + (backward and trained) * V * D
    return Case(
        name,
        shape,
        dtype,
        backward,
        flop=2.0 * products * n * D * V,
        bytes=float(numbers * dtype.itemsize + n * (8 + 4 + 4 * backward)),
        most=most,
        fixed=frozenset() if trained else frozenset({1}),
    )


def draw(case: Case, device: str) -> tuple[Results, Tensor]:
    """Return hidden, weight, target, the masked rows, and g; logits are normal."""
    generator = torch.Generator(device).manual_seed(1)
    made: dict[str, Any] = {"device": device, "generator": generator}
    rows, n, D, V = case.shape.values()
    hidden = torch.randn(rows, D, dtype=case.dtype, **made)
    weight = torch.randn(V, D, dtype=case.dtype, **made).div_(D**0.5)
    target = torch.randint(V, (rows,), **made)
    masked = torch.randperm(rows, **made)[:n].sort().values
    g = torch.randn(n, dtype=torch.promote_types(case.dtype, torch.float32), **made)
    return (hidden, weight, target, masked), g


def formula(case: Case, inputs: Results, g: Tensor) -> Results:
    """Return the definition's results and autograd's gradients, some rows at a time."""
    hidden, weight, target, masked = inputs
    hidden = hidden.detach().requires_grad_(case.backward)
    weight = weight.detach().requires_grad_(case.backward and 1 not in case.fixed)
    logp = []
    at_once = max(1, LOGITS // len(weight))
    for rows, back in zip(masked.split(at_once), g.split(at_once), strict=True):
        here, _ = reference_logprob(hidden[rows], weight, target[rows])
        logp.append(here.detach())
        if case.backward:
            here.backward(back.to(here.dtype))
    leaves = [x for x in (hidden, weight) if x.requires_grad]
    return torch.cat(logp), *(x.grad for x in leaves if x.grad is not None)


def ours(hidden: Tensor, weight: Tensor, target: Tensor, masked: Tensor) -> Tensor:
    """Return the op's result on the masked rows."""
    return linear_logprob(*_gathered(hidden, weight, target, masked))


def public(hidden: Tensor, weight: Tensor, target: Tensor, masked: Tensor) -> Tensor:
    """Return what public evaluation code does: the logits of all rows, then those that count."""
    logits = hidden @ weight.T
    return -_cross_entropy(logits[masked], target[masked])


def rows_first(hidden: Tensor, weight: Tensor, target: Tensor, masked: Tensor) -> Tensor:
    """Return the same from the logits of the masked rows."""
    return -_cross_entropy(hidden[masked] @ weight.T, target[masked])


def liger(hidden: Tensor, weight: Tensor, target: Tensor, masked: Tensor) -> Tensor:
    """Return what Liger does for a loss of each token: on Hopper its CuTe kernel, else torch."""
    from liger_kernel.ops import (  # type: ignore[import-not-found]
        fused_linear_scaled_cross_entropy as module,
    )

    function = module.LigerFusedLinearScaledCrossEntropyFunction
    return -function.apply(*_gathered(hidden, weight, target, masked))


def liger_triton(hidden: Tensor, weight: Tensor, target: Tensor, masked: Tensor) -> Tensor:
    """Return what Liger's Triton kernel does."""
    from liger_kernel.ops import (  # type: ignore[import-not-found]
        fused_linear_cross_entropy as module,
    )

    given = _gathered(hidden, weight, target, masked)
    options = (None, None, -100, 0.0, 0.0, "none")  # bias, ..., reduction
    return -module.LigerFusedLinearCrossEntropyFunction.apply(*given, *options)[0].float()


def cce(hidden: Tensor, weight: Tensor, target: Tensor, masked: Tensor) -> Tensor:
    """Return what cut-cross-entropy does: its kernel with exact gradients, or compiled torch."""
    return _cce(hidden, weight, target, masked, filter_eps=None)


def cce_filtered(hidden: Tensor, weight: Tensor, target: Tensor, masked: Tensor) -> Tensor:
    """Return the same with its default: gradients of small probabilities are left out."""
    return _cce(hidden, weight, target, masked, filter_eps="high")


def _cce(hidden: Tensor, weight: Tensor, *others: Tensor, filter_eps: str | None) -> Tensor:
    from cut_cross_entropy import linear_cross_entropy  # type: ignore[import-not-found]

    options = {"impl": "cce", "filter_eps": filter_eps}
    if not hidden.is_cuda:
        options = {"impl": "torch_compile"}
    given = _gathered(hidden, weight, *others)
    return -linear_cross_entropy(*given, reduction="none", **options).float()


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return it for each row, in the dtype of the logits; then float32, as all results are."""
    nll = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    return nll.to(torch.promote_types(nll.dtype, torch.float32))


def _gathered(hidden: Tensor, weight: Tensor, target: Tensor, masked: Tensor) -> Results:
    return hidden[masked], weight, target[masked]


def _needs(module: str, package: str, *, cuda: bool = False) -> Callable[[str], str | None]:
    """Return what says why a package cannot be compared with."""

    def missing(device: str) -> str | None:
        if cuda and device != "cuda":
            return "needs CUDA: take --device cuda, on a machine that has it"
        return None if find_spec(module) else f"not installed: pip install --no-deps {package}"

    return missing


def _logits(axis: str) -> Callable[[Case], float]:
    """Return the scratch of whoever holds the logits of so many rows, and those that count."""

    def scratch(case: Case) -> float:
        held = case.shape[axis] + 2 * case.shape["masked"]
        return (1.0 + case.backward) * held * case.shape["V"] * case.dtype.itemsize

    return scratch


BENCH = Subject(
    linear_logprob,
    cases,
    draw,
    formula,
    call=ours,
    given=_gathered,
    peers={
        "public": Peer(
            public,
            "logits of all rows, then those that count: public code",
            scratch=_logits("rows"),
        ),
        "rows first": Peer(rows_first, "logits of the masked rows", scratch=_logits("masked")),
        "liger": Peer(
            liger,
            "its loss of each token: CuTe on Hopper, chunks of torch elsewhere",
            package="liger-kernel",
            missing=_needs("liger_kernel", "liger-kernel"),
        ),
        "liger, Triton": Peer(
            liger_triton,
            "its default kernel, reduction='none'",
            package="liger-kernel",
            missing=_needs("liger_kernel", "liger-kernel", cuda=True),
        ),
        "cce": Peer(
            cce,
            "cut-cross-entropy with exact gradients; on a CPU its torch.compile form",
            package="cut-cross-entropy",
            missing=_needs("cut_cross_entropy", "cut-cross-entropy"),
        ),
        "cce, filtered": Peer(
            cce_filtered,
            "its default: gradients of small probabilities left out",
            package="cut-cross-entropy",
            missing=_needs("cut_cross_entropy", "cut-cross-entropy", cuda=True),
        ),
    },
)
