r"""Causal linear attention: attention without the softmax, in time linear in the length.

    o_t = w_t sum_{s <= t} v_s (k_s^* q_t)          w_t = 1, or 1 / max(t - 1, 1)

The sum is a running state, S_t = S_{t-1} + v_t k_t^*, applied to q_t. Three ways to compute it:

    reference   all T^2 scores k_s^* q_t, half of them thrown away       2 T^2 (D + M) flop
    recurrence  S_t from S_{t-1}: T steps, one after the other           4 T D M
    blocked     scores within C tokens, the state from block to block    2 T C (D + M) + 4 T D M

for each of the B sequences, and four times as much for complex numbers. At the least q, k, v are
read and o is written: T (2 D + 2 M) numbers a sequence.

The op is closed under differentiation. Let w belong to the later token of each pair; then the
gradients are the op again, with roles exchanged, two of them running backward in time:

    dq = op(g, v, k)    dk = op(v, g, q, reverse)    dv = op(k, q, g, reverse)

So one kernel does forward, backward, and the backward's backward; conjugates take care of
themselves.

Symbols: B sequences (all leading dimensions), T tokens (t from 1), D width of keys and queries, M
width of values, C tokens of a block. Transformers: arXiv:2006.16236v3 (Eqs. 8 and 12, feature map
the identity); blocks: arXiv:2312.06635v6, Section 4; w_t = 1/(t - 1): arXiv:2405.16845v2, Eq. (1).
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from core.kernels._choice import Impl, Op, refuse_forward_mode
from core.kernels._launch import device_limit

DTYPES = (
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.complex64,
    torch.complex128,
)
SMALL_STATE = 1024
"""Real numbers in a state up to which the Triton form may go token by token."""
SCRATCH = 2**19
"""Numbers that the torch form holds at once, at most, unless one sequence needs more."""


def causal_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    normalize: bool = False,
    reverse: bool = False,
    impl: Impl = "auto",
) -> Tensor:
    """Return `o_t = w_t sum_{s <= t} v_s (k_s^* q_t)`.

    Differentiable any number of times, in reverse mode. 16-bit inputs are summed in float32.
    The key-sum normalizer of other papers, 1 / sum_{s <= t} k_s q_t, is a quotient of two columns:
    append a column of ones to `v`.

    Args:
        q: `[..., T, D]` queries; bfloat16, float16, float32, float64, complex64 or complex128.
            Any strides; any dimension may be zero. Finite: a nan reaches all of its block. No
            `torch.vmap`: give it leading dimensions.
        k: `[..., T, D]` keys, of the same dtype, on the same device.
        v: `[..., T, M]` values, likewise.
        normalize: whether w_t is 1 / max(t - 1, 1) with t = 1, ..., T, else it is 1.
        reverse: whether the sum runs over s >= t; then w belongs to s, the later of the two.
        impl: `"reference"` (T^2 scores), `"torch"` (blocked), `"triton"` (a GPU kernel), or
            `"auto"`, see `core.kernels`.

    Returns:
        `[..., T, M]`, dtype and memory layout of `v`.

    Raises:
        ValueError: shapes, dtypes or devices do not agree, `impl` is unknown or cannot serve, or
            a forward-mode derivative is asked for (`reference_attention` has one).
        ImportError: Triton is asked for and not installed.
    """
    q, k, v = _check(q, k, v)
    refuse_forward_mode("causal_linear_attention", "reference_attention", q, k, v)
    return _Attention.apply(q, k, v, normalize, reverse, OP.choose(impl, q, k, v))  # type: ignore


def reference_attention(
    q: Tensor, k: Tensor, v: Tensor, *, normalize: bool = False, reverse: bool = False
) -> Tensor:
    """Do what `causal_linear_attention` says as it is written, and leave gradients to autograd."""
    T = q.shape[-2]
    scores = q @ k.mH  # [..., T, T]: k_s^* q_t
    t = torch.arange(1, T + 1, device=q.device)
    if normalize:
        later = torch.maximum(t[:, None], t[None, :])
        scores = scores / (later - 1).clamp(min=1)
    scores = scores.triu() if reverse else scores.tril()
    return scores.to(v.dtype) @ v


def torch_attention(
    q: Tensor, k: Tensor, v: Tensor, *, normalize: bool = False, reverse: bool = False
) -> Tensor:
    """Do the same in blocks of C tokens, a few sequences at a time."""
    q, k, v = (_widened(x) for x in (q, k, v))
    lead, (T, D), M = q.shape[:-2], q.shape[-2:], v.shape[-1]
    blocks, C = _blocks(T, D, M)
    q, k, v = (x.reshape(lead.numel(), T, x.shape[-1]) for x in (q, k, v))
    w = _weights(T, q) if normalize else None
    at_once = max(1, SCRATCH // (blocks * (C * (C + 2 * D + 2 * M) + D * M)))
    o = torch.empty_like(v)
    for i in range(0, len(o), at_once):
        part = slice(i, i + at_once)
        o[part] = _attend(q[part], k[part], v[part], C, w, reverse)
    return o.view(*lead, T, M)


def _attend(q: Tensor, k: Tensor, v: Tensor, C: int, w: Tensor | None, reverse: bool) -> Tensor:
    """Return `[B, T, M]`: within a block the scores, between blocks the state."""
    T = q.shape[1]
    if w is not None and reverse:
        v = v * w
    q, k, v = (_in_blocks(x, C) for x in (q, k, v))  # [B, n, C, .]
    scores = q @ k.mH
    o = (scores.triu_() if reverse else scores.tril_()) @ v
    if q.shape[1] > 1:
        later, earlier = slice(1, None), slice(None, -1)
        source, target = (later, earlier) if reverse else (earlier, later)
        S = k[:, source].mH @ v[:, source]  # [B, n - 1, D, M]: what each block adds
        o[:, target] += q[:, target] @ _running_sum(S, reverse)
    o = o.flatten(1, 2)[:, :T]
    return o if w is None or reverse else o * w


def _running_sum(S: Tensor, reverse: bool) -> Tensor:
    """Return the sums along dimension 1, from the end if `reverse`; may work in place."""
    if S.is_cuda:
        return S.flip(1).cumsum(1).flip(1) if reverse else S.cumsum(1)
    # torch's cumsum on a CPU takes half as long again as all the products
    order = range(S.shape[1])[::-1] if reverse else range(S.shape[1])
    for before, i in pairwise(order):
        S[:, i] += S[:, before]
    return S


def _blocks(T: int, D: int, M: int) -> tuple[int, int]:
    """Return how many blocks and how many tokens in each, as even as can be.

    Scores cost C (D + M) a token and states 2 D M, whatever C: they balance near the width.
    """
    about = min(128, max(20, (D + M) // 2))
    blocks = max(1, -(-T // about))
    return blocks, -(-T // blocks)


def _in_blocks(x: Tensor, C: int) -> Tensor:
    B, T, width = x.shape
    padded = torch.nn.functional.pad(x, (0, 0, 0, -T % C)) if T % C else x
    return padded.reshape(B, -1, C, width)


def _weights(T: int, like: Tensor) -> Tensor:
    """Return w_t = 1 / max(t - 1, 1), `[T, 1]`."""
    real = like.real if like.is_complex() else like
    return 1 / torch.arange(T, dtype=real.dtype, device=like.device).clamp(min=1)[:, None]


def _widened(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _check(
    q: Tensor, k: Tensor, v: Tensor, *, normalize: bool = False, reverse: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the tensors, or raise a ValueError that says how they disagree."""
    for x in (q, k, v):
        if not isinstance(x, Tensor) or x.layout != torch.strided:
            raise ValueError(f"want q, k, v as dense tensors, got {_kind(x)} among them")
    if min(q.ndim, k.ndim, v.ndim) < 2 or q.shape != k.shape or v.shape[:-1] != q.shape[:-1]:
        shapes = " ".join(str(list(x.shape)) for x in (q, k, v))
        raise ValueError(f"want q, k [..., T, D] and v [..., T, M], got {shapes}")
    if not (q.dtype == k.dtype == v.dtype):
        raise ValueError(f"want q, k, v of one dtype, got {q.dtype}, {k.dtype}, {v.dtype}")
    if q.dtype not in DTYPES:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise ValueError(f"want q, k, v of a dtype among {names}, got {q.dtype}")
    if not (q.device == k.device == v.device):
        raise ValueError(f"want q, k, v on one device, got {q.device}, {k.device}, {v.device}")
    return q, k, v


def _kind(x: object) -> str:
    return f"layout {x.layout}" if isinstance(x, Tensor) else type(x).__name__


def is_small(D: int, M: int) -> bool:
    """Tell whether a state of D x M real numbers, rounded up to powers of two, is small."""
    return _power_of_two(D) * _power_of_two(M) <= SMALL_STATE


def _power_of_two(n: int) -> int:
    power = 1
    while power < n:  # not bit_length: torch.compile may not know n
        power *= 2
    return power


def _triton_limit(q: Tensor, k: Tensor, v: Tensor) -> str | None:
    parts, D, M = 2 if q.is_complex() else 1, q.shape[-1], v.shape[-1]
    if q.dtype in (torch.float64, torch.complex128) and not is_small(parts * D, parts * M):
        return (
            f"impl='triton' wants a state of at most {SMALL_STATE} real numbers for {q.dtype}, "
            f"widths rounded up to powers of two, got D = {D}, M = {M}: take impl='torch'"
        )
    return device_limit(q.device)


OP = Op("causal_linear_attention", _check, {"triton": _triton_limit})


# The op is registered without autograd, and the Function stands outside: of the forms that survive
# torch.compile it is the one with the least overhead a call.
_LIBRARY = torch.library.Library("core_kernels", "FRAGMENT")
_LIBRARY.define(
    "causal_linear_attention(Tensor q, Tensor k, Tensor v, bool normalize, bool reverse, str impl)"
    " -> Tensor"
)


def _run(q: Tensor, k: Tensor, v: Tensor, normalize: bool, reverse: bool, impl: str) -> Tensor:
    out = torch.empty_like(v)
    if out.numel() == 0 or q.shape[-1] == 0:
        return out.zero_()
    if impl == "triton":
        from core.kernels.causal_linear_attention_triton import triton_attention

        return triton_attention(q, k, v, out, normalize=normalize, reverse=reverse)
    attention = reference_attention if impl == "reference" else torch_attention
    result = attention(q, k, v, normalize=normalize, reverse=reverse)
    as_promised = result.dtype == out.dtype and result.stride() == out.stride()
    return result if as_promised else out.copy_(result)


def _fake(q: Tensor, k: Tensor, v: Tensor, normalize: bool, reverse: bool, impl: str) -> Tensor:
    return torch.empty_like(v)


_LIBRARY.impl("causal_linear_attention", _run, "CompositeExplicitAutograd")
torch.library.register_fake("core_kernels::causal_linear_attention", _fake, lib=_LIBRARY)
_op = torch.ops.core_kernels.causal_linear_attention.default


class _Attention(torch.autograd.Function):
    """The op with its gradients, which are the op."""

    @staticmethod
    def forward(
        q: Tensor, k: Tensor, v: Tensor, normalize: bool, reverse: bool, impl: str
    ) -> Tensor:
        return _op(q, k, v, normalize, reverse, impl)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        q, k, v, *ctx.options = inputs
        ctx.save_for_backward(q, k, v)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v = ctx.saved_tensors
        normalize, reverse, impl = ctx.options
        wanted = ctx.needs_input_grad
        run = _Attention.apply
        return (
            run(g, v, k, normalize, reverse, impl) if wanted[0] else None,
            run(v, g, q, normalize, not reverse, impl) if wanted[1] else None,
            run(k, q, g, normalize, not reverse, impl) if wanted[2] else None,
            None,
            None,
            None,
        )
