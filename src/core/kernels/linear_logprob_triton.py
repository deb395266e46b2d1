"""Log-probabilities under a linear head on a GPU: no logit in memory, or one block of them.

`_rest_kernel` is the forward pass where no unit gradient is wanted. A program has a tile of rows
and a range of the vocabulary; tile after tile of it is multiplied, and the running maximum and sum
take it in while it is in registers. Ranges make enough programs of few rows; torch adds them up.
Programs that run side by side have different rows and the same range: what one reads of the weight
the others find in the cache.

Where gradients are formed, three products share a block of logits: cuBLAS multiplies, on the way
of `_linear_logprob_blocks`, and what happens to the block between two products is one kernel that
reads it once, a program a row: `_absorb_kernel` for a frozen head, `_gradient_kernel` for a trained
one. Such logits are float32, whatever the inputs are; the kernel hands them on in 16 bits.

Sums run in float32 (float64 for float64). Products of float32 take the tf32 tensor cores three
times over in `_rest_kernel`, and are torch's own elsewhere. No atomics: equal inputs give equal
bits.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from core.kernels._choice import triton_interprets
from core.kernels._launch import Example, Launch, compute_capability
from core.kernels._linear_logprob_blocks import LARGE, SCALE, Running, finish, wide

WAVES = 16
"""Programs a processor, at least, where the vocabulary has that many tiles: a short last turn."""
_TRITON = {torch.float32: tl.float32, torch.float64: tl.float64}


class _Tile(NamedTuple):
    """How much of the work one program of `_rest_kernel` holds at once."""

    N_BLOCK: int
    V_BLOCK: int
    D_BLOCK: int
    warps: int
    stages: int


# Chosen with `core.kernels.aot`: no spilled register, 16-byte accesses. Architecture -> bits of a
# number. Scores of a 128 x 256 tile are half of all registers: Hopper's products read shared memory
# and leave the other half.
_TILES = {
    80: {16: _Tile(128, 128, 64, 8, 3), 32: _Tile(128, 64, 32, 8, 3)},
    90: {16: _Tile(128, 256, 64, 8, 3), 32: _Tile(128, 64, 32, 8, 3)},
    100: {16: _Tile(128, 128, 32, 8, 4), 32: _Tile(128, 64, 32, 8, 3)},
}
REACH = 2**31
"""Numbers that 32 bits can count within a tile."""


# --- on the GPU -------------------------------------------------------------------------------


@triton.jit
def _dot(a, b, acc, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr):
    # the interpreter multiplies the bits of bfloat16, not the numbers, and does not say so
    if INTERPRETED and a.dtype == tl.bfloat16:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=acc.dtype)


@triton.jit
def _rest_kernel(
    hidden_ptr, weight_ptr, target_ptr, bias_ptr, rest_ptr, picked_ptr,
    hidden_n, hidden_d, weight_v, weight_d, N, D, V, columns,
    BIASED: tl.constexpr, N_BLOCK: tl.constexpr, V_BLOCK: tl.constexpr, D_BLOCK: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    # one program: N_BLOCK rows, `columns` of the vocabulary
    pid = tl.program_id(0)
    part = pid // tl.cdiv(N, N_BLOCK)
    n0 = pid % tl.cdiv(N, N_BLOCK) * N_BLOCK
    rows, d = tl.arange(0, N_BLOCK), tl.arange(0, D_BLOCK)
    cols = tl.arange(0, V_BLOCK)
    in_N = rows < N - n0
    # within a tile 32 bits reach; where it begins, they may not
    h_start = hidden_ptr + n0.to(tl.int64) * hidden_n
    h_tile = rows[:, None] * hidden_n + d[None, :] * hidden_d
    w_tile = cols[:, None] * weight_v + d[None, :] * weight_d
    y = tl.load(target_ptr + n0 + rows, mask=in_N, other=-1)
    y = tl.where((y >= 0) & (y < V), y, -1).to(tl.int32)
    m = tl.full([N_BLOCK], -float("inf"), ACC)
    s = tl.zeros([N_BLOCK], ACC)
    picked = tl.zeros([N_BLOCK], ACC)
    first, last = part * columns, tl.minimum((part + 1) * columns, V)
    for v0 in range(first, last, V_BLOCK):
        in_V = cols < V - v0
        h_ptr, w_ptr = h_start, weight_ptr + tl.cast(v0, tl.int64) * weight_v
        z = tl.zeros([N_BLOCK, V_BLOCK], ACC)
        for d0 in range(0, D, D_BLOCK):
            in_d = d[None, :] < D - d0
            h = tl.load(h_ptr + h_tile, mask=in_N[:, None] & in_d, other=0.0)
            w = tl.load(w_ptr + w_tile, mask=in_V[:, None] & in_d, other=0.0)
            z = _dot(h, tl.trans(w), z, PRECISION, INTERPRETED)
            h_ptr += D_BLOCK * hidden_d
            w_ptr += D_BLOCK * weight_d
        if BIASED:
            edge = tl.load(bias_ptr + v0 + cols, mask=in_V, other=-float("inf")).to(ACC)
        else:
            edge = tl.where(in_V, 0.0, -float("inf"))
        z += edge[None, :]
        own = cols[None, :] == (y - v0)[:, None]
        picked += tl.sum(tl.where(own, z, 0.0), axis=1)
        z = tl.where(own, -float("inf"), z)
        m_new = tl.maximum(m, tl.max(z, axis=1))
        shift = tl.where(m_new == -float("inf"), 0.0, m_new)  # for -inf - (-inf) is nan
        s = s * tl.exp(m - shift) + tl.sum(tl.exp(z - shift[:, None]), axis=1)
        m = m_new
    # zero, and not "not positive": a nan has to stay one
    rest = tl.where(s == 0, -float("inf"), m + tl.log(tl.where(s == 0, 1.0, s)))
    tl.store(rest_ptr + part.to(tl.int64) * N + n0 + rows, rest, mask=in_N)
    met = in_N & (y >= first) & (y < last)
    tl.store(picked_ptr + n0 + rows, picked, mask=met)


@triton.jit
def _absorb_kernel(
    z_ptr, y_ptr, out_ptr, m_ptr, s_ptr, picked_ptr, grown_ptr, z_n, out_n, columns, scale,
    BLOCK: tl.constexpr,
):  # fmt: skip
    # one program: one row of a block of logits
    n = tl.program_id(0).to(tl.int64)
    v = tl.arange(0, BLOCK)
    y = tl.load(y_ptr + n)
    z = tl.load(z_ptr + n * z_n + v, mask=v < columns, other=-float("inf"))
    if (y >= 0) & (y < columns):
        tl.store(picked_ptr + n, tl.sum(tl.where(v == y, z, 0.0), axis=0))
    z = tl.where(v == y, -float("inf"), z)
    m = tl.load(m_ptr + n)
    m_new = tl.maximum(m, tl.max(z, axis=0))
    shift = tl.where(m_new == -float("inf"), 0.0, m_new)
    grown = tl.exp(m - shift)
    p = tl.exp(z - shift)
    tl.store(s_ptr + n, tl.load(s_ptr + n) * grown + tl.sum(p, axis=0))
    tl.store(m_ptr + n, m_new)
    tl.store(grown_ptr + n, grown)
    p = (p * scale).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + n * out_n + v, p, mask=v < columns)


@triton.jit
def _gradient_kernel(
    z_ptr, y_ptr, out_ptr, lse_ptr, own_ptr, c_ptr, z_n, out_n, columns, scale,
    BLOCK: tl.constexpr,
):  # fmt: skip
    # one program: one row of a block of logits
    n = tl.program_id(0).to(tl.int64)
    v = tl.arange(0, BLOCK)
    z = tl.load(z_ptr + n * z_n + v, mask=v < columns, other=-float("inf"))
    dz = tl.load(c_ptr + n) * tl.exp(z - tl.load(lse_ptr + n))
    dz = tl.where(v == tl.load(y_ptr + n), tl.load(own_ptr + n), dz)
    dz = (dz * scale).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + n * out_n + v, dz, mask=v < columns)


# --- on the host ------------------------------------------------------------------------------


def triton_logprob(
    hidden: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None, *, parts: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return logp and lse.

    Args:
        hidden: `[N, D]`, N at least 1.
        weight: `[V, D]`.
        target: `[N]`.
        bias: `[V]` or None.
        parts: ranges to cut the vocabulary into; None: the number that suits.
    """
    hidden, weight = _near(hidden), _near(weight)
    made = {"dtype": wide(hidden.dtype), "device": hidden.device}
    tile = _tile(hidden, compute_capability(hidden.device))
    parts, columns = _ranges(hidden, weight, tile, parts)
    rest = torch.empty(parts, len(hidden), **made)
    picked = torch.full((len(hidden),), torch.nan, **made)
    with torch.cuda.device_of(hidden):
        vectors = target.contiguous(), None if bias is None else bias.contiguous()
        _rest(hidden, weight, *vectors, rest, picked, columns, tile).run()
    return finish(rest[0] if parts == 1 else rest.logsumexp(0), picked)


class Steps:
    """What `_linear_logprob_blocks.Steps` does, each in one kernel."""

    @staticmethod
    def absorb(z: Tensor, y: Tensor, running: Running, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Bring a block into the running sums."""
        out, grown = _room(z, dtype), torch.empty_like(running.m)
        with torch.cuda.device_of(z):
            _absorb(z, y, running, out, grown).run()
        return out, grown

    @staticmethod
    def gradient(
        z: Tensor, y: Tensor, lse: Tensor, own: Tensor, c: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """Return `c softmax(z)`, `own` at y, times SCALE, in a dtype."""
        out = _room(z, dtype)
        with torch.cuda.device_of(z):
            _gradient(z, y, lse, own, c, out).run()
        return out


def _rest(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    rest: Tensor,
    picked: Tensor,
    columns: int,
    tile: _Tile,
) -> Launch:
    """Return the launch of `_rest_kernel`; `columns` are those of a range."""
    (N, D), V = hidden.shape, len(weight)
    pointers = {"hidden": hidden, "weight": weight, "target": target, "bias": bias}
    pointers |= {"rest": rest, "picked": picked}
    strides = {"hidden_n": hidden.stride(0), "hidden_d": hidden.stride(1)}
    strides |= {"weight_v": weight.stride(0), "weight_d": weight.stride(1)}
    constants = {"N_BLOCK": tile.N_BLOCK, "V_BLOCK": tile.V_BLOCK, "D_BLOCK": tile.D_BLOCK}
    constants |= {
        "BIASED": bias is not None,
        "ACC": _TRITON[rest.dtype],
        "PRECISION": "tf32x3" if hidden.dtype == torch.float32 else "ieee",
        "INTERPRETED": triton_interprets(),
    }
    return Launch(
        kernel=_rest_kernel,
        programs=triton.cdiv(N, tile.N_BLOCK) * len(rest),
        arguments={f"{name}_ptr": x for name, x in pointers.items()}
        | strides
        | {"N": N, "D": D, "V": V, "columns": columns},
        constants=constants,
        warps=tile.warps,
        stages=tile.stages,
    )


def _absorb(z: Tensor, y: Tensor, running: Running, out: Tensor, grown: Tensor) -> Launch:
    sums = {f"{name}_ptr": x for name, x in running._asdict().items()}
    return _by_row(_absorb_kernel, z, y, out, {**sums, "grown_ptr": grown})


def _gradient(z: Tensor, y: Tensor, lse: Tensor, own: Tensor, c: Tensor, out: Tensor) -> Launch:
    return _by_row(_gradient_kernel, z, y, out, {"lse_ptr": lse, "own_ptr": own, "c_ptr": c})


def _by_row(kernel: Any, z: Tensor, y: Tensor, out: Tensor, others: dict[str, Tensor]) -> Launch:
    """Return the launch of a kernel with a program a row of z."""
    rows, columns = z.shape
    BLOCK = max(16, triton.next_power_of_2(columns))
    sizes = {"z_n": z.stride(0), "out_n": out.stride(0), "columns": columns}
    return Launch(
        kernel=kernel,
        programs=rows,
        arguments={"z_ptr": z, "y_ptr": y, "out_ptr": out, **others, **sizes}
        | {"scale": SCALE.get(out.dtype, 1.0)},
        constants={"BLOCK": BLOCK},
        warps=8 if BLOCK >= 2048 else 4,
        stages=1,
    )


def _room(z: Tensor, dtype: torch.dtype) -> Tensor:
    return z if z.dtype == dtype else torch.empty_like(z, dtype=dtype)


def _near(x: Tensor) -> Tensor:
    """Return a tensor whose tiles lie within reach: a copy where its rows are too far apart."""
    return x.contiguous() if 256 * sum(x.stride()) >= REACH else x


def _tile(hidden: Tensor, arch: int) -> _Tile:
    # of few rows too: up to 128 of them cost no more than it takes to read the weight
    bits = min(32, 8 * hidden.element_size())
    return _TILES[max(known for known in _TILES if known <= arch)][bits]


def _ranges(hidden: Tensor, weight: Tensor, tile: _Tile, parts: int | None) -> tuple[int, int]:
    """Return how many ranges of the vocabulary, and the columns of each: whole tiles."""
    tiles = triton.cdiv(len(weight), tile.V_BLOCK)
    if parts is None:
        processors = 1
        if hidden.is_cuda:
            found = torch.cuda.get_device_properties(hidden.device)
            processors = WAVES * found.multi_processor_count
        parts = triton.cdiv(processors, triton.cdiv(len(hidden), tile.N_BLOCK))
    each = triton.cdiv(tiles, min(parts, tiles))
    return triton.cdiv(tiles, each), each * tile.V_BLOCK


# --- to be compiled ahead of time -------------------------------------------------------------


def examples(arch: int) -> Iterator[Example]:
    """Yield launches as they are on a GPU of this compute capability, 90 for 9.0."""
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        for case, N, D, V, biased in _EXAMPLES:
            launch = _example(arch, dtype, N, D, V, biased)
            yield Example("linear_logprob", case, str(dtype).removeprefix("torch."), launch, True)
        rows, columns = LARGE
        z = torch.empty(rows, columns, device="meta")
        y = torch.empty(rows, dtype=torch.int64, device="meta")
        sums = [torch.empty(rows, device="meta") for _ in range(4)]
        out = _room(z, dtype)
        name = str(dtype).removeprefix("torch.")
        launch = _absorb(z, y, Running(*sums[:3]), out, sums[3])
        yield Example("linear_logprob", "a block, frozen head", name, launch, False)
        launch = _gradient(z, y, *sums[:3], out)
        yield Example("linear_logprob", "a block, trained head", name, launch, False)


def _example(arch: int, dtype: torch.dtype, N: int, D: int, V: int, biased: bool) -> Launch:
    hidden, weight = (torch.empty(n, D, dtype=dtype, device="meta") for n in (N, V))
    target = torch.empty(N, dtype=torch.int64, device="meta")
    bias = torch.empty(V, dtype=dtype, device="meta") if biased else None
    tile = _tile(hidden, arch)
    parts, columns = _ranges(hidden, weight, tile, 16)
    rest, picked = torch.empty(parts, N, device="meta"), torch.empty(N, device="meta")
    return _rest(hidden, weight, target, bias, rest, picked, columns, tile)


_EXAMPLES = (
    ("forward, D = 4096, V = 126,464", 8192, 4096, 126_464, False),
    ("forward, D = 256, V = 50,257, with bias", 1024, 256, 50_257, True),
    ("forward, few rows", 50, 4096, 126_464, False),
)
