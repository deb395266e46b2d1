r"""Gated residual, LayerNorm and modulation in one pass: what stands between two layers of a DiT.

    x'_t = x_t + g * h_t        n_t = (x'_t - mean x'_t) r_t        y_t = b + (1 + s) * n_t

with r_t = 1 / sqrt(var x'_t + eps), mean and var (biased) over the D numbers of a token, and g, s,
b one vector a sample, which a network makes of time and class. It is trainable: with u and v the
gradients that come back to x' and y, of any value,

    w_t = (1 + s) * v_t         dx_t = u_t + r_t (w_t - mean w_t - n_t mean(w_t * n_t))
    dh_t = g * dx_t             dg = sum_t h_t * dx_t     ds = sum_t n_t * v_t     db = sum_t v_t

An activation has N = B T D numbers. At the least x and h are read, x' and y written; then x', h,
u, v are read and dx, dh written: 4 N, and 6 N for gradients. Written in torch, each operation reads
and writes its own: 11 N, and 19 N for gradients.

Without h there is no residual, x' is x (the first norm of a block); without g it counts as 1.

Symbols: B samples, T tokens of each, D width; x, h (branch), g (gate), s (scale), b (shift). The
block: arXiv:2212.09748v2, Section 3.2, adaLN-Zero.
"""

from functools import reduce
from typing import Any

import torch
from torch import Tensor

from core.kernels._adaln_blocks import blocked, blocked_gradients
from core.kernels._choice import Impl, Op, refuse_forward_mode
from core.kernels._launch import device_limit

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
WIDEST = 4096
"""Numbers of a token that the Triton form takes, at most: a program holds all of them."""


def adaln(
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    *,
    branch: Tensor | None = None,
    gate: Tensor | None = None,
    eps: float = 1e-6,
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor]:
    """Return `x + gate * branch`, and its LayerNorm times `1 + scale`, plus `shift`.

    Differentiable once, in reverse mode, in all tensors, through both results. Dtypes may differ;
    everything is computed in float32 (float64 where one is float64), and rounded when it is stored.
    The norm is that of x' as it is stored. A nan stays in its token; in gradients of `shift`,
    `scale` and `gate`, in its sample. No `torch.vmap`: give it samples.

    Args:
        x: `[B, T, D]`; bfloat16, float16, float32 or float64. Any strides; there may be no sample
            and no token.
        shift: `[B, D]` or `[B, 1, D]`; with a leading 1 for B the same for all samples.
        scale: likewise.
        branch: `[B, T, D]`, what a layer made of the norm before; None: no residual.
        gate: as `shift`; None: 1.
        eps: added to the variance.
        impl: `"reference"` (one operation after the other), `"torch"` (on a CPU, blocks that stay
            in its cache), `"triton"` (a GPU kernel), or `"auto"`, see `core.kernels`.

    Returns:
        x' `[B, T, D]`, of the dtype to which torch promotes x, branch and gate; without a branch a
        view of x. And y `[B, T, D]`, of the dtype to which it promotes x', scale and shift.

    Raises:
        ValueError: shapes, dtypes or devices do not agree, there is a gate without a branch, `impl`
            is unknown or cannot serve, or a derivative is asked for that there is not
            (`reference_adaln` has it).
        ImportError: Triton is asked for and not installed.
    """
    tensors = _check(x, shift, scale, branch=branch, gate=gate)
    refuse_forward_mode("adaln", "reference_adaln", *tensors)
    impl = OP.choose(impl, *tensors)  # type: ignore[assignment]
    shift, scale = _by_sample(shift, len(x)), _by_sample(scale, len(x))
    gate = None if gate is None else _by_sample(gate, len(x))
    made, y, *_ = _AdaLN.apply(x, branch, gate, shift, scale, float(eps), impl)  # type: ignore
    return made, y


def reference_adaln(
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    *,
    branch: Tensor | None = None,
    gate: Tensor | None = None,
    eps: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    """Return x' and y as they are written, and leave gradients to autograd."""
    shift, scale = _by_sample(shift, len(x)), _by_sample(scale, len(x))
    if branch is not None:
        x = x + (branch if gate is None else _by_sample(gate, len(x))[:, None] * branch)
    n = torch.nn.functional.layer_norm(x, x.shape[-1:], eps=eps)
    return x, n * (1 + scale[:, None]) + shift[:, None]


def _by_sample(m: Tensor, B: int) -> Tensor:
    """Return `[B, D]`."""
    return (m.squeeze(1) if m.ndim == 3 else m).expand(B, -1)


def _check(
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    *,
    branch: Tensor | None = None,
    gate: Tensor | None = None,
    eps: float = 1e-6,
) -> tuple[Tensor, ...]:
    """Return the tensors, or raise a ValueError that says how they disagree."""
    given = {"x": x, "shift": shift, "scale": scale}
    optional = {"branch": branch, "gate": gate}
    given |= {name: t for name, t in optional.items() if t is not None}
    names = ", ".join(given)
    for t in given.values():
        if not isinstance(t, Tensor) or t.layout != torch.strided:
            found = f"layout {t.layout}" if isinstance(t, Tensor) else type(t).__name__
            raise ValueError(f"want {names} as dense tensors, got {found} among them")
    if gate is not None and branch is None:
        raise ValueError("want a branch for the gate to multiply, got a gate alone: leave it out")
    if x.ndim != 3 or (branch is not None and branch.shape != x.shape):
        raise ValueError(f"want x and branch [B, T, D], got {names} of {_shapes(given)}")
    for t in (shift, scale, *(() if gate is None else (gate,))):
        one = t.ndim == 2 or (t.ndim == 3 and t.shape[1] == 1)
        if not one or t.shape[0] not in (1, len(x)) or t.shape[-1] != x.shape[-1]:
            raise ValueError(
                f"want shift, scale, gate [B, D] or [B, 1, D], one vector a sample (or 1 for B), "
                f"got {names} of {_shapes(given)}"
            )
    if any(t.dtype not in DTYPES for t in given.values()):
        known = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        found = ", ".join(str(t.dtype) for t in given.values())
        raise ValueError(f"want {names} of dtypes among {known}, got {found}")
    if len({t.device for t in given.values()}) > 1:
        found = ", ".join(str(t.device) for t in given.values())
        raise ValueError(f"want {names} on one device, got {found}")
    return tuple(given.values())


def _shapes(given: dict[str, Tensor]) -> str:
    return " ".join(str(list(t.shape)) for t in given.values())


def _triton_limit(x: Tensor, *others: Tensor) -> str | None:
    if x.shape[2] > WIDEST:
        return (
            f"impl='triton' wants a width of at most {WIDEST}, got {x.shape[2]}: take impl='torch'"
        )
    return device_limit(x.device, _acc(x, *others))


OP = Op("adaln", _check, {"triton": _triton_limit})


# As in the other ops: registered without autograd, the Function outside.
_LIBRARY = torch.library.Library("core_kernels", "FRAGMENT")
_LIBRARY.define(
    "adaln(Tensor x, Tensor? branch, Tensor? gate, Tensor shift, Tensor scale, float eps, str impl)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)
_LIBRARY.define(
    "adaln_backward(Tensor kept, Tensor? branch, Tensor? gate, Tensor scale, Tensor mean, "
    "Tensor rstd, Tensor? u, Tensor v, str impl) -> (Tensor, Tensor, Tensor)"
)


def _run(
    x: Tensor,
    branch: Tensor | None,
    gate: Tensor | None,
    shift: Tensor,
    scale: Tensor,
    eps: float,
    impl: str,
) -> tuple[Tensor, ...]:
    """Return x' (no number where it is x), y, and `[B, T]` mean and r, for the backward pass."""
    kept, y, mean, rstd = _fake(x, branch, gate, shift, scale, eps, impl)
    if x.numel() == 0:
        return kept, y, mean.zero_(), rstd.zero_()
    given = x, branch, gate, shift, scale, eps
    with torch.autocast(x.device.type, enabled=False):
        if impl == "triton":
            from core.kernels.adaln_triton import triton_adaln

            triton_adaln(*given, kept, y, mean, rstd)
        elif impl == "torch" and x.device.type == "cpu":
            blocked(*given, kept, y, mean, rstd)
        else:
            made, out = reference_adaln(x, shift, scale, branch=branch, gate=gate, eps=eps)
            var, middle = torch.var_mean(made.to(mean.dtype), -1, correction=0)
            mean.copy_(middle)
            rstd.copy_((var + eps).rsqrt())
            y.copy_(out)
            if branch is not None:
                kept.copy_(made)
    return kept, y, mean, rstd


def _run_backward(
    kept: Tensor,
    branch: Tensor | None,
    gate: Tensor | None,
    scale: Tensor,
    mean: Tensor,
    rstd: Tensor,
    u: Tensor | None,
    v: Tensor,
    impl: str,
) -> tuple[Tensor, ...]:
    """Return dx; dh (no number where it is dx); and `[B, 2 or 3, D]` the sums for b, s and g."""
    given = kept, branch, gate, scale, mean, rstd, u, v
    dx, dh, sums = _fake_backward(*given, impl)
    if kept.numel() == 0:
        return dx, dh, sums.zero_()
    with torch.autocast(kept.device.type, enabled=False):
        if impl == "triton":
            from core.kernels.adaln_triton import triton_gradients

            triton_gradients(*given, dx, dh, sums)
        elif impl == "torch" and kept.device.type == "cpu":
            blocked_gradients(*given, dx, dh, sums)
        else:
            _reference_gradients(*given, dx, dh, sums)
    return dx, dh, sums


def _reference_gradients(
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
    """Fill dx, dh and sums by the formulas above, one operation after the other."""
    v, r = v.to(mean.dtype), rstd[..., None]
    n = (kept - mean[..., None]) * r
    w = (1 + scale[:, None]) * v
    d = r * (w - w.mean(-1, keepdim=True) - n * (w * n).mean(-1, keepdim=True))
    d = d if u is None else d + u
    dx.copy_(d)
    found = [v.sum(1), (n * v).sum(1)]
    if branch is not None and gate is not None:
        dh.copy_(gate[:, None] * d)
        found.append((branch * d).sum(1))
    sums.copy_(torch.stack(found, 1))


def _fake(
    x: Tensor,
    branch: Tensor | None,
    gate: Tensor | None,
    shift: Tensor,
    scale: Tensor,
    eps: float,
    impl: str,
) -> tuple[Tensor, ...]:
    there = [t for t in (x, branch, gate) if t is not None]
    kept, made = _promoted(*there), {"dtype": _acc(*there, shift, scale), "device": x.device}
    y = torch.promote_types(kept, _promoted(shift, scale))
    return (
        torch.empty(x.shape if branch is not None else 0, dtype=kept, device=x.device),
        torch.empty(x.shape, dtype=y, device=x.device),
        torch.empty(x.shape[:2], **made),
        torch.empty(x.shape[:2], **made),
    )


def _fake_backward(
    kept: Tensor,
    branch: Tensor | None,
    gate: Tensor | None,
    scale: Tensor,
    mean: Tensor,
    rstd: Tensor,
    u: Tensor | None,
    v: Tensor,
    impl: str,
) -> tuple[Tensor, ...]:
    B, _, D = kept.shape
    gated = gate is not None and branch is not None
    made = {"dtype": mean.dtype, "device": kept.device}
    return (
        torch.empty(kept.shape, dtype=kept.dtype, device=kept.device),
        torch.empty(
            kept.shape if gated else 0,
            dtype=kept.dtype if branch is None else branch.dtype,
            device=kept.device,
        ),
        torch.empty(B, 2 + gated, D, **made),
    )


def _promoted(*tensors: Tensor) -> torch.dtype:
    return reduce(torch.promote_types, (t.dtype for t in tensors))


def _acc(*tensors: Tensor) -> torch.dtype:
    """Return the dtype of everything that is computed."""
    return torch.promote_types(_promoted(*tensors), torch.float32)


for _name, _body, _meta in (
    ("adaln", _run, _fake),
    ("adaln_backward", _run_backward, _fake_backward),
):
    _LIBRARY.impl(_name, _body, "CompositeExplicitAutograd")
    torch.library.register_fake(f"core_kernels::{_name}", _meta, lib=_LIBRARY)
_forward = torch.ops.core_kernels.adaln.default
_backward = torch.ops.core_kernels.adaln_backward.default


class _AdaLN(torch.autograd.Function):
    """x' and y; without a branch x' is a view of x: its gradient is added in the same pass."""

    @staticmethod
    def forward(
        x: Tensor,
        branch: Tensor | None,
        gate: Tensor | None,
        shift: Tensor,
        scale: Tensor,
        eps: float,
        impl: str,
    ) -> tuple[Tensor, ...]:
        kept, *others = _forward(x, branch, gate, shift, scale, eps, impl)
        return (x.view_as(x) if branch is None else kept), *others

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, branch, gate, shift, scale, _, ctx.impl = inputs
        kept, _, mean, rstd = output
        ctx.mark_non_differentiable(mean, rstd)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(kept, branch, gate, scale, mean, rstd)
        ctx.dtypes = [None if t is None else t.dtype for t in (x, branch, gate, shift, scale)]

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, u: Tensor | None, v: Tensor | None, *_: None
    ) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # create_graph=True
            raise ValueError(
                "adaln is differentiable once, got a backward pass with create_graph=True: take "
                "reference_adaln"
            )
        kept, branch, gate, scale, mean, rstd = ctx.saved_tensors
        v = torch.zeros_like(kept) if v is None else v
        dx, dh, sums = _backward(kept, branch, gate, scale, mean, rstd, u, v, ctx.impl)
        db, ds, *dg = sums.unbind(1)
        found = dx, (dx if gate is None else dh), (dg[0] if dg else None), db, ds
        kinds = zip(found, ctx.dtypes, ctx.needs_input_grad, strict=False)
        return (
            *(g.to(kind) if g is not None and want else None for g, kind, want in kinds),
            None,
            None,
        )
