"""`linear_logprob` in blocks of the logits, for torch and, with other steps, for Triton.

The symbols are those of `core.kernels.linear_logprob`, whose docstring has the formulas.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

BLOCK = {"cpu": (512, 4096)}
"""Rows and columns of the logits that are held at once, by type of device."""
LARGE = (8192, 4096)
"""The same elsewhere: on a GPU."""
SCALE = {torch.float16: 2.0**15}
"""float16 ends at 6e-8, and most of 10^5 probabilities may be smaller: so they are multiplied."""


class Running(NamedTuple):
    """What is known of each row after some of the vocabulary; updated in place."""

    m: Tensor
    """`[N]` the largest logit, without the target's."""
    s: Tensor
    """`[N]` the sum of exp(z - m), without the target's."""
    picked: Tensor
    """`[N]` the target's logit; nan until it is met."""

    @classmethod
    def start(cls, rows: int, like: Tensor) -> "Running":
        """Return what is known of so many rows before any block."""
        made = {"dtype": wide(like.dtype), "device": like.device}
        fills = (-torch.inf, 0.0, torch.nan)
        return cls(*(torch.full((rows,), fill, **made) for fill in fills))


def torch_logprob(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    *,
    frozen: bool,
    steps: Any = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logp, lse, and the unit gradient u `[N, D]` if the head is frozen, else no row of it.

    Args:
        hidden: `[N, D]`.
        weight: `[V, D]`.
        target: `[N]`.
        bias: `[V]` or None.
        frozen: whether u is wanted.
        steps: what has another `absorb`.
    """
    absorb = (steps or Steps).absorb
    N, made = len(hidden), {"dtype": wide(hidden.dtype), "device": hidden.device}
    logp, lse = torch.empty(N, **made), torch.empty(N, **made)
    unit = torch.empty(N if frozen else 0, hidden.shape[1], **made)
    most = BLOCK.get(hidden.device.type, LARGE)
    hidden = _operand(hidden, steps)
    room = _room(hidden, weight, logp.dtype, most)
    for r in _parts(N, most[0]):
        x, y = hidden[r], target[r]
        running = Running.start(len(x), x)
        u = unit[r].zero_()
        for v in _parts(len(weight), most[1]):
            w = _operand(weight[v], steps)
            p, grown = absorb(_scores(x, w, bias, v, room), y - v.start, running, x.dtype)
            if frozen:
                _add_product(u.mul_(grown[:, None]), p, w)
        rest = running.m + running.s.log()
        logp[r], lse[r] = finish(rest, running.picked)
        if frozen:
            scale = SCALE.get(x.dtype, 1.0)
            own = weight[y.clamp(0, len(weight) - 1)].mul(running.s[:, None])
            u.div_(-scale).add_(own).mul_((running.m - lse[r]).exp()[:, None])
    return logp, lse, unit


def torch_gradients(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    logp: Tensor,
    lse: Tensor,
    g: Tensor,
    l: Tensor,
    wanted: list[bool],
    *,
    steps: Any = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of hidden, weight and bias that are wanted, the others with no number.

    The gradient of a block of logits is held in units of its row's |g| + |g - l|, in the dtype of
    the inputs: whatever the loss is scaled by, float16 holds it. At the target it is
    g (1 - p) + l p, with 1 - p from logp: of a token that is all but certain nothing cancels.
    """
    gradient = (steps or Steps).gradient
    (N, D), V, dtype = hidden.shape, len(weight), hidden.dtype
    held = BLOCK.get(hidden.device.type, LARGE)
    size = g.abs() + (g - l).abs()
    most = size.max() if N else size.sum()
    most = torch.where(most == 0, 1, most)
    ratio = size / most
    size = torch.where(size == 0, 1, size)  # a row that asks for nothing gets nothing
    own = (l / size) * logp.exp() - (g / size) * torch.expm1(logp)
    hidden = _operand(hidden, steps)
    weighted = (hidden * ratio[:, None]).to(hidden.dtype)
    room = _room(hidden, weight, lse.dtype, held)
    dh = lse.new_zeros(N if wanted[0] else 0, D)
    dW = torch.empty_like(weight) if wanted[1] else weight.new_empty(0)
    db = weight.new_empty(V if wanted[2] else 0)
    for v in _parts(V, held[1]):
        w = _operand(weight[v], steps)
        dw, dv = lse.new_zeros(len(w) if wanted[1] else 0, D), lse.new_zeros(len(w), 1)
        for r in _parts(N, held[0]):
            z = _scores(hidden[r], w, bias, v, room)
            c = (l - g)[r] / size[r]
            dz = gradient(z, target[r] - v.start, lse[r], own[r], c, w.dtype)
            if wanted[0]:
                _add_product(dh[r], dz, w)
            if wanted[1]:
                _add_product(dw, dz.T, weighted[r])
            if wanted[2]:
                _add_product(dv, dz.T, ratio[r].to(dz.dtype)[:, None])
        scale = most / SCALE.get(w.dtype, 1.0)
        if wanted[1]:
            dW[v] = dw.mul_(scale)
        if wanted[2]:
            db[v] = dv.mul_(scale)[:, 0]
    dh.mul_((size / SCALE.get(hidden.dtype, 1.0))[:, None] if wanted[0] else 1.0)
    return dh.to(dtype), dW, db


class Steps:
    """What is done to a block of logits, number by number."""

    @staticmethod
    def absorb(z: Tensor, y: Tensor, running: Running, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Bring a block into the running sums.

        Args:
            z: `[n, B]` logits of the block; overwritten.
            y: `[n]` the targets' columns, counted from the block's first.
            running: updated.
            dtype: of the result.

        Returns:
            exp(z - m) times SCALE, in that dtype, zero at the target; and `[n]` the factor by
            which what was summed before has to be scaled.
        """
        at, inside = _place(y, z.shape[1])
        found = z.gather(1, at)
        running.picked.copy_(torch.where(inside, found[:, 0], running.picked))
        z.scatter_(1, at, torch.where(inside[:, None], -torch.inf, found))
        m = torch.maximum(running.m, z.amax(1))
        shift = torch.where(m == -torch.inf, 0, m)  # for -inf - (-inf) is nan
        grown = (running.m - shift).exp()
        z.sub_(shift[:, None]).exp_()
        running.s.mul_(grown).add_(z.sum(1))
        running.m.copy_(m)
        return _in_units(z, dtype), grown

    @staticmethod
    def gradient(
        z: Tensor, y: Tensor, lse: Tensor, own: Tensor, c: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """Return `c softmax(z)`, `own` at y, times SCALE, in a dtype; `z` is overwritten."""
        z.sub_(lse[:, None]).exp_().mul_(c[:, None])
        at, inside = _place(y, z.shape[1])
        z.scatter_(1, at, torch.where(inside, own, z.gather(1, at)[:, 0])[:, None])
        return _in_units(z, dtype)


def finish(rest: Tensor, picked: Tensor) -> tuple[Tensor, Tensor]:
    """Return logp and lse from the log-sum-exp over all but the target, and the target's logit."""
    return -torch.logaddexp(rest - picked, torch.zeros_like(rest)), torch.logaddexp(rest, picked)


def _place(y: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """Return `[n, 1]` columns that exist, and `[n]` whether they are the target's."""
    return y.clamp(0, columns - 1)[:, None], (y >= 0) & (y < columns)


def _in_units(z: Tensor, dtype: torch.dtype) -> Tensor:
    return z.mul_(SCALE[dtype]).to(dtype) if dtype in SCALE else z.to(dtype)


def _scores(x: Tensor, w: Tensor, bias: Tensor | None, v: slice, room: Tensor) -> Tensor:
    """Return a block of logits, where there is room for it: memory that the cache knows."""
    if x.dtype == room.dtype:
        z = torch.mm(x, w.T, out=room[: len(x) * len(w)].view(len(x), len(w)))
    else:
        z = _product(x, w.T)
    return z if bias is None else z.add_(bias[v])


def _room(x: Tensor, weight: Tensor, wide: torch.dtype, most: tuple[int, int]) -> Tensor:
    numbers = min(len(x), most[0]) * min(len(weight), most[1])
    return torch.empty(numbers if x.dtype == wide else 0, dtype=wide, device=x.device)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b, in float32 where the factors have 16 bits."""
    if a.dtype not in (torch.bfloat16, torch.float16):
        return a @ b
    return torch.mm(a, b, out_dtype=torch.float32) if _sums_wide(a) else a.float() @ b.float()


def _add_product(out: Tensor, a: Tensor, b: Tensor) -> None:
    if a.dtype == out.dtype:
        out.addmm_(a, b)
    else:
        out.add_(_product(a, b))


def _operand(x: Tensor, steps: Any) -> Tensor:
    """Return what is multiplied: the torch form widens on a CPU, once for several products."""
    return x.to(wide(x.dtype)) if steps is None and not _sums_wide(x) else x


def _sums_wide(x: Tensor) -> bool:
    """Tell whether the device multiplies 16 bits into float32; "meta" stands for a GPU in tests."""
    return x.device.type in ("cuda", "meta")


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _parts(n: int, most: int) -> Iterator[slice]:
    """Return slices of at most so many, as even as multiples of 64 can be."""
    count = max(1, -(-n // most))
    size = 64 * max(1, -(-n // (64 * count)))
    return (slice(i, min(i + size, n)) for i in range(0, n, size))
