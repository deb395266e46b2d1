"""Causal linear attention on a GPU: two ways through time, one contract.

`_blocks_kernel` walks along a sequence in blocks of C tokens. Within a block it forms the scores
and throws away the upper triangle; what came before the block is the state S, which never leaves
the registers. Columns of the values do not mix, and columns of the keys only add up, so that a
program owns D_BLOCK x M_BLOCK of the state: as much as the registers hold. Where there are too few
sequences to fill the GPU, each is cut into segments: the same kernel first sums the state of every
segment, torch adds them up, and the second launch starts from those sums.

`_steps_kernel` is for states of a few hundred numbers and many short sequences: token by token,
a warp a sequence, no tensor cores and so no rounding to their formats.

Both see real columns only: a complex tensor is its (re, im) pairs side by side. With J x the pairs
(-im, re), which is i x, and a . b the real dot product over all of them,

    k^* q = k . q - i (k . J q)        o = sum v (k . q) + J sum v (k . -J q)

that is, two real queries, q and -J q, on one shared state. Backward in time is forward on rows read
from the end; the weight w then belongs to the row that is read, not to the one that is written.

Sums run in float32 (float64 for float64). Products of float32 take the tf32 tensor cores three
times over, meant to restore float32's accuracy. No atomics: equal inputs give equal bits.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from core.kernels._choice import triton_interprets
from core.kernels._dot_triton import dot
from core.kernels._launch import Example, Launch, compute_capability, real_rows
from core.kernels.causal_linear_attention import SMALL_STATE, is_small

SHORT = 1024
"""Tokens up to which a sequence with a small state is walked token by token."""
_TRITON = {torch.float32: tl.float32, torch.float64: tl.float64}


class _Tile(NamedTuple):
    """How much of the work one program of `_blocks_kernel` holds at once."""

    C: int
    M_BLOCK: int
    warps: int


# Chosen with `core.kernels.aot`: no spilled register, 16-byte accesses. Architecture -> dtype ->
# D_BLOCK -> tile. Wider keys are cut into slices of the last entry. Hopper's 16-bit products read
# shared memory; Ampere's, and those of small tiles, pass through registers.
_TILES = {
    80: {
        "bfloat16": {64: _Tile(64, 64, 4), 128: _Tile(32, 64, 8)},
        "float16": {128: _Tile(32, 64, 8)},
        "float32": {64: _Tile(16, 32, 4)},
        "complex64": {32: _Tile(16, 16, 4)},
    },
    90: {
        "bfloat16": {128: _Tile(64, 64, 8)},
        "float16": {64: _Tile(64, 64, 8), 128: _Tile(32, 64, 8)},
        "float32": {32: _Tile(16, 32, 4), 64: _Tile(16, 64, 8)},
        "complex64": {32: _Tile(16, 16, 4), 64: _Tile(16, 32, 4)},
    },
}


# --- on the GPU -------------------------------------------------------------------------------


@triton.jit
def _times_i(x, PAIRS: tl.constexpr):
    # columns hold (re, im) pairs: i (re + i im) = -im + i re
    re, im = tl.split(tl.reshape(x, [x.shape[0], PAIRS, 2]))
    return tl.reshape(tl.join(-im, re), [x.shape[0], 2 * PAIRS])


@triton.jit
def _weight(t, ACC: tl.constexpr):
    # 1 / max(t - 1, 1), here with t from 0
    return 1.0 / tl.maximum(t, 1).to(ACC)


@triton.jit
def _blocks_kernel(
    q_ptr, k_ptr, v_ptr, o_ptr, S_ptr,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, o_b, o_h, o_t,
    o_slice, H, T, D, M, segments, blocks,
    COMPLEX: tl.constexpr, NORMALIZE: tl.constexpr, REVERSE: tl.constexpr,
    SEGMENTED: tl.constexpr, SUM_ONLY: tl.constexpr,
    C: tl.constexpr, D_BLOCK: tl.constexpr, M_BLOCK: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
    INTERPRETED: tl.constexpr,
):  # fmt: skip
    # one program: D_BLOCK x M_BLOCK of the state, one segment of one sequence
    pid = tl.program_id(0)
    m = pid % tl.cdiv(M, M_BLOCK) * M_BLOCK + tl.arange(0, M_BLOCK)
    pid = pid // tl.cdiv(M, M_BLOCK)
    slice = pid % tl.cdiv(D, D_BLOCK)
    d = slice * D_BLOCK + tl.arange(0, D_BLOCK)
    pid = pid // tl.cdiv(D, D_BLOCK)
    segment = pid % segments
    sequence = (pid // segments).to(tl.int64)
    b, h = sequence // H, sequence % H
    q_ptr += b * q_b + h * q_h
    k_ptr += b * k_b + h * k_h
    v_ptr += b * v_b + h * v_h
    o_ptr += b * o_b + h * o_h + slice.to(tl.int64) * o_slice

    c = tl.arange(0, C)
    S = tl.zeros([D_BLOCK, M_BLOCK], ACC)
    if SEGMENTED:
        S_ptrs = S_ptr + (sequence * segments + segment) * D * M + d[:, None] * M + m[None, :]
        in_S = (d < D)[:, None] & (m < M)[None, :]
        if not SUM_ONLY:  # the sum of all segments before this one
            before = (d < tl.where(segment > 0, D, 0))[:, None] & in_S
            S = tl.load(S_ptrs - D * M, mask=before, other=0.0)

    for n in range(segment * blocks, tl.minimum((segment + 1) * blocks, tl.cdiv(T, C))):
        i = n * C + c  # rows in the order of reading
        t = (T - 1 - i if REVERSE else i).to(tl.int64)
        in_k = (i < T)[:, None] & (d < D)[None, :]
        in_v = (i < T)[:, None] & (m < M)[None, :]
        k = tl.load(k_ptr + t[:, None] * k_t + d[None, :], mask=in_k, other=0.0)
        v = tl.load(v_ptr + t[:, None] * v_t + m[None, :], mask=in_v, other=0.0)
        if WIDE:
            v = v.to(ACC)
        if NORMALIZE and REVERSE:
            v = (v * _weight(t, ACC)[:, None]).to(v.dtype)
        if not SUM_ONLY:
            q = tl.load(q_ptr + t[:, None] * q_t + d[None, :], mask=in_k, other=0.0)
            seen = c[:, None] >= c[None, :]
            old = S.to(v.dtype)
            a = tl.where(seen, dot(q, tl.trans(k), ACC, PRECISION, INTERPRETED), 0.0)
            o = dot(a.to(v.dtype), v, ACC, PRECISION, INTERPRETED)
            o += dot(q.to(old.dtype), old, ACC, PRECISION, INTERPRETED)
            if COMPLEX:
                q = -_times_i(q, D_BLOCK // 2)
                a = tl.where(seen, dot(q, tl.trans(k), ACC, PRECISION, INTERPRETED), 0.0)
                y = dot(a.to(v.dtype), v, ACC, PRECISION, INTERPRETED)
                y += dot(q.to(old.dtype), old, ACC, PRECISION, INTERPRETED)
                o += _times_i(y, M_BLOCK // 2)
            if NORMALIZE and not REVERSE:
                o *= _weight(t, ACC)[:, None]
            o_ptrs = o_ptr + t[:, None] * o_t + m[None, :]
            tl.store(o_ptrs, o.to(o_ptr.dtype.element_ty), mask=in_v)
        S += dot(tl.trans(k).to(v.dtype), v, ACC, PRECISION, INTERPRETED)

    if SUM_ONLY:
        tl.store(S_ptrs, S, mask=in_S)


@triton.jit
def _steps_kernel(
    q_ptr, k_ptr, v_ptr, o_ptr,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, o_b, o_h, o_t,
    sequences, H, T, D, M,
    COMPLEX: tl.constexpr, NORMALIZE: tl.constexpr, REVERSE: tl.constexpr,
    N: tl.constexpr, D_BLOCK: tl.constexpr, M_BLOCK: tl.constexpr, ACC: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    # one program: N whole sequences, a token of each at a time
    n = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    d, m = tl.arange(0, D_BLOCK), tl.arange(0, M_BLOCK)
    in_k = (n < sequences)[:, None] & (d < D)[None, :]
    in_v = (n < sequences)[:, None] & (m < M)[None, :]
    b, h = n // H, n % H
    q_ptrs = q_ptr + (b * q_b + h * q_h)[:, None] + d[None, :]
    k_ptrs = k_ptr + (b * k_b + h * k_h)[:, None] + d[None, :]
    v_ptrs = v_ptr + (b * v_b + h * v_h)[:, None] + m[None, :]
    o_ptrs = o_ptr + (b * o_b + h * o_h)[:, None] + m[None, :]

    S = tl.zeros([N, D_BLOCK, M_BLOCK], ACC)
    for i in tl.range(0, T, num_stages=STAGES):
        t = tl.cast(T - 1 - i if REVERSE else i, tl.int64)
        q = tl.load(q_ptrs + t * q_t, mask=in_k, other=0.0).to(ACC)
        k = tl.load(k_ptrs + t * k_t, mask=in_k, other=0.0).to(ACC)
        v = tl.load(v_ptrs + t * v_t, mask=in_v, other=0.0).to(ACC)
        if NORMALIZE and REVERSE:
            v *= _weight(t, ACC)
        S += k[:, :, None] * v[:, None, :]
        o = tl.sum(q[:, :, None] * S, axis=1)
        if COMPLEX:
            q = -_times_i(q, D_BLOCK // 2)
            o += _times_i(tl.sum(q[:, :, None] * S, axis=1), M_BLOCK // 2)
        if NORMALIZE and not REVERSE:
            o *= _weight(t, ACC)
        tl.store(o_ptrs + t * o_t, o.to(o_ptr.dtype.element_ty), mask=in_v)


# --- on the host ------------------------------------------------------------------------------


class _Rows(NamedTuple):
    """Tensors `[..., T, W]` as the kernels read them: real, `[B, H, T, W]`, last stride 1."""

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor

    def arguments(self) -> dict[str, Any]:
        """Return what both kernels are told: pointers, strides, sizes."""
        _, H, T, D = self.q.shape
        named = self._asdict().items()
        strides = {f"{x}_{axis}": t.stride(j) for x, t in named for j, axis in enumerate("bht")}
        pointers = {f"{x}_ptr": t for x, t in named}
        return pointers | strides | {"H": H, "T": T, "D": D, "M": self.v.shape[3]}


class _Plan(NamedTuple):
    """What is asked of the kernels."""

    complex: bool
    normalize: bool
    reverse: bool
    arch: int
    """Compute capability, 90 for 9.0."""
    segments: int | None = None

    def flags(self) -> dict[str, Any]:
        """Return the constants that both kernels take."""
        return {"COMPLEX": self.complex, "NORMALIZE": self.normalize, "REVERSE": self.reverse}


def triton_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    *,
    normalize: bool,
    reverse: bool,
    segments: int | None = None,
) -> Tensor:
    """Fill `out`, where no dimension is zero and `limit` has no objection.

    Args:
        q: `[..., T, D]`.
        k: `[..., T, D]`.
        v: `[..., T, M]`.
        out: `[..., T, M]`.
        normalize: as for the op.
        reverse: as for the op.
        segments: pieces to cut a sequence into, by `_blocks_kernel` whatever its size; None: the
            kernel and the number that suit.
    """
    rows = _Rows(*(real_rows(x) for x in (q, k, v, out)))
    plan = _Plan(q.is_complex(), normalize, reverse, compute_capability(q.device), segments)
    with torch.cuda.device_of(q):
        for launch in _launches(rows, plan):
            launch.run()
    if rows.o.data_ptr() != out.data_ptr():  # `out` has no layout that a kernel writes
        o = torch.view_as_complex(rows.o.unflatten(-1, (-1, 2))) if q.is_complex() else rows.o
        out.copy_(o.view(out.shape))
    return out


def _launches(rows: _Rows, plan: _Plan) -> Iterator[Launch]:
    """Yield what is to be run, one after the other."""
    B, H, T, D = rows.q.shape
    M = rows.v.shape[3]
    short = T <= SHORT or rows.q.dtype == torch.float64
    if plan.segments is None and is_small(D, M) and short:
        yield _steps(rows, plan)
        return
    D_BLOCK, tile = _tile(rows, plan)
    slices, blocks = triton.cdiv(D, D_BLOCK), triton.cdiv(T, tile.C)
    programs = B * H * slices * triton.cdiv(M, tile.M_BLOCK)
    wanted = min(blocks, plan.segments or _enough(programs, rows.q))
    at_once = triton.cdiv(blocks, wanted)
    segments = triton.cdiv(blocks, at_once)
    acc = {"dtype": _acc(rows.q.dtype), "device": rows.q.device}
    parts = rows if slices == 1 else rows._replace(o=torch.empty(slices * B, H, T, M, **acc))
    S = None
    if segments > 1:
        S = torch.empty(B * H, segments, D, M, **acc)
        yield _blocks(parts, plan, segments, at_once, S, sum_only=True)
        for i in range(1, segments):
            S[:, i] += S[:, i - 1]
    yield _blocks(parts, plan, segments, at_once, S, sum_only=False)
    if slices > 1:
        rows.o.copy_(parts.o.view(slices, B, H, T, M).sum(0))


def _blocks(
    rows: _Rows, plan: _Plan, segments: int, blocks: int, S: Tensor | None, *, sum_only: bool
) -> Launch:
    """Return a launch of `_blocks_kernel`; `blocks` are those of a segment."""
    B, H, _, D = rows.q.shape
    D_BLOCK, tile = _tile(rows, plan)
    M_BLOCK = min(tile.M_BLOCK, max(16, triton.next_power_of_2(rows.v.shape[3])))
    pieces = triton.cdiv(D, D_BLOCK) * triton.cdiv(rows.v.shape[3], M_BLOCK)
    sizes = {"o_slice": B * rows.o.stride(0), "segments": segments, "blocks": blocks, "S_ptr": S}
    ways = {"SEGMENTED": S is not None, "SUM_ONLY": sum_only}
    numbers = {
        "ACC": _TRITON[_acc(rows.q.dtype)],
        "PRECISION": "tf32x3" if rows.q.dtype == torch.float32 else "ieee",
        # float16 ends at 65,504 and at 6e-8: scores, states and weighted values may pass that;
        # tf32 is as precise, and as wide as float32
        "WIDE": rows.q.dtype == torch.float16,
        "INTERPRETED": triton_interprets(),
    }
    return Launch(
        kernel=_blocks_kernel,
        programs=B * H * segments * pieces,
        arguments=rows.arguments() | sizes,
        constants={**plan.flags(), **ways, **numbers}
        | {"C": tile.C, "D_BLOCK": D_BLOCK, "M_BLOCK": M_BLOCK},
        warps=tile.warps,
        stages=2,
    )


def _steps(rows: _Rows, plan: _Plan) -> Launch:
    """Return the launch of `_steps_kernel`: a warp, and SMALL_STATE numbers of state, a program."""
    sequences = rows.q.shape[0] * rows.q.shape[1]
    D_BLOCK, M_BLOCK = (triton.next_power_of_2(x.shape[3]) for x in (rows.q, rows.v))
    N = min(triton.next_power_of_2(sequences), SMALL_STATE // (D_BLOCK * M_BLOCK))
    sizes = {"N": N, "D_BLOCK": D_BLOCK, "M_BLOCK": M_BLOCK, "STAGES": 4}
    return Launch(
        kernel=_steps_kernel,
        programs=triton.cdiv(sequences, N),
        arguments=rows.arguments() | {"sequences": sequences},
        constants=plan.flags() | sizes | {"ACC": _TRITON[_acc(rows.q.dtype)]},
        warps=1,
        stages=1,
    )


def _tile(rows: _Rows, plan: _Plan) -> tuple[int, _Tile]:
    """Return D_BLOCK and the tile for it."""
    real = "float32" if rows.q.dtype == torch.float64 else str(rows.q.dtype).removeprefix("torch.")
    tiles = _TILES[90 if plan.arch >= 90 else 80]["complex64" if plan.complex else real]
    D_BLOCK = min(max(16, triton.next_power_of_2(rows.q.shape[3])), max(tiles))
    return D_BLOCK, tiles[max(D_BLOCK, min(tiles))]


def _enough(programs: int, like: Tensor) -> int:
    """Return how many segments a sequence needs so that there are two programs a processor."""
    if not like.is_cuda:
        return 1
    processors = torch.cuda.get_device_properties(like.device).multi_processor_count
    return triton.cdiv(2 * processors, programs)


def _acc(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


# --- to be compiled ahead of time -------------------------------------------------------------


def examples(arch: int) -> Iterator[Example]:
    """Yield launches as they are on a GPU of this compute capability, 90 for 9.0."""
    for dtype, T, D, segments in _EXAMPLES:
        for reverse in (False, True):
            q = torch.empty(8, 32, T, D, dtype=dtype, device="meta")
            rows = _Rows(*(real_rows(q),) * 4)
            for launch in _launches(rows, _Plan(q.is_complex(), True, reverse, arch, segments)):
                blocks = launch.kernel is _blocks_kernel
                case = [f"D = M = {D}", "backward in time" if reverse else "forward"]
                case += ["sums of segments"] * launch.constants.get("SUM_ONLY", False)
                case += ["token by token"] * (not blocks)
                name = str(dtype).removeprefix("torch.")
                yield Example("causal_linear_attention", ", ".join(case), name, launch, blocks)


_16_BIT, _32_BIT = (torch.bfloat16, torch.float16), (torch.float32,)
_EXAMPLES = (
    *((dtype, 2048, D, None) for D in (32, 64) for dtype in _16_BIT + _32_BIT),
    *((dtype, 2048, 128, 4) for dtype in _16_BIT + _32_BIT),
    (torch.bfloat16, 2048, 256, None),
    (torch.complex64, 2048, 16, None),
    (torch.complex64, 2048, 64, 4),
    *((dtype, 100, 16, None) for dtype in (*_16_BIT, *_32_BIT, torch.float64)),
    *((dtype, 98, 10, None) for dtype in (torch.complex64, torch.complex128)),
)
