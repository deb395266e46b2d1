"""One launch of a Triton kernel, as data: run it, or compile it ahead of time, from one place."""

from typing import Any, NamedTuple

from torch import Tensor


class Launch(NamedTuple):
    """Everything that Triton is told when a kernel is launched."""

    kernel: Any
    """The `triton.jit` function."""
    programs: int
    """How many programs run, all along grid axis 0 (the others end at 65,535)."""
    arguments: dict[str, Tensor | int | float | None]
    """The kernel's run-time arguments, by name; None where a pointer is not used."""
    constants: dict[str, Any]
    """Its `tl.constexpr` arguments, by name."""
    warps: int
    stages: int
    """Depth of software pipelining."""

    def run(self) -> None:
        """Launch it on the current device."""
        self.kernel[(self.programs,)](
            **self.arguments, **self.constants, num_warps=self.warps, num_stages=self.stages
        )


class Example(NamedTuple):
    """A launch to compile ahead of time: made from `meta` tensors by the code that launches.

    `<op>_triton.examples(arch)` yields them, for a compute capability such as 90.
    """

    op: str
    case: str
    """What is special about it, for a reader: "real, D = M = 64, backward in time"."""
    dtype: str
    """Of the op's tensors: "bfloat16", ..."""
    launch: Launch
    tensor_cores: bool
    """Whether its products have to run on tensor cores."""
