r"""Attention over a short axis, of which there are very many: the frames of a video at each place.

    s_ij = scale q_i . k_j        p_ij = exp s_ij / sum_j exp s_ij        o_i = sum_j p_ij v_j

for every sample b, place n and head h by itself; i and j are frames. With g what comes back to o,

    dv_j = sum_i p_ij g_i         u_ij = p_ij (g_i . v_j - sum_j p_ij g_i . v_j)
    dq_i = scale sum_j u_ij k_j   dk_j = scale sum_i u_ij q_i

Tensors stay as a network has them, `[B, F, N, H, d]`: the tokens of a frame side by side, whose
projections need no other order. A sequence is then F rows of d numbers that lie N H d apart.
Kernels of attention have tiles of 128 queries for the F there are, and a grid of at most 65,535
sequences; those that want rows next to one another need a copy of each tensor, too. At the least q,
k, v are read and o is written, 4 numbers of F d a sequence; then q, k, v, g are read and dq, dk, dv
written, 7. Scores cost as little as they are small, so that backward forms them again.

Symbols: B samples, F frames, N places (tokens of a frame), H heads of width d. Attention:
arXiv:1706.03762v7, Eq. (1); over frames: thu-ml/controlvideo at 23b6b0b, libs/attention.py, the
code of arXiv:2305.17098.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from core.kernels._choice import Impl, Op, refuse_forward_mode
from core.kernels._launch import device_limit

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
LONGEST = 32
"""Frames that the Triton form takes, at most: a program holds all scores of a sequence."""
WIDEST = 256
"""Width of a head that it takes, at most."""
SEQUENCES = 2**30
"""Of them that it takes, at most: they are counted in 32 bits."""
PRODUCTS = 32
"""Frames up to which a CPU takes products and not torch's attention, in 32 and 64 bits."""
GRID = 2**15
"""Sequences that one call of torch's kernels is given, at most."""


def short_attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, impl: Impl = "auto"
) -> Tensor:
    """Return the attention over F of `[B, F, N, H, d]`, at each (b, n, h) by itself.

    Differentiable once, in reverse mode; 16-bit numbers are summed in float32. No mask, and no
    `torch.vmap`: give it samples.

    Args:
        q: `[B, F, N, H, d]` queries; bfloat16, float16, float32 or float64. Any strides; nothing is
            copied where numbers of a head are side by side. Any dimension may be zero. Finite: a
            nan may reach the sequences beside its own.
        k: keys, of the same shape and dtype, on the same device.
        v: values, likewise.
        scale: of the scores, the same for all; None: 1 / sqrt(d).
        impl: `"reference"` (the formula), `"torch"` (its own attention, or on a CPU products up to
            32 frames), `"triton"` (a GPU kernel for F up to 32 and d up to 256), or `"auto"`, see
            `core.kernels`.

    Returns:
        `[B, F, N, H, d]`, contiguous, of the dtype of v.

    Raises:
        ValueError: shapes, dtypes or devices do not agree, `impl` is unknown or cannot serve, or
            a derivative is asked for that there is not (`reference_short_attention` has it).
        ImportError: Triton is asked for and not installed.
    """
    q, k, v = _check(q, k, v, scale=scale)
    refuse_forward_mode("short_attention", "reference_short_attention", q, k, v)
    forms = {"reference": _formula, "torch": _by_torch, "triton": _Attention.apply}
    form: Any = forms[OP.choose(impl, q, k, v)]
    if q.numel() == 0:
        return q + k + v  # as empty as they are, and in the graph of all three
    with torch.autocast(q.device.type, enabled=False):
        return form(q, k, v, _scale(q, scale))


def reference_short_attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None
) -> Tensor:
    """Do what `short_attention` says as it is written, and leave gradients to autograd."""
    return _formula(q, k, v, _scale(q, scale))


def _scale(q: Tensor, scale: float | None) -> float:
    return max(1, q.shape[-1]) ** -0.5 if scale is None else float(scale)


def _formula(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    q, k, v = (x.permute(0, 2, 3, 1, 4) for x in (q, k, v))  # [B, N, H, F, d]
    o = (scale * (q @ k.mT)).softmax(-1) @ v
    return o.permute(0, 3, 1, 2, 4).contiguous()


def _by_torch(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Take products on a CPU, up to `PRODUCTS` frames, else torch's attention, on views.

    On a CPU its attention takes about as long as products forward, or half as long again, and about
    twice as long with gradients. What 16 bits lose in stored scores it keeps. It gets as many
    places at a time as a grid has room for.
    """
    if q.device.type == "cpu" and q.shape[1] <= PRODUCTS and q.dtype.itemsize >= 4:
        return _formula(q, k, v, scale)
    places = max(1, GRID // q.shape[3])
    columns = zip(*(x.split(places, 2) for x in (q, k, v)), strict=True)
    found = [
        torch.stack([_places(*sample, scale) for sample in zip(qs, ks, vs, strict=True)])
        for qs, ks, vs in columns
    ]
    return found[0] if len(found) == 1 else torch.cat(found, 2)


def _places(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Return torch's attention over the frames of `[F, n, H, d]`."""
    q, k, v = (x.permute(1, 2, 0, 3) for x in (q, k, v))  # [n, H, F, d], strides as they come
    return scaled_dot_product_attention(q, k, v, scale=scale).permute(2, 0, 1, 3)


def _check(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the tensors, or raise a ValueError that says how they disagree."""
    for x in (q, k, v):
        if not isinstance(x, Tensor) or x.layout != torch.strided:
            found = f"layout {x.layout}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"want q, k, v as dense tensors, got {found} among them")
    if q.ndim != 5 or not (q.shape == k.shape == v.shape):
        shapes = " ".join(str(list(x.shape)) for x in (q, k, v))
        raise ValueError(f"want q, k, v [B, F, N, H, d] of one shape, got {shapes}")
    if not (q.dtype == k.dtype == v.dtype):
        raise ValueError(f"want q, k, v of one dtype, got {q.dtype}, {k.dtype}, {v.dtype}")
    if q.dtype not in DTYPES:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise ValueError(f"want q, k, v of a dtype among {names}, got {q.dtype}")
    if not (q.device == k.device == v.device):
        raise ValueError(f"want q, k, v on one device, got {q.device}, {k.device}, {v.device}")
    return q, k, v


def _triton_limit(q: Tensor, *_: Tensor) -> str | None:
    B, F, N, H, d = q.shape
    for what, most, got in (
        ("frames", LONGEST, F),
        ("numbers in a head", WIDEST, d),
        ("sequences", SEQUENCES, B * N * H),
    ):
        if got > most:
            return f"impl='triton' wants at most {most:,} {what}, got {got:,}: take impl='torch'"
    return device_limit(q.device, torch.promote_types(q.dtype, torch.float32))


OP = Op("short_attention", _check, {"triton": _triton_limit})


# As in the other ops: registered without autograd, the Function outside. Only the kernel needs it;
# the other forms are torch's operations, and so are their gradients.
_LIBRARY = torch.library.Library("core_kernels", "FRAGMENT")
_LIBRARY.define("short_attention(Tensor q, Tensor k, Tensor v, float scale) -> Tensor")
_LIBRARY.define(
    "short_attention_backward(Tensor q, Tensor k, Tensor v, Tensor g, float scale)"
    " -> (Tensor, Tensor, Tensor)"
)


def _run(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    from core.kernels.short_attention_triton import triton_short_attention

    return triton_short_attention(q, k, v, scale, _fake(q, k, v, scale))


def _run_backward(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    from core.kernels.short_attention_triton import triton_gradients

    return triton_gradients(q, k, v, g, scale, _fake_backward(q, k, v, g, scale))


def _fake(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return torch.empty(v.shape, dtype=v.dtype, device=v.device)


def _fake_backward(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return _fake(q, k, v, scale), _fake(q, k, v, scale), _fake(q, k, v, scale)


for _name, _body, _meta in (
    ("short_attention", _run, _fake),
    ("short_attention_backward", _run_backward, _fake_backward),
):
    _LIBRARY.impl(_name, _body, "CompositeExplicitAutograd")
    torch.library.register_fake(f"core_kernels::{_name}", _meta, lib=_LIBRARY)
_forward = torch.ops.core_kernels.short_attention.default
_backward = torch.ops.core_kernels.short_attention_backward.default


class _Attention(torch.autograd.Function):
    """The kernel; of the forward pass only its inputs are kept."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        return _forward(q, k, v, scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.scale = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # create_graph=True
            raise ValueError(
                "short_attention is differentiable once, got a backward pass with "
                "create_graph=True: take reference_short_attention"
            )
        found = _backward(*ctx.saved_tensors, g, ctx.scale)
        wanted = zip(found, ctx.needs_input_grad, strict=False)
        return *(x if want else None for x, want in wanted), None
