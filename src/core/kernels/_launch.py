"""One launch of a Triton kernel, as data: run it, or compile it ahead of time, from one place."""

from typing import Any, NamedTuple

import torch
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


def real_rows(x: Tensor) -> Tensor:
    """Return `[..., T, W]` as a kernel reads it: real, `[B, H, T, W]`, last stride 1.

    A complex number becomes two columns. A view where the strides allow it.
    """
    if x.is_complex():
        x = torch.view_as_real(x.resolve_conj()).flatten(-2)
    x = x.resolve_neg()
    x = x if x.stride(-1) == 1 else x.contiguous()
    return x.reshape(-1, x.shape[-3] if x.ndim > 2 else 1, *x.shape[-2:])


def compute_capability(device: torch.device) -> int:
    """Return 90 for 9.0; also where there is no GPU and the interpreter runs the kernel."""
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
