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
from core.kernels._dot_triton import dot
from core.kernels._launch import Example, Launch

LOG2_E = 1.4426950408889634
_TRITON = {torch.float32: tl.float32, torch.float64: tl.float64}


# --- on the GPU -------------------------------------------------------------------------------


@triton.jit
def _places(F, N, H, sequences, ROWS: tl.constexpr):
    # of each row of the tile: which of its sequences it is in, whether there is one, and where
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
    # where the rows begin; every stride is a multiple of EVEN, which no compiler can know
    return ptr + tl.multiple_of(b * x_b + f * x_f + n * x_n + h * x_h, EVEN)[:, None]


@triton.jit
def _load(rows, here, c, D: tl.constexpr, SLICE: tl.constexpr):
    d = c + tl.arange(0, SLICE)[None, :]
    return tl.load(rows + d, mask=here[:, None] & (d < D), other=0.0)


@triton.jit
def _store(rows, here, c, x, D: tl.constexpr, SLICE: tl.constexpr):
    d = c + tl.arange(0, SLICE)[None, :]
    tl.store(rows + d, x.to(rows.dtype.element_ty), mask=here[:, None] & (d < D))


@triton.jit
def _probabilities(s, same):
    # s: scores in units of log 2
    s = tl.where(same, s, -float("inf"))
    p = tl.exp2(s - tl.max(s, axis=1)[:, None])
    return p / tl.sum(p, axis=1)[:, None]


@triton.jit
def _forward_kernel(
    q_ptr, k_ptr, v_ptr, o_ptr,
    q_b, q_f, q_n, q_h, k_b, k_f, k_n, k_h, v_b, v_f, v_n, v_h, o_b, o_f, o_n, o_h,
    F, N, H, sequences, factor,
    D: tl.constexpr, SLICE: tl.constexpr, ROWS: tl.constexpr, EVEN: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    # one program: some whole sequences, SLICE numbers of a row at a time
    own, here, b, f, n, h = _places(F, N, H, sequences, ROWS)
    q_rows = _rows(q_ptr, b, f, n, h, q_b, q_f, q_n, q_h, EVEN)
    k_rows = _rows(k_ptr, b, f, n, h, k_b, k_f, k_n, k_h, EVEN)
    v_rows = _rows(v_ptr, b, f, n, h, v_b, v_f, v_n, v_h, EVEN)
    o_rows = _rows(o_ptr, b, f, n, h, o_b, o_f, o_n, o_h, EVEN)
    q = _load(q_rows, here, 0, D, SLICE)
    k = _load(k_rows, here, 0, D, SLICE)
    v = _load(v_rows, here, 0, D, SLICE)  # on its way while there are scores to be formed
    s = dot(q, tl.trans(k), ACC, PRECISION, INTERPRETED)
    for c in range(SLICE, D, SLICE):
        q = _load(q_rows, here, c, D, SLICE)
        k = _load(k_rows, here, c, D, SLICE)
        s += dot(q, tl.trans(k), ACC, PRECISION, INTERPRETED)
    p = _probabilities(s * factor, own[:, None] == own[None, :]).to(v.dtype)
    _store(o_rows, here, 0, dot(p, v, ACC, PRECISION, INTERPRETED), D, SLICE)
    for c in range(SLICE, D, SLICE):
        v = _load(v_rows, here, c, D, SLICE)
        _store(o_rows, here, c, dot(p, v, ACC, PRECISION, INTERPRETED), D, SLICE)


@triton.jit
def _backward_kernel(
    q_ptr, k_ptr, v_ptr, g_ptr, dq_ptr, dk_ptr, dv_ptr,
    q_b, q_f, q_n, q_h, k_b, k_f, k_n, k_h, v_b, v_f, v_n, v_h, g_b, g_f, g_n, g_h,
    o_b, o_f, o_n, o_h, F, N, H, sequences, factor, scale,
    D: tl.constexpr, SLICE: tl.constexpr, ROWS: tl.constexpr, EVEN: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    # the same program; what it wants of a row a second time is near
    own, here, b, f, n, h = _places(F, N, H, sequences, ROWS)
    q_rows = _rows(q_ptr, b, f, n, h, q_b, q_f, q_n, q_h, EVEN)
    k_rows = _rows(k_ptr, b, f, n, h, k_b, k_f, k_n, k_h, EVEN)
    v_rows = _rows(v_ptr, b, f, n, h, v_b, v_f, v_n, v_h, EVEN)
    g_rows = _rows(g_ptr, b, f, n, h, g_b, g_f, g_n, g_h, EVEN)
    q = _load(q_rows, here, 0, D, SLICE)
    k = _load(k_rows, here, 0, D, SLICE)
    g = _load(g_rows, here, 0, D, SLICE)
    v = _load(v_rows, here, 0, D, SLICE)
    s = dot(q, tl.trans(k), ACC, PRECISION, INTERPRETED)
    u = dot(g, tl.trans(v), ACC, PRECISION, INTERPRETED)
    for c in range(SLICE, D, SLICE):
        qc = _load(q_rows, here, c, D, SLICE)
        kc = _load(k_rows, here, c, D, SLICE)
        s += dot(qc, tl.trans(kc), ACC, PRECISION, INTERPRETED)
        gc = _load(g_rows, here, c, D, SLICE)
        vc = _load(v_rows, here, c, D, SLICE)
        u += dot(gc, tl.trans(vc), ACC, PRECISION, INTERPRETED)
    p = _probabilities(s * factor, own[:, None] == own[None, :])  # 0 between sequences
    u = p * (u - tl.sum(p * u, axis=1)[:, None])
    narrow: tl.constexpr = ACC if WIDE else q.dtype
    p, u = p.to(narrow), u.to(narrow)
    dq_rows = _rows(dq_ptr, b, f, n, h, o_b, o_f, o_n, o_h, EVEN)
    dk_rows = _rows(dk_ptr, b, f, n, h, o_b, o_f, o_n, o_h, EVEN)
    dv_rows = _rows(dv_ptr, b, f, n, h, o_b, o_f, o_n, o_h, EVEN)
    for c in range(0, D, SLICE):
        if SLICE < D:
            q = _load(q_rows, here, c, D, SLICE)
            k = _load(k_rows, here, c, D, SLICE)
            g = _load(g_rows, here, c, D, SLICE)
        dq = dot(u, k.to(narrow), ACC, PRECISION, INTERPRETED) * scale
        _store(dq_rows, here, c, dq, D, SLICE)
        dk = dot(tl.trans(u), q.to(narrow), ACC, PRECISION, INTERPRETED) * scale
        _store(dk_rows, here, c, dk, D, SLICE)
        dv = dot(tl.trans(p), g.to(narrow), ACC, PRECISION, INTERPRETED)
        _store(dv_rows, here, c, dv, D, SLICE)


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
    return _launch(_forward_kernel, {"q": q, "k": k, "v": v}, {"o": o}, {"factor": scale * LOG2_E})


def _backward(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, scale: float, out: tuple[Tensor, ...]
) -> Launch:
    read = {"q": q, "k": k, "v": v, "g": g}
    written = dict(zip(("dq", "dk", "dv"), out, strict=True))
    launch = _launch(_backward_kernel, read, written, {"factor": scale * LOG2_E, "scale": scale})
    # float16 ends at 65,504 and at 6e-8: gradients may pass that on their way; tf32 is as precise,
    # and as wide as float32
    return launch._replace(constants=launch.constants | {"WIDE": q.dtype == torch.float16})


def _launch(
    kernel: Any, read: dict[str, Tensor], written: dict[str, Tensor], numbers: dict[str, float]
) -> Launch:
    B, F, N, H, D = read["q"].shape
    read = {name: x if x.stride(-1) == 1 else x.contiguous() for name, x in read.items()}
    strided = read | {"o": next(iter(written.values()))}  # of the results one speaks for all
    strides = {
        f"{name}_{axis}": x.stride(i)
        for name, x in strided.items()
        for i, axis in enumerate("bfnh")
    }
    pointers = {f"{name}_ptr": x for name, x in (read | written).items()}
    sizes = {"F": F, "N": N, "H": H, "sequences": B * N * H}
    dtype = read["q"].dtype
    tile = _tile(F, D, dtype)
    return Launch(
        kernel=kernel,
        programs=triton.cdiv(B * N * H, tile.ROWS // F),
        arguments=pointers | strides | sizes | numbers,
        constants={
            "D": D,
            "SLICE": tile.SLICE,
            "ROWS": tile.ROWS,
            "EVEN": _even(*strided.values()),
            "ACC": _TRITON[torch.promote_types(dtype, torch.float32)],
            "PRECISION": "tf32x3" if dtype == torch.float32 else "ieee",
            "INTERPRETED": triton_interprets(),
        },
        warps=tile.warps,
        stages=1,
    )


class _Tile(NamedTuple):
    """How much of the work one program holds at once."""

    ROWS: int
    SLICE: int
    warps: int


def _tile(F: int, D: int, dtype: torch.dtype) -> _Tile:
    """Return a tile: 16 rows by 128 bytes a warp, whole rows if it may be.

    Three products in tf32 for one in float32 keep two parts of each factor: of a wide head 32
    numbers at a time, and as many warps as for 64.
    """
    ROWS, SLICE = (16 if F <= 16 else 32), max(16, triton.next_power_of_2(D))
    warps = ROWS // 16 * max(1, SLICE * dtype.itemsize // 128)
    if dtype.itemsize == 2 or SLICE <= 64:
        return _Tile(ROWS, SLICE, warps)
    return _Tile(ROWS, 32, ROWS // 16 * 2)


def _even(*tensors: Tensor) -> int:
    """Return what divides all strides, up to as many numbers as 16 bytes hold."""
    strides = (x.stride(i) for x in tensors for i in range(4) if x.shape[i] > 1)
    return gcd(16 // tensors[0].element_size(), *strides)


# --- to be compiled ahead of time -------------------------------------------------------------


def examples(arch: int) -> Iterator[Example]:
    """Yield launches as they are on a GPU of any compute capability."""
    for way, F, D, dtype in _EXAMPLES:
        x = torch.empty(2, F, 4096, 8, D, dtype=dtype, device="meta")
        forward = _forward(x, x, x, D**-0.5, x)
        launch = forward if way == "forward" else _backward(x, x, x, x, D**-0.5, (x, x, x))
        name = str(dtype).removeprefix("torch.")
        yield Example("short_attention", f"F = {F}, d = {D}, {way}", name, launch, True, wide=True)


_EXAMPLES = (
    ("forward", 8, 40, torch.bfloat16),
    ("backward", 8, 40, torch.bfloat16),
    ("backward", 8, 40, torch.float16),
    ("backward", 32, 160, torch.bfloat16),
    ("backward", 32, 160, torch.float32),
)
