"""`adaln` on a CPU: blocks of tokens that stay in a core's cache from one operation to the next.

A block is some tokens of one sample, or some whole samples where these are short. Of one sample
torch's own LayerNorm does the modulation too: 1 + s is its weight, b its bias, and their gradients
are ds and db. The symbols are those of `core.kernels.adaln`, whose docstring has the formulas.
"""

from collections.abc import Iterable
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

BLOCK = 2**18
"""Numbers of an activation in a block, at most, where a token has no more."""
SAMPLE = 2**14
"""Numbers of a sample from which it is a block of its own: below, the calls cost more."""
_ALL, _INPUT = [True, True, True], [True, False, False]


def blocked(
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
    """Fill kept (x', if there is a branch), y, mean and rstd."""
    n, t = _sizes(x)
    acc, D, parts = mean.dtype, x.shape[2:], -(-x.shape[1] // t)
    pieces = zip(
        *(_tokens(z, n, t) for z in (x, branch, None if branch is None else kept, y)),
        *(_vectors(z, n, parts, acc) for z in (gate, shift, 1 + scale.to(acc))),
        strict=False,
    )
    means, rstds = [], []
    for xi, hi, ki, yi, gi, bi, wi in pieces:
        made = xi if hi is None else _residual(xi, hi, gi, ki)
        if n == 1:
            out, m, r = torch.native_layer_norm(made.to(acc), D, wi, bi, eps)
            yi.copy_(out)
        else:
            out, m, r = torch.native_layer_norm(made.to(acc), D, None, None, eps)
            torch.addcmul(bi, out, wi, out=yi)
        means.append(m.view(-1))
        rstds.append(r.view(-1))
    torch.cat(means, out=mean.view(-1))
    torch.cat(rstds, out=rstd.view(-1))


def blocked_gradients(
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
    """Fill dx, dh (if there is a gate) and sums."""
    n, t = _sizes(kept)
    acc, parts = mean.dtype, -(-kept.shape[1] // t)
    pieces = zip(
        *(_tokens(z, n, t) for z in (kept, branch, u, v, dx, None if gate is None else dh)),
        *(_tokens(z[..., None], n, t) for z in (mean, rstd)),
        *(_vectors(z, n, parts, acc) for z in (gate, 1 + scale.to(acc))),
        strict=False,
    )
    found = []
    for xi, hi, ui, vi, dxi, dhi, mi, ri, gi, wi in pieces:
        d, *own = _of_norm(xi.to(acc), vi.to(acc), wi, mi, ri)
        d, free = _plus(d, ui, dxi)
        if gi is not None:
            torch.mul(d, gi, out=dhi)
            own.append(torch.mul(d, hi, out=free).sum(-2))
        found.append(torch.stack(own, -2))
    sums.copy_(torch.cat(found).view(len(kept), parts, *sums.shape[1:]).sum(1))


def _residual(x: Tensor, h: Tensor, g: Tensor | None, kept: Tensor) -> Tensor:
    """Store x', and return it as it was stored."""
    return torch.add(x, h, out=kept) if g is None else torch.addcmul(x, g, h, out=kept)


def _of_norm(
    x: Tensor, v: Tensor, w: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what comes through the norm to x, then db and ds of each sample."""
    backward, D = torch.ops.aten.native_layer_norm_backward.default, x.shape[-1:]
    if x.ndim == 2:
        d, ds, db = backward(v, x, D, mean, rstd, w, w, _ALL)
        return d, db, ds
    n = (x - mean).mul_(rstd)
    ds = n.mul_(v).sum(1)
    d, _, _ = backward(torch.mul(v, w, out=n), x, D, mean, rstd, None, None, _INPUT)
    return d, v.sum(1), ds


def _plus(d: Tensor, u: Tensor | None, out: Tensor) -> tuple[Tensor, Tensor]:
    """Store d + u; return it, not rounded, and memory that is free again, maybe its own."""
    if u is not None and out.dtype == d.dtype:
        return torch.add(d, u, out=out), d
    if u is not None:
        d += u
    out.copy_(d)
    return d, d


def _sizes(x: Tensor) -> tuple[int, int]:
    """Return how many samples, and how many tokens of each, are a block."""
    B, T, D = x.shape
    if T * D < SAMPLE:
        return min(B, max(1, BLOCK // (T * D))), T
    return 1, -(-T // -(-T * D // BLOCK))


def _tokens(z: Tensor | None, n: int, t: int) -> Iterable[Any]:
    """Return views of `[B, T, .]`, sample after sample: `[n, T, .]`, of one sample `[t, .]`."""
    if z is None:
        return repeat(None)
    return z.split(n) if n > 1 else (b for a in z.unbind() for b in a.split(t))


def _vectors(z: Tensor | None, n: int, parts: int, acc: torch.dtype) -> Iterable[Any]:
    """Return views of `[B, D]`, one for each of `_tokens`: `[n, 1, D]`, of one sample `[D]`."""
    if z is None:
        return repeat(None)
    z = z.to(acc)
    return z[:, None].split(n) if n > 1 else (a for a in z.unbind() for _ in range(parts))
