r"""Log-probability of one token a row under a linear head, without the logits in memory.

    z_i = W h_i + b        lse_i = log sum_v exp z_iv        logp_i = z_iy - lse_i,  y = target_i

Rows are independent: give those whose probability is wanted (of a masked-diffusion model: the
masked ones), and nothing is computed for others. With g and l the gradients that come back to logp
and lse, of any value in each row, and p = softmax(z),

    dz_i = g_i e_y - (g_i - l_i) p_i    dh_i = W^T dz_i    dW = sum_i dz_i h_i^T    db = sum_i dz_i

What a call costs, and what it holds beside its inputs and results:

    full logits     2 N D V flop forward, 4 N D V for gradients    N V logits, and as much again
    trained head    2 N D V forward, 2 again and 4 for gradients   a block of logits
    frozen head     4 N D V forward, gradients with it             a block of logits, N D numbers

With a frozen head (W and b want no gradient) the forward pass also sums, block by block, the unit
gradient of logp, which is all that backward needs, whatever g and l will be:

    u_i = W^T (e_y - p_i)        dh_i = (g_i - l_i) u_i + l_i W_y

Blocks of the vocabulary come one after the other; m_i is the largest logit so far, s_i the sum of
exp(z_iv - m_i), and what was summed before is scaled when m_i grows. The target stands apart from
both, so that nothing cancels where its probability is close to one:

    rest_i = m_i + log s_i        logp_i = -log(1 + exp(rest_i - z_iy))
    u_i = sum_{v != y} p_iv (W_y - W_v)

Symbols: N rows (all leading dimensions), D width, V vocabulary. The running sums are those of
arXiv:1805.02867v2, Algorithm 3.
"""

from typing import Any, Literal, overload

import torch
from torch import Tensor

from core.kernels._choice import Impl, Op, refuse_forward_mode
from core.kernels._launch import device_limit
from core.kernels._linear_logprob_blocks import torch_gradients, torch_logprob, wide

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@overload
def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = ...,
    return_lse: Literal[False] = ...,
    impl: Impl = ...,
) -> Tensor: ...


@overload
def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = ...,
    return_lse: Literal[True],
    impl: Impl = ...,
) -> tuple[Tensor, Tensor]: ...


def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    return_lse: bool = False,
    impl: Impl = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Return `log softmax(hidden @ weight.T + bias)[target]`, in nats.

    Differentiable once, in reverse mode, in hidden, weight and bias, through both results. Logits
    of 16-bit inputs are summed, and kept, in float32. Call it inside what unshards `weight`.

    Args:
        hidden: `[..., D]`; bfloat16, float16, float32 or float64. Any strides; there may be no
            row. No `torch.vmap`.
        weight: `[V, D]`, of the same dtype, on the same device; `V` is one at least. If neither it
            nor `bias` wants a gradient, the gradient of `hidden` comes with the forward pass.
        target: `[...]` int64, each in `[0, V)`. Looked at on a CPU; on a GPU that would have to
            wait for it, and a row with a target that is not there is nan.
        bias: `[V]`, of the same dtype; -inf forbids a token.
        return_lse: whether to return the log of the sum over the vocabulary too.
        impl: `"reference"` (all logits), `"torch"` (blocks), `"triton"` (a GPU kernel), or
            `"auto"`, see `core.kernels`.

    Returns:
        `[...]` float32, float64 for float64; with `return_lse` a pair of such.

    Raises:
        ValueError: shapes, dtypes or devices do not agree, a target is not in the vocabulary,
            `impl` is unknown or cannot serve, or a forward-mode derivative is asked for
            (`reference_logprob` has one).
        ImportError: Triton is asked for and not installed.
    """
    tensors = _check(hidden, weight, target, bias=bias)
    refuse_forward_mode("linear_logprob", "reference_logprob", hidden, weight, *tensors[3:])
    impl = OP.choose(impl, *tensors)  # type: ignore[assignment]
    trained = weight.requires_grad or (bias is not None and bias.requires_grad)
    frozen = torch.is_grad_enabled() and hidden.requires_grad and not trained
    rows = hidden.reshape(target.numel(), hidden.shape[-1]), weight, target.reshape(-1), bias
    logp, lse, _ = _LogProb.apply(*rows, frozen and impl != "reference", impl)  # type: ignore
    logp, lse = logp.view(target.shape), lse.view(target.shape)
    return (logp, lse) if return_lse else logp


def reference_logprob(
    hidden: Tensor, weight: Tensor, target: Tensor, *, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return logp and lse as they are written, and leave gradients to autograd."""
    z = torch.nn.functional.linear(hidden, weight, bias)
    z = z.to(wide(z.dtype))
    lse = z.logsumexp(-1)
    return z.gather(-1, target[..., None]).squeeze(-1) - lse, lse


def _check(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    return_lse: bool = False,
) -> tuple[Tensor, ...]:
    """Return the tensors, or raise a ValueError that says how they disagree."""
    tensors = (hidden, weight, target, *(() if bias is None else (bias,)))
    for x in tensors:
        if hasattr(x, "full_tensor"):  # a DTensor
            raise ValueError(
                "want whole tensors, got a sharded one: call this inside the forward of the module "
                "that owns the weight and that fully_shard wraps, or pass x.full_tensor()"
            )
        if not isinstance(x, Tensor) or x.layout != torch.strided:
            found = f"layout {x.layout}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"want hidden, weight, target, bias as dense tensors, got {found}")
    fit = hidden.ndim >= 1 and weight.ndim == 2 and weight.shape[1] == hidden.shape[-1]
    if not fit or target.shape != hidden.shape[:-1] or weight.shape[0] < 1:
        raise ValueError(
            f"want hidden [..., D], weight [V, D], target [...] with V at least 1, "
            f"got {_shapes_of(tensors)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"want bias [V], one number a row of weight, got {_shapes_of(tensors)}")
    numbers = [x for x in tensors if x is not target]
    if len({x.dtype for x in numbers}) > 1 or hidden.dtype not in DTYPES:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        found = ", ".join(str(x.dtype) for x in numbers)
        raise ValueError(
            f"want hidden, weight, bias of one dtype among {names}, got {found}: cast them, as "
            "with weight.to(hidden.dtype)"
        )
    if target.dtype != torch.int64:
        numbers = target.dtype in (torch.int32, torch.int16, torch.int8, torch.uint8)
        hint = "take target.long()" if numbers else "it holds token ids, no mask and no weights"
        raise ValueError(f"want target of int64, got {target.dtype}: {hint}")
    if len({x.device for x in tensors}) > 1:
        found = ", ".join(str(x.device) for x in tensors)
        raise ValueError(f"want hidden, weight, target, bias on one device, got {found}")
    return tensors


def _shapes_of(tensors: tuple[Tensor, ...]) -> str:
    return " ".join(str(list(x.shape)) for x in tensors)


def _triton_limit(hidden: Tensor, *others: Tensor) -> str | None:
    return device_limit(hidden.device, hidden.dtype)


OP = Op("linear_logprob", _check, {"triton": _triton_limit})


# As in the other ops: registered without autograd, the Function outside.
_LIBRARY = torch.library.Library("core_kernels", "FRAGMENT")
_LIBRARY.define(
    "linear_logprob(Tensor hidden, Tensor weight, Tensor target, Tensor? bias, bool frozen, "
    "str impl) -> (Tensor, Tensor, Tensor)"
)
_LIBRARY.define(
    "linear_logprob_backward(Tensor hidden, Tensor weight, Tensor target, Tensor? bias, "
    "Tensor logp, Tensor lse, Tensor g, Tensor l, bool[] wanted, str impl) -> (Tensor, Tensor, "
    "Tensor)"
)


def _run(
    hidden: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None, frozen: bool, impl: str
) -> tuple[Tensor, Tensor, Tensor]:
    V = len(weight)
    if not target.is_cuda and target.numel() and not 0 <= int(target.min()) <= target.max() < V:
        raise ValueError(
            f"want every target in [0, V) with V = {V}, got {int(target.min())} to "
            f"{int(target.max())}: leave out the rows that have none (-100 is not skipped here)"
        )
    with torch.autocast(hidden.device.type, enabled=False):
        if impl == "reference":
            logp, lse = reference_logprob(hidden, weight, target, bias=bias)
            return logp, lse, logp.new_empty(0, hidden.shape[1])
        steps = _steps(impl)
        if steps is None or frozen or len(hidden) == 0:
            return torch_logprob(hidden, weight, target, bias, frozen=frozen, steps=steps)
        from core.kernels.linear_logprob_triton import triton_logprob

        logp, lse = triton_logprob(hidden, weight, target, bias)
        return logp, lse, logp.new_empty(0, hidden.shape[1])


def _steps(impl: str) -> Any:
    if impl != "triton":
        return None
    from core.kernels.linear_logprob_triton import Steps

    return Steps


def _run_backward(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    logp: Tensor,
    lse: Tensor,
    g: Tensor,
    l: Tensor,
    wanted: list[bool],
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast(hidden.device.type, enabled=False):
        if impl == "reference":
            return _reference_gradients(hidden, weight, target, bias, g, l, wanted)
        given = hidden, weight, target, bias, logp, lse, g, l, wanted
        return torch_gradients(*given, steps=_steps(impl))


def _reference_gradients(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    g: Tensor,
    l: Tensor,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    z = torch.nn.functional.linear(hidden, weight, bias)
    dz = (l - g)[:, None] * z.to(wide(z.dtype)).softmax(-1)
    dz = dz.scatter_add_(1, target[:, None], g[:, None]).to(z.dtype)
    return (
        dz @ weight if wanted[0] else hidden.new_empty(0, hidden.shape[1]),
        torch.empty_like(weight).copy_(dz.T @ hidden) if wanted[1] else weight.new_empty(0),
        dz.sum(0) if wanted[2] else weight.new_empty(0),
    )


def _fake(
    hidden: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None, frozen: bool, impl: str
) -> tuple[Tensor, Tensor, Tensor]:
    N, D = hidden.shape
    made = {"dtype": wide(hidden.dtype), "device": hidden.device}
    return (
        torch.empty(N, **made),
        torch.empty(N, **made),
        torch.empty(N if frozen else 0, D, **made),
    )


def _fake_backward(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    logp: Tensor,
    lse: Tensor,
    g: Tensor,
    l: Tensor,
    wanted: list[bool],
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    (N, D), V = hidden.shape, len(weight)
    return (
        hidden.new_empty(N if wanted[0] else 0, D),
        torch.empty_like(weight) if wanted[1] else weight.new_empty(0),
        weight.new_empty(V if wanted[2] else 0),
    )


for _name, _body, _meta in (
    ("linear_logprob", _run, _fake),
    ("linear_logprob_backward", _run_backward, _fake_backward),
):
    _LIBRARY.impl(_name, _body, "CompositeExplicitAutograd")
    torch.library.register_fake(f"core_kernels::{_name}", _meta, lib=_LIBRARY)
_forward = torch.ops.core_kernels.linear_logprob.default
_backward = torch.ops.core_kernels.linear_logprob_backward.default


class _LogProb(torch.autograd.Function):
    """logp, lse and, with a frozen head, the unit gradient, which has none itself."""

    @staticmethod
    def forward(
        hidden: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None, frozen: bool, impl: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _forward(hidden, weight, target, bias, frozen, impl)

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        hidden, weight, target, bias, ctx.frozen, ctx.impl = inputs
        logp, lse, unit = output
        ctx.mark_non_differentiable(unit)
        if ctx.frozen:
            ctx.save_for_backward(weight, target, unit)
            ctx.dtype = hidden.dtype
        else:
            ctx.save_for_backward(hidden, weight, target, bias, logp, lse)

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, g: Tensor, l: Tensor, _: Tensor
    ) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # create_graph=True
            raise ValueError(
                "linear_logprob is differentiable once, got a backward pass with "
                "create_graph=True: take reference_logprob"
            )
        if ctx.frozen:
            weight, target, unit = ctx.saved_tensors
            own = weight[target.clamp(0, len(weight) - 1)]
            dh = (g - l)[:, None] * unit + l[:, None] * own
            return dh.to(ctx.dtype), None, None, None, None, None
        hidden, weight, target, bias, logp, lse = ctx.saved_tensors
        wanted = [ctx.needs_input_grad[i] for i in (0, 1, 3)]
        saved = hidden, weight, target, bias, logp, lse
        dh, dW, db = _backward(*saved, g, l, wanted, ctx.impl)
        found = [x if want else None for x, want in zip((dh, dW, db), wanted, strict=True)]
        return found[0], found[1], None, found[2], None, None
