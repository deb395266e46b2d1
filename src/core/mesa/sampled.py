r"""Training on sampled sequences, as the paper's experiments do: full-batch gradient descent.

Two ways, both exact. `train` passes over the sequences at every step. But the loss of N sequences
is quadratic in W_PV (x) W_KQ (`core.mesa.quadratic`), with means over the sequences in place of
expectations: `SampledLoss` sums Q and C once, and after that a step costs d (2d)^6 multiplications,
whatever N and T.

Source: arXiv:2405.16845v2, Eq. (2), Section 6, Theorem 4.3.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from core.checks import at_least
from core.mesa._checks import positive
from core.mesa.lsa import BLOCK, LinearSelfAttention, check_sequences, loss_and_gradient
from core.mesa.process import tokens
from core.mesa.quadratic import QuadraticLoss, Weights

ROWS = 4096
"""Rows of Phi summed at once, at most (one sequence at least)."""


class History(NamedTuple):
    """What a training run did, before each step and after the last."""

    loss: Tensor
    """`[steps + 1]` Eq. (2) on the training sequences."""
    ab: Tensor
    """`[steps + 1, d]` products of the two diagonals."""


class SampledLoss(QuadraticLoss):
    """The loss of Eq. (2) on N sequences, as a function of real weights.

    Q has (2d)^6 entries: 8 MB at d = 5, 0.5 GB at d = 10.
    """

    def __init__(self, x: Tensor) -> None:
        """Sum Q, C and c0 over the sequences, on the device where they are.

        Costs 2 N (T-2) (2d)^6 multiplications; a loss near zero carries the rounding error of c0.

        Args:
            x: `[N, T, d]` sequences, complex.

        Raises:
            ValueError: the shape does not fit, or a value is not finite.
        """
        check_sequences(x)
        N, T, d = x.shape
        n = (2 * d) ** 3
        Q = torch.zeros(n, n, dtype=x.real.dtype, device=x.device)
        C = torch.zeros(d, n, dtype=x.real.dtype, device=x.device)
        for part in x.split(max(1, ROWS // (2 * (T - 2)))):
            Phi = _features(part)
            Q.addmm_(Phi.mT, Phi)
            C.addmm_(_real_rows(part[:, 2:]).mT, Phi)
        c0 = float(0.5 * x[:, 2:].abs().square().sum() / N)
        super().__init__(d, T, (Q / N).cpu().numpy(), (C / N).cpu().numpy(), c0)


def _features(x: Tensor) -> Tensor:
    """Return Phi_t = S_t (x) e_t, t = 2, ..., T-1: real above imaginary, `[2 N (T-2), (2d)^3]`."""
    e = tokens(x)[:, :-1]
    rho = torch.arange(1, x.shape[1] - 1, dtype=x.real.dtype, device=x.device)
    S = (e[..., :, None] * e.conj()[..., None, :]).cumsum(dim=1)[:, 1:] / rho[:, None, None]
    return _real_rows((S[..., None] * e[:, 1:, None, None, :]).flatten(2))


def _real_rows(z: Tensor) -> Tensor:
    z = z.flatten(0, 1)
    return torch.cat([z.real, z.imag])


def weights_of(layer: LinearSelfAttention) -> Weights:
    """Return a real layer's weights as `Population` and `SampledLoss` take them.

    Raises:
        ValueError: the weights are complex.
    """
    if layer.W_PV.is_complex():
        raise ValueError("want real weights, got complex ones: the engine is real, as the paper is")
    W_PV, W_KQ = layer.W_PV.detach().double().cpu(), layer.W_KQ.detach().double().cpu()
    return Weights(W_PV.numpy(), W_KQ.numpy())


def train(
    layer: LinearSelfAttention,
    x: Tensor,
    *,
    lr: float,
    steps: int,
    block: int = BLOCK,
    masked: bool = False,
) -> History:
    """Train the layer in place, by full-batch gradient descent without momentum.

    Args:
        layer: changed in place.
        x: `[N, T, d]` training sequences, complex.
        lr: step size; the paper's lie between 2e-6 and 3e-2, the smaller the wider the start.
        steps: number of steps (the paper's epochs).
        block: sequences at once, see `loss_and_gradient`.
        masked: whether W12 and W32 are kept diagonal by masking their gradient (Theorem 4.3).

    Returns:
        The loss and the products ab along the way.

    Raises:
        ValueError: lr, steps or block is none, or the weights cease to be finite.
    """
    positive(lr=lr)
    at_least(0, steps=steps)
    losses, products = [], []
    keep_PV, keep_KQ = _masks(layer, masked)
    for step in range(steps + 1):
        _refuse_divergence(layer, step, lr)
        now = loss_and_gradient(layer.W_PV.detach(), layer.W_KQ.detach(), x, block=block)
        losses.append(now.loss)
        products.append(layer.ab)
        if step < steps:
            with torch.no_grad():
                layer.W_PV.sub_(lr * keep_PV * now.W_PV)
                layer.W_KQ.sub_(lr * keep_KQ * now.W_KQ)
    return History(torch.stack(losses), torch.stack(products))


def _masks(layer: LinearSelfAttention, masked: bool) -> tuple[Tensor, Tensor]:
    d, weight = layer.d, layer.W_PV.detach()
    keep_PV, keep_KQ = torch.ones_like(weight), torch.ones_like(layer.W_KQ.detach())
    if masked:
        eye = torch.eye(d, dtype=weight.dtype, device=weight.device)
        keep_PV[:, :d] = eye
        keep_KQ[d:, :d] = eye
    return keep_PV, keep_KQ


def _refuse_divergence(layer: LinearSelfAttention, step: int, lr: float) -> None:
    if not (layer.W_PV.isfinite().all() and layer.W_KQ.isfinite().all()):
        raise ValueError(f"diverged before step {step} with lr = {lr}: want lr < 2 / sharpness")
