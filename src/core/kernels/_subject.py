"""What a bench has to know about an op: its cases, its truth, its peers.

An op `<op>` has a bench when `core/kernels/<op>_bench.py` holds a `Subject` under the name BENCH.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.kernels._choice import explain

HERE = Path(__file__).parent

Results = tuple[Tensor, ...]
"""What a call returned, then, after a backward pass, the gradient of each input that wants one."""


@dataclass(frozen=True)
class Case:
    """One thing to measure."""

    name: str
    shape: Mapping[str, int]
    """Axis letter -> length."""
    dtype: torch.dtype
    backward: bool
    """Whether gradients belong to it; the forward pass does in any case."""
    flop: float
    """Real operations that it takes at the least; a complex multiply-add counts as 8."""
    bytes: float
    """Bytes that it moves at the least: inputs read once, outputs written once."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the op, and of each peer."""
    most: float = inf
    """The largest relative error that is allowed, whatever the formula's own error is."""
    fixed: frozenset[int] = frozenset()
    """Which inputs, counted from 0, want no gradient though they could have one."""

    @property
    def way(self) -> str:
        """Return "forward" or "forward + backward"."""
        return "forward + backward" if self.backward else "forward"

    def __str__(self) -> str:
        """Return what tells it from all others, on one line."""
        shape = ", ".join(f"{axis} = {n}" for axis, n in self.shape.items())
        return f"{self.name}, {name_of(self.dtype)}, {self.way}, {shape}"


@dataclass(frozen=True)
class Peer:
    """Another way to compute the same; the functions say why it does not run, or None."""

    call: Callable[..., Tensor | Results]
    """Takes what the op takes, without `impl`."""
    what: str
    """What is compared, in a few words."""
    missing: Callable[[str], str | None] = lambda device: None
    """Takes a type of device."""
    limit: Callable[[Case], str | None] = lambda case: None
    scratch: Callable[[Case], float] = lambda case: 0.0
    """Bytes that it holds beside inputs and outputs, about: a case that has no room is left out."""
    arrange: Callable[[Tensor], Tensor] = lambda x: x
    """Brings inputs, and the truth, into its memory layout; not part of its time."""
    package: str | None = None
    """The distribution that it comes from, whose version is recorded."""


@dataclass(frozen=True)
class Subject:
    """An op to be measured."""

    op: Callable[..., Tensor | Results]
    cases: Callable[[str], list[Case]]
    """Takes a type of device."""
    draw: Callable[[Case, str], tuple[Results, Any]]
    """Returns the inputs, and the gradient that comes back to the output, or to each of them."""
    formula: Callable[[Case, Results, Any], Results]
    """The definition, in the precision of the inputs it is given."""
    peers: Mapping[str, Peer]
    call: Callable[..., Tensor | Results] | None = None
    """What is timed, where that is more than the op: it takes the inputs, and calls the op."""
    given: Callable[..., Results] = lambda *inputs: inputs
    """Takes the inputs, returns what the op is given of them."""

    def serves(self, case: Case, inputs: Results) -> str:
        """Return which implementation of the op serves a case."""
        return explain(self.op, *self.given(*inputs), **case.options).chosen


def found() -> list[str]:
    """Return the ops that have a bench."""
    return sorted(path.stem.removesuffix("_bench") for path in HERE.glob("*_bench.py"))


def load(op: str) -> Subject:
    """Return the bench of an op.

    Raises:
        ValueError: it has none.
    """
    if op not in found():
        raise ValueError(f"want an op that has a bench ({', '.join(found())}), got {op!r}")
    return import_module(f"core.kernels.{op}_bench").BENCH


def results(
    call: Callable[..., Tensor | Results], inputs: Results, g: Tensor | Results, case: Case
) -> Results:
    """Run a call forward, and backward where the case has that."""
    if not case.backward:
        with torch.no_grad():
            return all_of(call(*inputs, **case.options))
    wanted = [_differentiable(x) and i not in case.fixed for i, x in enumerate(inputs)]
    inputs = tuple(x.detach().requires_grad_(want) for x, want in zip(inputs, wanted, strict=True))
    out, back = all_of(call(*inputs, **case.options)), all_of(g)
    return *out, *torch.autograd.grad(out, [x for x in inputs if x.requires_grad], back)


def all_of(x: Tensor | Results) -> Results:
    """Return one tensor, or several, as several."""
    return x if isinstance(x, tuple) else (x,)


def name_of(dtype: torch.dtype) -> str:
    """Return "float32" for torch.float32."""
    return str(dtype).removeprefix("torch.")


def _differentiable(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()
