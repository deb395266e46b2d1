"""Short attention on a GPU: each row is read where it lies, once, and no score leaves its program.

A program has as many whole sequences as fit into a tile of 16 rows, the least that tensor cores
multiply (32 where a sequence has more frames than 16), and forms the scores of all pairs of rows;
those between sequences are thrown away. Sequences are counted heads first, so that programs side by
side read what is side by side. Backward forms the scores again and has all three gradients in the
same tile: no sums between programs, no atomics, and equal inputs give equal bits.

Scores, their softmax and all sums are in float32 (float64 for float64, which only the interpreter
is given). The symbols are those of `core.kernels.short_attention`.
"""

from collections.abc import Iterator
from math import gcd
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from core.kernels._choice import triton_interprets
from core.kernels._launch import Example, Launch

LOG2_E = 1.4426950408889634
_TRITON = {torch.float32: tl.float32, torch.float64: tl.float64}


# --- on the GPU -------------------------------------------------------------------------------


@triton.jit
def _dot(a, b, ACC: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr):
    # the interpreter multiplies the bits of bfloat16, not the numbers, and does not say so
    if INTERPRETED and a.dtype == tl.bfloat16:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), out_dtype=ACC)
    if a.dtype == tl.float32 and PRECISION == "ieee":  # float16, widened
        return tl.dot(a, b, input_precision="tf32", out_dtype=ACC)
    return tl.dot(a, b, input_precision=PRECISION, out_dtype=ACC)


@triton.jit
def _places(F, N, H, sequences, ROWS: tl.constexpr):
    # of each row of the tile: the sequence that it belongs to, whether there is one, and where
    r = tl.arange(0, ROWS)
    own = r // F
    sequence = tl.program_id(0) * (ROWS // F) + own
    here = (own < ROWS // F) & (sequence < sequences)
    h = sequence % H
    place = sequence // H
    b, n = place // N, place % N
    return own, here, b.to(tl.int64), (r % F).to(tl.int64), n.to(tl.int64), h.to(tl.int64)


@triton.jit
def _rows(ptr, b, f, n, h, x_b, x_f, x_n, x_h, EVEN: tl.constexpr):
    # pointers to the rows; every stride is a multiple of EVEN, which a compiler cannot know
    return ptr + tl.multiple_of(b * x_b + f * x_f + n * x_n + h * x_h, EVEN)[:, None]


@triton.jit
def _probabilities(
    q, k, own, factor, ACC: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr
):
    s = _dot(q, tl.trans(k), ACC, PRECISION, INTERPRETED) * factor
    s = tl.where(own[:, None] == own[None, :], s, -float("inf"))
    p = tl.exp2(s - tl.max(s, axis=1)[:, None])
    return p / tl.sum(p, axis=1)[:, None]


@triton.jit
def _forward_kernel(
    q_ptr, k_ptr, v_ptr, o_ptr,
    q_b, q_f, q_n, q_h, k_b, k_f, k_n, k_h, v_b, v_f, v_n, v_h, o_b, o_f, o_n, o_h,
    F, N, H, sequences, scale,
    D: tl.constexpr, D_BLOCK: tl.constexpr, ROWS: tl.constexpr, EVEN: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    own, here, b, f, n, h = _places(F, N, H, sequences, ROWS)
    d = tl.arange(0, D_BLOCK)[None, :]
    there = here[:, None] & (d < D)
    q = tl.load(_rows(q_ptr, b, f, n, h, q_b, q_f, q_n, q_h, EVEN) + d, mask=there, other=0.0)
    k = tl.load(_rows(k_ptr, b, f, n, h, k_b, k_f, k_n, k_h, EVEN) + d, mask=there, other=0.0)
    v = tl.load(_rows(v_ptr, b, f, n, h, v_b, v_f, v_n, v_h, EVEN) + d, mask=there, other=0.0)
    p = _probabilities(q, k, own, scale * 1.4426950408889634, ACC, PRECISION, INTERPRETED)
    o = _dot(p.to(v.dtype), v, ACC, PRECISION, INTERPRETED)
    o_ptrs = _rows(o_ptr, b, f, n, h, o_b, o_f, o_n, o_h, EVEN) + d
    tl.store(o_ptrs, o.to(o_ptr.dtype.element_ty), mask=there)


@triton.jit
def _backward_kernel(
    q_ptr, k_ptr, v_ptr, g_ptr, dq_ptr, dk_ptr, dv_ptr,
    q_b, q_f, q_n, q_h, k_b, k_f, k_n, k_h, v_b, v_f, v_n, v_h, g_b, g_f, g_n, g_h,
    o_b, o_f, o_n, o_h, F, N, H, sequences, scale,
    D: tl.constexpr, D_BLOCK: tl.constexpr, ROWS: tl.constexpr, EVEN: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    own, here, b, f, n, h = _places(F, N, H, sequences, ROWS)
    d = tl.arange(0, D_BLOCK)[None, :]
    there = here[:, None] & (d < D)
    q = tl.load(_rows(q_ptr, b, f, n, h, q_b, q_f, q_n, q_h, EVEN) + d, mask=there, other=0.0)
    k = tl.load(_rows(k_ptr, b, f, n, h, k_b, k_f, k_n, k_h, EVEN) + d, mask=there, other=0.0)
    v = tl.load(_rows(v_ptr, b, f, n, h, v_b, v_f, v_n, v_h, EVEN) + d, mask=there, other=0.0)
    g = tl.load(_rows(g_ptr, b, f, n, h, g_b, g_f, g_n, g_h, EVEN) + d, mask=there, other=0.0)
    p = _probabilities(q, k, own, scale * 1.4426950408889634, ACC, PRECISION, INTERPRETED)
    u = tl.where(own[:, None] == own[None, :], _dot(g, tl.trans(v), ACC, PRECISION, INTERPRETED), 0)
    u = p * (u - tl.sum(p * u, axis=1)[:, None])
    if WIDE:
        q, k, g = q.to(ACC), k.to(ACC), g.to(ACC)
    p, u = p.to(g.dtype), u.to(g.dtype)
    out = _rows(dq_ptr, b, f, n, h, o_b, o_f, o_n, o_h, EVEN) + d
    dq = _dot(u, k, ACC, PRECISION, INTERPRETED) * scale
    tl.store(out, dq.to(dq_ptr.dtype.element_ty), mask=there)
    out = _rows(dk_ptr, b, f, n, h, o_b, o_f, o_n, o_h, EVEN) + d
    dk = _dot(tl.trans(u), q, ACC, PRECISION, INTERPRETED) * scale
    tl.store(out, dk.to(dk_ptr.dtype.element_ty), mask=there)
    out = _rows(dv_ptr, b, f, n, h, o_b, o_f, o_n, o_h, EVEN) + d
    dv = _dot(tl.trans(p), g, ACC, PRECISION, INTERPRETED)
    tl.store(out, dv.to(dv_ptr.dtype.element_ty), mask=there)


# --- on the host ------------------------------------------------------------------------------


def triton_short_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, o: Tensor) -> Tensor:
    """Fill and return o; no dimension is zero."""
    with torch.cuda.device_of(q):
        _forward(q, k, v, scale, o).run()
    return o


def triton_gradients(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, scale: float, out: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Fill and return dq, dk, dv, which are contiguous; no dimension is zero."""
    with torch.cuda.device_of(q):
        _backward(q, k, v, g, scale, out).run()
    return out


def _forward(q: Tensor, k: Tensor, v: Tensor, scale: float, o: Tensor) -> Launch:
    return _launch(_forward_kernel, {"q": q, "k": k, "v": v}, {"o": o}, scale)


def _backward(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, scale: float, out: tuple[Tensor, ...]
) -> Launch:
    # float16 ends at 65,504 and at 6e-8: gradients may pass that on their way; tf32 is as precise,
    # and as wide as float32
    written = dict(zip(("dq", "dk", "dv"), out, strict=True))
    read = {"q": q, "k": k, "v": v, "g": g}
    return _launch(_backward_kernel, read, written, scale, WIDE=q.dtype == torch.float16)


def _launch(
    kernel: Any, read: dict[str, Tensor], written: dict[str, Tensor], scale: float, **flags: bool
) -> Launch:
    B, F, N, H, D = read["q"].shape
    read = {name: x if x.stride(-1) == 1 else x.contiguous() for name, x in read.items()}
    strided = read | {"o": next(iter(written.values()))}
    strides = {
        f"{name}_{axis}": x.stride(i)
        for name, x in strided.items()
        for i, axis in enumerate("bfnh")
    }
    sequences, dtype = B * N * H, read["q"].dtype
    tile = _tile(F, D, dtype)
    acc = torch.promote_types(dtype, torch.float32)
    return Launch(
        kernel=kernel,
        programs=triton.cdiv(sequences, tile.ROWS // F),
        arguments={f"{name}_ptr": x for name, x in (read | written).items()}
        | strides
        | {"F": F, "N": N, "H": H, "sequences": sequences, "scale": scale},
        constants={
            "D": D,
            "D_BLOCK": tile.D_BLOCK,
            "ROWS": tile.ROWS,
            "EVEN": _even(list(strided.values())),
            "ACC": _TRITON[acc],
            "PRECISION": "tf32x3" if dtype == torch.float32 else "ieee",
            "INTERPRETED": triton_interprets(),
            **flags,
        },
        warps=tile.warps,
        stages=1,
    )


class _Tile(NamedTuple):
    """How much of the work one program holds."""

    ROWS: int
    D_BLOCK: int
    warps: int


def _tile(F: int, D: int, dtype: torch.dtype) -> _Tile:
    """Return a tile: of 16 rows 128 bytes a warp."""
    ROWS, D_BLOCK = (16 if F <= 16 else 32), max(16, triton.next_power_of_2(D))
    return _Tile(ROWS, D_BLOCK, max(1, ROWS // 16 * D_BLOCK * dtype.itemsize // 128))


def _even(tensors: list[Tensor]) -> int:
    """Return what divides all strides, up to the numbers that 16 bytes hold."""
    strides = (x.stride(i) for x in tensors for i in range(4) if x.shape[i] > 1)
    return gcd(16 // tensors[0].element_size(), *strides)


# --- to be compiled ahead of time -------------------------------------------------------------


def examples(arch: int) -> Iterator[Example]:
    """Yield launches as they are on a GPU of any compute capability."""
    for F, N, D, dtype in _EXAMPLES:
        x = torch.empty(2, F, N, 8, D, dtype=dtype, device="meta")
        name = str(dtype).removeprefix("torch.")
        launches = _forward(x, x, x, D**-0.5, x), _backward(x, x, x, x, D**-0.5, (x, x, x))
        for way, launch in zip(("forward", "backward"), launches, strict=True):
            yield Example("short_attention", f"F = {F}, d = {D}, {way}", name, launch, True)


_16_BIT, _32_BIT = (torch.bfloat16, torch.float16), (torch.float32,)
_EXAMPLES = (
    *((8, 4096, 40, dtype) for dtype in (*_16_BIT, *_32_BIT)),
    (8, 1024, 80, torch.bfloat16),
    (8, 256, 160, torch.bfloat16),
    (32, 4096, 40, torch.bfloat16),
)
