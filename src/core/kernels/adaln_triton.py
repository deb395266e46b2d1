"""Gated residual, LayerNorm and modulation on a GPU: every activation is read and written once.

A program has some tokens of one sample, whole rows of them in registers, and the sample's vectors
beside them. In the backward pass it also sums what its tokens say to the gradients of these
vectors; torch adds up the programs of a sample. No atomics: equal inputs give equal bits.

Everything is computed in float32 (float64 for float64, which only the interpreter is given). The
symbols are those of `core.kernels.adaln`.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from core.kernels._launch import Example, Launch

TILE = 1024
"""Numbers of a tile, at least: narrow tokens share one."""
WAVES = 4
"""Programs a processor, at least, where there are tokens enough."""
TOKENS = {"forward": 8, "backward": 128}
"""Tiles of a program, at most. Backward each writes its sums, so that there should be few."""
PROCESSORS = 132
"""Where there is no GPU to ask."""
_TRITON = {torch.float32: tl.float32, torch.float64: tl.float64}


# --- on the GPU -------------------------------------------------------------------------------


@triton.jit
def _forward_kernel(
    x_ptr, branch_ptr, gate_ptr, shift_ptr, scale_ptr, kept_ptr, y_ptr, mean_ptr, rstd_ptr,
    x_b, x_t, branch_b, branch_t, gate_b, shift_b, scale_b, T, D, tokens, eps,
    BRANCH: tl.constexpr, GATED: tl.constexpr,
    N: tl.constexpr, D_BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    # one program: `tokens` tokens of one sample, N at a time
    parts = tl.cdiv(T, tokens)
    sample = (tl.program_id(0) // parts).to(tl.int64)
    first = tl.program_id(0) % parts * tokens
    d = tl.arange(0, D_BLOCK)
    in_D = d < D
    b = tl.load(shift_ptr + sample * shift_b + d, mask=in_D, other=0.0).to(ACC)
    w = 1 + tl.load(scale_ptr + sample * scale_b + d, mask=in_D, other=0.0).to(ACC)
    if GATED:
        g = tl.load(gate_ptr + sample * gate_b + d, mask=in_D, other=0.0).to(ACC)
    for t0 in range(first, tl.minimum(first + tokens, T), N):
        t = (t0 + tl.arange(0, N)).to(tl.int64)
        row = sample * T + t
        here = (t < T)[:, None] & in_D[None, :]
        x = tl.load(x_ptr + sample * x_b + t[:, None] * x_t + d[None, :], mask=here, other=0.0)
        x = x.to(ACC)
        if BRANCH:
            h_ptrs = branch_ptr + sample * branch_b + t[:, None] * branch_t + d[None, :]
            h = tl.load(h_ptrs, mask=here, other=0.0).to(ACC)
            if GATED:
                h *= g[None, :]
            kept = (x + h).to(kept_ptr.dtype.element_ty)
            tl.store(kept_ptr + row[:, None] * D + d[None, :], kept, mask=here)
            x = kept.to(ACC)
        mean = tl.sum(x, axis=1) / D
        x = tl.where(in_D[None, :], x - mean[:, None], 0.0)
        rstd = 1 / tl.sqrt(tl.sum(x * x, axis=1) / D + eps)
        y = b[None, :] + w[None, :] * (x * rstd[:, None])
        tl.store(y_ptr + row[:, None] * D + d[None, :], y.to(y_ptr.dtype.element_ty), mask=here)
        tl.store(mean_ptr + row, mean, mask=t < T)
        tl.store(rstd_ptr + row, rstd, mask=t < T)


@triton.jit
def _backward_kernel(
    kept_ptr, branch_ptr, gate_ptr, scale_ptr, mean_ptr, rstd_ptr, u_ptr, v_ptr,
    dx_ptr, dh_ptr, sums_ptr,
    kept_b, kept_t, branch_b, branch_t, u_b, u_t, v_b, v_t, gate_b, scale_b, T, D, tokens,
    GATED: tl.constexpr, RESIDUAL: tl.constexpr,
    N: tl.constexpr, D_BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    # one program: `tokens` tokens of one sample, N at a time, and what they say to its vectors
    parts = tl.cdiv(T, tokens)
    sample = (tl.program_id(0) // parts).to(tl.int64)
    first = tl.program_id(0) % parts * tokens
    d = tl.arange(0, D_BLOCK)
    in_D = d < D
    w = 1 + tl.load(scale_ptr + sample * scale_b + d, mask=in_D, other=0.0).to(ACC)
    db = tl.zeros([N, D_BLOCK], ACC)
    ds = tl.zeros([N, D_BLOCK], ACC)
    if GATED:
        g = tl.load(gate_ptr + sample * gate_b + d, mask=in_D, other=0.0).to(ACC)
        dg = tl.zeros([N, D_BLOCK], ACC)
    for t0 in range(first, tl.minimum(first + tokens, T), N):
        t = (t0 + tl.arange(0, N)).to(tl.int64)
        row = sample * T + t
        here = (t < T)[:, None] & in_D[None, :]
        x_ptrs = kept_ptr + sample * kept_b + t[:, None] * kept_t + d[None, :]
        v_ptrs = v_ptr + sample * v_b + t[:, None] * v_t + d[None, :]
        x = tl.load(x_ptrs, mask=here, other=0.0).to(ACC)
        v = tl.load(v_ptrs, mask=here, other=0.0).to(ACC)
        mean = tl.load(mean_ptr + row, mask=t < T, other=0.0)
        rstd = tl.load(rstd_ptr + row, mask=t < T, other=0.0)
        n = tl.where(here, (x - mean[:, None]) * rstd[:, None], 0.0)
        db += v
        ds += n * v
        v *= w[None, :]
        along = tl.sum(v * n, axis=1) / D
        dx = (v - (tl.sum(v, axis=1) / D)[:, None] - n * along[:, None]) * rstd[:, None]
        if RESIDUAL:
            u_ptrs = u_ptr + sample * u_b + t[:, None] * u_t + d[None, :]
            dx += tl.load(u_ptrs, mask=here, other=0.0).to(ACC)
        out = row[:, None] * D + d[None, :]
        tl.store(dx_ptr + out, dx.to(dx_ptr.dtype.element_ty), mask=here)
        if GATED:
            h_ptrs = branch_ptr + sample * branch_b + t[:, None] * branch_t + d[None, :]
            dg += tl.load(h_ptrs, mask=here, other=0.0).to(ACC) * dx
            dh = dx * g[None, :]
            tl.store(dh_ptr + out, dh.to(dh_ptr.dtype.element_ty), mask=here)
    to = sums_ptr + tl.program_id(0).to(tl.int64) * (3 if GATED else 2) * D + d
    tl.store(to, tl.sum(db, axis=0), mask=in_D)
    tl.store(to + D, tl.sum(ds, axis=0), mask=in_D)
    if GATED:
        tl.store(to + 2 * D, tl.sum(dg, axis=0), mask=in_D)


# --- on the host ------------------------------------------------------------------------------


class _Tile(NamedTuple):
    """How much of the work one program holds at once, and does."""

    N: int
    D_BLOCK: int
    warps: int
    tokens: int


def triton_adaln(
    x: Tensor,
    branch: Tensor | None,
    gate: Tensor | None,
    shift: Tensor,
    scale: Tensor,
    eps: float,
    kept: Tensor,
    y: Tensor,
    mean: Tensor,
    rstd: Tensor,
) -> None:
    """Fill kept (x', if there is a branch), y, mean and rstd; no dimension is zero."""
    with torch.cuda.device_of(x):
        _forward(x, branch, gate, shift, scale, eps, kept, y, mean, rstd).run()


def triton_gradients(
    kept: Tensor,
    branch: Tensor | None,
    gate: Tensor | None,
    scale: Tensor,
    mean: Tensor,
    rstd: Tensor,
    u: Tensor | None,
    v: Tensor,
    dx: Tensor,
    dh: Tensor,
    sums: Tensor,
) -> None:
    """Fill dx, dh (if there is a gate) and sums; no dimension is zero."""
    with torch.cuda.device_of(kept):
        launch, parts = _backward(kept, branch, gate, scale, mean, rstd, u, v, dx, dh)
        launch.run()
        torch.sum(parts, 1, out=sums)


def _forward(
    x: Tensor,
    branch: Tensor | None,
    gate: Tensor | None,
    shift: Tensor,
    scale: Tensor,
    eps: float,
    kept: Tensor,
    y: Tensor,
    mean: Tensor,
    rstd: Tensor,
) -> Launch:
    tile = _tile(x, "forward", alike=_alike(x, branch, y))
    read = {"x": x, "branch": branch, "gate": gate, "shift": shift, "scale": scale}
    written = {"kept": kept, "y": y, "mean": mean, "rstd": rstd}
    return Launch(
        kernel=_forward_kernel,
        programs=x.shape[0] * triton.cdiv(x.shape[1], tile.tokens),
        arguments=_arguments(read, written) | _sizes(x, tile) | {"eps": eps},
        constants=_constants(tile, mean)
        | {"BRANCH": branch is not None, "GATED": gate is not None},
        warps=tile.warps,
        stages=1,
    )


def _backward(
    kept: Tensor,
    branch: Tensor | None,
    gate: Tensor | None,
    scale: Tensor,
    mean: Tensor,
    rstd: Tensor,
    u: Tensor | None,
    v: Tensor,
    dx: Tensor,
    dh: Tensor,
) -> tuple[Launch, Tensor]:
    """Return the launch, and the sums of each program that it fills, `[B, parts, 2 or 3, D]`."""
    B, T, D = kept.shape
    tile = _tile(kept, "backward", alike=_alike(kept, branch, u, v))
    programs = B * triton.cdiv(T, tile.tokens)
    made = {"dtype": mean.dtype, "device": kept.device}
    sums = torch.empty(B, programs // B, 2 + (gate is not None), D, **made)
    branch = None if gate is None else branch
    read = {"kept": kept, "branch": branch, "u": u, "v": v, "gate": gate, "scale": scale}
    written = {"mean": mean, "rstd": rstd, "dx": dx, "dh": dh, "sums": sums}
    launch = Launch(
        kernel=_backward_kernel,
        programs=programs,
        arguments=_arguments(read, written) | _sizes(kept, tile),
        constants=_constants(tile, mean) | {"GATED": gate is not None, "RESIDUAL": u is not None},
        warps=tile.warps,
        stages=1,
    )
    return launch, sums


def _arguments(
    strided: dict[str, Tensor | None], plain: dict[str, Tensor]
) -> dict[str, Tensor | int | float | None]:
    """Return pointers, and the strides of what is read: `[B, T, D]` and `[B, D]`."""
    found: dict[str, Tensor | int | float | None] = {f"{name}_ptr": x for name, x in plain.items()}
    for name, x in strided.items():
        axes = "b" if name in ("gate", "shift", "scale") else "bt"
        x = x if x is None or x.stride(-1) == 1 else x.contiguous()
        found[f"{name}_ptr"] = x
        found |= {f"{name}_{axis}": 0 if x is None else x.stride(i) for i, axis in enumerate(axes)}
    return found


def _sizes(x: Tensor, tile: _Tile) -> dict[str, Tensor | int | float | None]:
    return {"T": x.shape[1], "D": x.shape[2], "tokens": tile.tokens}


def _constants(tile: _Tile, like: Tensor) -> dict[str, object]:
    return {"N": tile.N, "D_BLOCK": tile.D_BLOCK, "ACC": _TRITON[like.dtype]}


def _alike(*tensors: Tensor | None) -> bool:
    return len({x.dtype for x in tensors if x is not None}) == 1


def _tile(x: Tensor, way: str, *, alike: bool) -> _Tile:
    """Return a tile of whole tokens, and as many of them as suit.

    8 numbers a thread; 4 where dtypes differ, which are exchanged between threads otherwise.
    """
    B, T, D = x.shape
    D_BLOCK = max(16, triton.next_power_of_2(D))
    N = max(1, TILE // D_BLOCK)
    processors = PROCESSORS
    if x.is_cuda:
        processors = torch.cuda.get_device_properties(x.device).multi_processor_count
    tiles = min(TOKENS[way], max(1, B * T // (N * WAVES * processors)))
    parts = triton.cdiv(T, N * tiles)
    tokens = N * triton.cdiv(triton.cdiv(T, parts), N)
    warps = min(16, N * D_BLOCK // 256) if alike else min(32, N * D_BLOCK // 128)
    return _Tile(N, D_BLOCK, warps, tokens)


# --- to be compiled ahead of time -------------------------------------------------------------


def examples(arch: int) -> Iterator[Example]:
    """Yield launches as they are on a GPU of any compute capability."""
    for case, shape, dtype, other, branch, gate in _EXAMPLES:
        B, T, D = shape
        x, y = torch.empty(2, *shape, dtype=dtype, device="meta")
        h = torch.empty(shape, dtype=other, device="meta") if branch else None
        g, s, b = torch.empty(B, 6 * D, dtype=other, device="meta").chunk(6, 1)[:3]
        g = g if gate else None
        mean, rstd = torch.empty(2, B, T, device="meta")
        name = str(dtype).removeprefix("torch.")
        launch = _forward(x, h, g, b, s, 1e-6, x, y, mean, rstd)
        yield Example("adaln", f"{case}, forward", name, launch, False)
        dh = torch.empty(shape, dtype=other, device="meta")
        launch, _ = _backward(x, h, g, s, mean, rstd, x, y, x, dh)
        yield Example("adaln", f"{case}, backward", name, launch, False)


_DIT, _WIDE, _NARROW = (256, 256, 1152), (4, 4096, 4096), (256, 64, 64)
_HALF, _FULL = torch.bfloat16, torch.float32
_EXAMPLES = (
    *(("D = 1152", _DIT, dtype, dtype, True, True) for dtype in (_HALF, torch.float16, _FULL)),
    ("D = 1152, first norm", _DIT, _HALF, _HALF, False, False),
    ("D = 1152, no gate", _DIT, _HALF, _HALF, True, False),
    ("D = 1152, branch in bfloat16", _DIT, _FULL, _HALF, True, True),
    *(("D = 4096", _WIDE, dtype, dtype, True, True) for dtype in (_HALF, _FULL)),
    ("D = 4096, branch in bfloat16", _WIDE, _FULL, _HALF, True, True),
    *(("D = 64", _NARROW, dtype, dtype, True, True) for dtype in (_HALF, _FULL)),
)
