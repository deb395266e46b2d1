"""Size and move of an activation on a GPU: it is read once, and some numbers a program are written.

A program takes blocks of BLOCK numbers, and keeps a sum for each place of a block; torch adds up
the programs. No atomics: equal inputs give equal bits.
"""

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from core.kernels._launch import Example, Launch
from core.kernels.activation_stats import in_order, joined

BLOCK = 4096
"""Numbers that a program reads at once, of each of the two."""
WAVES = 4
"""Programs a processor, at most."""
PROCESSORS = 132
"""Where there is no GPU to ask."""
_TRITON = {torch.float32: tl.float32, torch.float64: tl.float64}


@triton.jit
def _stats_kernel(
    x_ptr, x0_ptr, parts_ptr, n, blocks,
    MOVED: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    # one program: `blocks` blocks that lie side by side
    program = tl.program_id(0).to(tl.int64)
    size = tl.zeros([BLOCK], ACC)
    square = tl.zeros([BLOCK], ACC)
    most = tl.zeros([BLOCK], ACC)
    moved = tl.zeros([BLOCK], ACC)
    for block in range(0, blocks):
        i = (program * blocks + block) * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + i, mask=i < n, other=0.0).to(ACC)
        size += tl.abs(x)
        square += x * x
        most = tl.maximum(most, tl.abs(x))
        if MOVED:
            moved += tl.abs(x - tl.load(x0_ptr + i, mask=i < n, other=0.0).to(ACC))
    to = parts_ptr + program * (4 if MOVED else 3)
    total = tl.sum(size, axis=0)
    tl.store(to, total)
    tl.store(to + 1, tl.sum(square, axis=0))
    # a maximum would lose a nan, which the sum of sizes has kept: it is nan if one of them is
    tl.store(to + 2, tl.where(total == total, tl.max(most, axis=0), total))
    if MOVED:
        tl.store(to + 3, tl.sum(moved, axis=0))


def triton_stats(x: Tensor, x0: Tensor | None, acc: torch.dtype) -> Tensor:
    """Return the numbers, `[3 or 4]`; there is one number at least."""
    with torch.cuda.device_of(x):
        launch, parts = _launch(*in_order(x, x0), acc)
        launch.run()
        return joined(parts)


def _launch(x: Tensor, x0: Tensor | None, acc: torch.dtype) -> tuple[Launch, Tensor]:
    """Return the launch for one dimension, and what it fills: the numbers of each program."""
    n, processors = x.numel(), PROCESSORS
    if x.is_cuda:
        processors = torch.cuda.get_device_properties(x.device).multi_processor_count
    blocks = triton.cdiv(triton.cdiv(n, BLOCK), WAVES * processors)
    programs = triton.cdiv(n, BLOCK * blocks)
    parts = torch.empty(programs, 3 if x0 is None else 4, dtype=acc, device=x.device)
    arguments = {"x_ptr": x, "x0_ptr": x0, "parts_ptr": parts, "n": n, "blocks": blocks}
    constants = {"MOVED": x0 is not None, "BLOCK": BLOCK, "ACC": _TRITON[acc]}
    return Launch(_stats_kernel, programs, arguments, constants, 16, 1), parts


def examples(arch: int) -> Iterator[Example]:
    """Yield launches as they are on a GPU of any compute capability."""
    half, full = torch.bfloat16, torch.float32
    for name, dtype, other in (
        ("x alone", half, None),
        ("x alone", full, None),
        ("x and x0", half, half),
        ("x and x0", torch.float16, torch.float16),
        ("x and x0", full, full),
        ("x0 in bfloat16", full, half),
    ):
        x = torch.empty(256 * 256 * 1152, dtype=dtype, device="meta")
        x0 = None if other is None else torch.empty_like(x, dtype=other)
        launch, _ = _launch(x, x0, full)
        kind = str(dtype).removeprefix("torch.")
        yield Example("activation_stats", name, kind, launch, False)
