r"""How large an activation is, and how far it moved, in one pass: numbers that stay where it is.

    sum |x_i|      sum x_i^2      max |x_i|      sum |x_i - x0_i|

over all N numbers of x, the last if x0 is given: a coordinate check records such numbers of every
module at every step. Written in torch each of the four reads x, writes what it sums, an array as
large, and reads that again: 9 N numbers moved, 15 N with x0. At the least x and x0 are read, N and
2 N.

The result is a small tensor on the device of x. Nothing waits for it: who reads many of them can
stack them, and transfer once.
"""

from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from core.kernels._choice import Impl, Op
from core.kernels._launch import device_limit

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
BLOCK = 2**16
"""Numbers of a block of the torch form on a CPU: what is made of it stays in a core's cache."""


def activation_stats(x: Tensor, x0: Tensor | None = None, *, impl: Impl = "auto") -> Tensor:
    """Return sum |x|, sum x^2, max |x|, and sum |x - x0| if x0 is given.

    Summed in float32, in float64 where x or x0 has it. A nan makes all of them nan but the sum that
    lacks it. The result carries no gradient, whatever x does.

    Args:
        x: any shape, bfloat16, float16, float32 or float64; any strides, and no numbers at all give
            zeros.
        x0: of the same shape, on the same device; its dtype may differ.
        impl: `"reference"` (one operation after the other), `"torch"` (on a CPU, blocks that stay
            in its cache), `"triton"` (a GPU kernel), or `"auto"`, see `core.kernels`.

    Returns:
        `[3]` or, with x0, `[4]`, float32 or float64, on the device of x. sum x^2 is infinite where
        it passes the end of the dtype.

    Raises:
        ValueError: shapes, dtypes or devices do not agree, or `impl` is unknown or cannot serve.
        ImportError: Triton is asked for and not installed.
    """
    tensors = _check(x, x0)
    impl = OP.choose(impl, *tensors)  # type: ignore[assignment]
    return _op(x.detach(), None if x0 is None else x0.detach(), impl)


def reference_stats(x: Tensor, x0: Tensor | None = None) -> Tensor:
    """Do what `activation_stats` says as it is written."""
    acc = _acc(x, x0)
    x = x.to(acc)
    size = x.abs()
    found = [size.sum(), x.square().sum(), size.amax() if x.numel() else size.sum()]
    if x0 is not None:
        found.append((x - x0.to(acc)).abs().sum())
    return torch.stack(found)


def blocked_stats(x: Tensor, x0: Tensor | None = None) -> Tensor:
    """Do the same block by block."""
    acc, (x, x0) = _acc(x, x0), in_order(x, x0)
    found = []
    pieces = zip(x.split(BLOCK), repeat(None) if x0 is None else x0.split(BLOCK), strict=False)
    for xi, yi in pieces:
        xi = xi.to(acc)
        a = xi.abs()
        sizes, most = a.sum(), a.amax()
        parts = [sizes, torch.mul(xi, xi, out=a).sum(), most]
        if yi is not None:
            parts.append(torch.sub(xi, yi.to(acc), out=a).abs_().sum())
        found.append(torch.stack(parts))
    return joined(torch.stack(found))


def joined(parts: Tensor) -> Tensor:
    """Return `[3 or 4]` from the numbers of all parts, `[parts, 3 or 4]`."""
    whole = parts.sum(0)
    whole[2] = parts[:, 2].amax()
    return whole


def in_order(x: Tensor, x0: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return both in one dimension, in the order in which x lies in memory: mostly no copy."""
    axes = sorted(range(x.ndim), key=x.stride, reverse=True)
    flat = x.permute(axes).contiguous().view(-1)
    return flat, None if x0 is None else x0.permute(axes).contiguous().view(-1)


def _acc(x: Tensor, x0: Tensor | None) -> torch.dtype:
    acc = torch.promote_types(x.dtype, torch.float32)
    return acc if x0 is None else torch.promote_types(acc, x0.dtype)


def _check(x: Tensor, x0: Tensor | None = None) -> tuple[Tensor, ...]:
    """Return the tensors, or raise a ValueError that says how they disagree."""
    given = (x,) if x0 is None else (x, x0)
    names = "x" if x0 is None else "x and x0"
    for t in given:
        if not isinstance(t, Tensor) or t.layout != torch.strided:
            found = f"layout {t.layout}" if isinstance(t, Tensor) else type(t).__name__
            raise ValueError(f"want {names} as dense tensors, got {found}")
        if t.dtype not in DTYPES:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
            raise ValueError(f"want {names} of dtypes among {known}, got {t.dtype}")
    if x0 is not None and x.shape != x0.shape:
        raise ValueError(f"want x0 of the shape of x, got {list(x0.shape)} and {list(x.shape)}")
    if x0 is not None and x.device != x0.device:
        raise ValueError(f"want x and x0 on one device, got {x.device} and {x0.device}")
    return given


def _triton_limit(x: Tensor, *others: Tensor) -> str | None:
    return device_limit(x.device, _acc(x, *others) if others else _acc(x, None))


OP = Op("activation_stats", _check, {"triton": _triton_limit})


_LIBRARY = torch.library.Library("core_kernels", "FRAGMENT")
_LIBRARY.define("activation_stats(Tensor x, Tensor? x0, str impl) -> Tensor")


def _run(x: Tensor, x0: Tensor | None, impl: str) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        if x.numel() == 0 or impl == "reference":
            return reference_stats(x, x0)
        if impl == "triton":
            from core.kernels.activation_stats_triton import triton_stats

            return triton_stats(x, x0, _acc(x, x0))
        return blocked_stats(x, x0) if x.device.type == "cpu" else reference_stats(x, x0)


def _fake(x: Tensor, x0: Tensor | None, impl: str) -> Tensor:
    return torch.empty(3 if x0 is None else 4, dtype=_acc(x, x0), device=x.device)


_LIBRARY.impl("activation_stats", _run, "CompositeExplicitAutograd")
torch.library.register_fake("core_kernels::activation_stats", _fake, lib=_LIBRARY)
_op: Any = torch.ops.core_kernels.activation_stats.default
