"""One launch of a Triton kernel, as data: run it, or compile it ahead of time, from one place."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from core.kernels._choice import constant


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
    wide: bool = False
    """Whether accesses have to be 16 bytes wide, where the shapes of its tensors do not say so."""


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


@constant
def device_limit(device: torch.device, acc: torch.dtype | None = None) -> str | None:
    """Return why a Triton kernel cannot serve tensors on this device, None if it can.

    Args:
        device: of the tensors.
        acc: what a kernel computes in that has no form for float64 on a GPU.
    """
    arch = compute_capability(device)
    if not 80 <= arch < 120:
        name = torch.cuda.get_device_name(device)
        return (
            "impl='triton' wants compute capability 8.0 to 11.x, for which it is compiled and "
            f"read, got {arch / 10} ({name}): take impl='torch'"
        )
    if acc == torch.float64 and device.type == "cuda":
        return "impl='triton' wants at most 32 bits on a GPU, got float64: take impl='torch'"
    return None
