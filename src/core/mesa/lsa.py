r"""The one-layer linear causal self-attention, its loss, and the loss's gradient.

    y_t = W_PV S_t W_KQ e_t,    S_t = (1/rho_t) sum_{i <= t} e_i e_i^*,    rho_t = t - 1

predicts x_{t+1} for t = 2, ..., T-1 (Eq. 1); the loss sums half the squared error over t and
averages it over the sequences (Eq. 2). The published code multiplies the whole prefix again at
each t (`impl="loop"`, our reference). But S_t is a running sum, and the layer is causal linear
attention with weight 1/(t - 1), keys e_s and queries W_KQ e_t (`impl="causal"`): its cost grows
with T, not with T^2, and `core.kernels` has an implementation for the CPU and one for a GPU.

Source: arXiv:2405.16845v2, Eqs. (1) and (2), Assumption 3.1. Symbols here = there: `W_PV`
$(W^{PV}_{12}\\ W^{PV}_{13})$, `W_KQ` the lower-right 2d x 2d block of $W^{KQ}$, `a`, `b` the
diagonals of $W^{KQ}_{32}$ and $W^{PV}_{12}$.
"""

from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from core.checks import at_least
from core.kernels.causal_linear_attention import causal_linear_attention
from core.mesa._checks import positive
from core.mesa.process import tokens

Impl = Literal["loop", "causal"]

BLOCK = 128
"""Sequences that a step takes at once: 2 MB of tokens at d = 5, T = 100, which a cache holds."""


class LossGradient(NamedTuple):
    """The loss and its gradient, in torch's convention for complex weights."""

    loss: Tensor
    """Scalar."""
    W_PV: Tensor
    """`[d, 2d]`."""
    W_KQ: Tensor
    """`[2d, 2d]`."""


class LinearSelfAttention(nn.Module):
    """The layer, with the paper's merged weights (the blocks that reach the prediction)."""

    def __init__(self, W_PV: Tensor, W_KQ: Tensor) -> None:
        """Take the weights as they are (copied).

        Args:
            W_PV: `[d, 2d]`, real as in the paper or complex as in its code.
            W_KQ: `[2d, 2d]`, of the same dtype.

        Raises:
            ValueError: the shapes or dtypes do not fit, or a weight is not finite.
        """
        super().__init__()
        check_weights(W_PV, W_KQ)
        self.W_PV = nn.Parameter(W_PV.detach().clone())
        self.W_KQ = nn.Parameter(W_KQ.detach().clone())

    @classmethod
    def from_diagonal(
        cls, d: int, a: float, b: float, *, dtype: torch.dtype = torch.float64
    ) -> Self:
        """Return the layer of Assumption 3.1: W32_KQ = a I, W12_PV = b I, all else zero."""
        at_least(1, d=d)
        W_PV = torch.zeros(d, 2 * d, dtype=dtype)
        W_KQ = torch.zeros(2 * d, 2 * d, dtype=dtype)
        W_PV[:, :d].fill_diagonal_(b)
        W_KQ[d:, :d].fill_diagonal_(a)
        return cls(W_PV, W_KQ)

    @classmethod
    def gaussian(
        cls,
        d: int,
        sigma_w: float,
        generator: torch.Generator,
        *,
        dtype: torch.dtype = torch.float64,
    ) -> Self:
        """Return a layer of independent N(0, sigma_w^2) weights, as for Figures 5 and 6."""
        at_least(1, d=d)
        positive(sigma_w=sigma_w)
        W_PV = sigma_w * torch.randn(d, 2 * d, generator=generator, dtype=dtype)
        W_KQ = sigma_w * torch.randn(2 * d, 2 * d, generator=generator, dtype=dtype)
        return cls(W_PV, W_KQ)

    @property
    def d(self) -> int:
        """Number of coordinates."""
        return self.W_PV.shape[0]

    @property
    def ab(self) -> Tensor:
        """`[d]` products of the two diagonals of Assumption 3.1, detached."""
        b, a = self.W_PV[:, : self.d].diagonal(), self.W_KQ[self.d :, : self.d].diagonal()
        return (a * b).detach()

    def forward(self, x: Tensor, *, impl: Impl = "causal") -> Tensor:
        """Return the predictions of x_3, ..., x_T.

        Args:
            x: `[N, T, d]` sequences, complex, T >= 3.
            impl: `"causal"`, or the published loop.

        Returns:
            `[N, T-2, d]`: entry t-2 predicts x_{t+1} from x_1, ..., x_t.

        Raises:
            ValueError: `x` does not fit the weights, or `impl` is unknown.
        """
        check_sequences(x, self.d)
        W_PV, W_KQ = self.W_PV.to(x.dtype), self.W_KQ.to(x.dtype)
        if impl == "loop":
            return _predict_loop(W_PV, W_KQ, x)
        if impl != "causal":
            raise ValueError(f"want impl 'loop' or 'causal', got {impl!r}")
        e = tokens(x)[:, :-1]  # t = 1, ..., T-1
        return causal_linear_attention(e @ W_KQ.mT, e, e @ W_PV.mT, normalize=True)[:, 1:]

    def loss(self, x: Tensor, *, impl: Impl = "causal") -> Tensor:
        """Return Eq. (2) with the mean over the N sequences in place of the expectation."""
        residual = self(x, impl=impl) - x[:, 2:]
        return 0.5 * residual.abs().square().sum() / len(x)


def _predict_loop(W_PV: Tensor, W_KQ: Tensor, x: Tensor) -> Tensor:
    """Do what the published code does: multiply the prefix afresh at each t."""
    E = tokens(x).mT  # [N, 2d, T]
    predictions = []
    for t in range(2, x.shape[1]):
        E_t, e_t = E[:, :, :t], E[:, :, t - 1 : t]
        predictions.append(W_PV @ E_t @ E_t.mH @ W_KQ @ e_t / (t - 1))
    return torch.cat(predictions, dim=2).mT


def loss_and_gradient(W_PV: Tensor, W_KQ: Tensor, x: Tensor, *, block: int = BLOCK) -> LossGradient:
    """Return Eq. (2) and its gradient on all N sequences.

    Exact, by hand: with u_t = S_t W_KQ e_t, the residual r_t = W_PV u_t - x_{t+1} and
    h_t = S_t W_PV^* r_t,

        dL/dW_PV = mean sum_t r_t u_t^*,    dL/dW_KQ = mean sum_t h_t e_t^*

    and for real weights the real part of both. Autograd would need a third attention.

    Args:
        W_PV: `[d, 2d]`, real or complex.
        W_KQ: `[2d, 2d]`, of the same dtype.
        x: `[N, T, d]` sequences, complex.
        block: sequences at once; it changes speed, memory and rounding only. A GPU wants more.

    Raises:
        ValueError: the shapes or dtypes do not fit, a value is not finite, or block < 1.
    """
    at_least(1, block=block)
    check_weights(W_PV, W_KQ)
    check_sequences(x, W_PV.shape[0])
    V, K = W_PV.to(x.dtype), W_KQ.to(x.dtype)
    loss = torch.zeros((), dtype=x.real.dtype, device=x.device)
    g_V, g_K = torch.zeros_like(V), torch.zeros_like(K)
    for part in x.split(block):
        e = tokens(part)[:, :-1]  # t = 1, ..., T-1
        u = causal_linear_attention(e @ K.mT, e, e, normalize=True)
        r = u @ V.mT - part[:, 1:]
        r[:, 0] = 0  # the loss begins at t = 2
        h = causal_linear_attention(r, e @ V.mT, e, normalize=True)  # sum_s e_s (V e_s)^* r_t
        loss = loss + 0.5 * r.abs().square().sum()
        g_V += r.flatten(0, 1).mT @ u.flatten(0, 1).conj()
        g_K += h.flatten(0, 1).mT @ e.flatten(0, 1).conj()
    if not W_PV.is_complex():
        g_V, g_K = g_V.real, g_K.real
    return LossGradient(loss / len(x), g_V / len(x), g_K / len(x))


def check_weights(W_PV: Tensor, W_KQ: Tensor) -> None:
    """Raise a ValueError unless the weights are `[d, 2d]` and `[2d, 2d]`, alike, and finite."""
    d = W_PV.shape[0] if W_PV.ndim else 0
    if d < 1 or W_PV.shape != (d, 2 * d) or W_KQ.shape != (2 * d, 2 * d):
        raise ValueError(
            f"want W_PV [d, 2d] and W_KQ [2d, 2d], got {list(W_PV.shape)} and {list(W_KQ.shape)}"
        )
    if W_PV.dtype != W_KQ.dtype or not (W_PV.is_floating_point() or W_PV.is_complex()):
        raise ValueError(
            f"want weights of one dtype, floating or complex, got {W_PV.dtype} and {W_KQ.dtype}"
        )
    if not (W_PV.isfinite().all() and W_KQ.isfinite().all()):
        raise ValueError("want finite weights, got inf or nan: is the step too large?")


def check_sequences(x: Tensor, d: int | None = None) -> None:
    """Raise a ValueError unless `x` is a complex `[N >= 1, T >= 3, d]` without inf or nan."""
    if x.ndim != 3 or x.shape[0] < 1 or x.shape[1] < 3 or x.shape[2] != (d or max(1, x.shape[2])):
        width = "d >= 1" if d is None else f"d = {d}"
        raise ValueError(f"want sequences [N >= 1, T >= 3, {width}], got {list(x.shape)}")
    if not x.is_complex():
        raise ValueError(f"want complex sequences, got {x.dtype}: call x.to(torch.complex128)")
    if not x.isfinite().all():
        raise ValueError("want finite sequences, got inf or nan among them")
