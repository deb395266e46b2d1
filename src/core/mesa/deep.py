r"""More layers: a stack of linear self-attentions, which can take more gradient steps.

The residual stream of token t has four slots, e_t = (y_hat_t, r_t, x_t, x_{t-1}), at first
(0, x_t, x_t, x_{t-1}); each layer adds W_PV S_t W_KQ e_t as the paper's one layer does. K gradient
steps on L_t from W = 0 (`core.mesa.mesa_layer`) end at

    W_K = eta S_t sum_{k<K} (I - eta R_t)^k      (R_t, S_t and the step divided by t - 1)

and K layers can do just that: with keys x_{i-1} and query r_t, each adds eta S_t r_t to y_hat_t and
takes eta R_t r_t from r_t. Keys and values are raw tokens, so it stays exact under the causal mask.

The predictions are polynomials of x_1 whose degree grows like 3^K. Trained on a Gaussian start
they are good for nearly all sequences and can be far off for the few very large ones, which then
rule a mean squared error: report `median_relative_error` beside it.

Source: arXiv:2405.16845v2 expects more of deeper models; layers as gradient steps are
an idea of arXiv:2212.07677. This construction is ours.
"""

from typing import Self

import torch
from torch import Tensor, nn

from core.checks import at_least
from core.mesa._checks import finite, positive
from core.mesa.lsa import check_sequences
from core.mesa.moments import Start
from core.mesa.process import sample_sequences, tokens


class LinearStack(nn.Module):
    """K linear self-attentions on one residual stream of width 4d."""

    def __init__(self, W_PV: Tensor, W_KQ: Tensor) -> None:
        """Take the weights as they are (copied).

        Args:
            W_PV: `[K, 4d, 4d]`, real.
            W_KQ: `[K, 4d, 4d]`, real.

        Raises:
            ValueError: the shapes differ or are not of this form, or a weight is not real and
                finite.
        """
        super().__init__()
        if W_PV.ndim != 3 or W_PV.shape != W_KQ.shape or W_PV.shape[1] != W_PV.shape[2]:
            raise ValueError(
                f"want W_PV and W_KQ [K, 4d, 4d], got {list(W_PV.shape)} and {list(W_KQ.shape)}"
            )
        if min(W_PV.shape) < 1 or W_PV.shape[1] % 4:
            raise ValueError(f"want K >= 1 layers of width 4d, got {list(W_PV.shape)}")
        if not all(W.is_floating_point() and W.isfinite().all() for W in (W_PV, W_KQ)):
            raise ValueError("want weights that are real and finite, got others among them")
        self.W_PV = nn.Parameter(W_PV.detach().clone())
        self.W_KQ = nn.Parameter(W_KQ.detach().clone())

    @classmethod
    def gradient_steps(cls, d: int, layers: int, eta: float) -> Self:
        """Return the stack whose K layers are K gradient steps of size eta / (t - 1)."""
        at_least(1, d=d, layers=layers)
        finite(eta=eta)
        W_PV = torch.zeros(layers, 4 * d, 4 * d, dtype=torch.float64)
        W_KQ = torch.zeros_like(W_PV)
        eye = torch.eye(d, dtype=torch.float64)
        W_PV[:, :d, 2 * d : 3 * d] = eta * eye  # x_i into y_hat
        W_PV[:, d : 2 * d, 3 * d :] = -eta * eye  # x_{i-1} out of r
        W_KQ[:, 3 * d :, d : 2 * d] = eye  # x_{i-1} against r_t
        return cls(W_PV, W_KQ)

    @classmethod
    def gaussian(cls, d: int, layers: int, sigma_w: float, generator: torch.Generator) -> Self:
        """Return a stack of independent N(0, sigma_w^2) weights, drawn from `generator`."""
        at_least(1, d=d, layers=layers)
        positive(sigma_w=sigma_w)
        W = sigma_w * torch.randn(2, layers, 4 * d, 4 * d, generator=generator, dtype=torch.float64)
        return cls(*W)

    def forward(self, x: Tensor) -> Tensor:
        """Return the predictions of x_3, ..., x_T.

        Args:
            x: `[N, T, d]` sequences, complex, T >= 3.

        Returns:
            `[N, T-2, d]`.

        Raises:
            ValueError: `x` does not fit the weights.
        """
        d = self.W_PV.shape[1] // 4
        check_sequences(x, d)
        e = torch.cat([torch.zeros_like(x), x, tokens(x)], dim=2)[:, :-1]  # [N, T-1, 4d]
        rho = torch.arange(x.shape[1] - 1, dtype=x.real.dtype, device=x.device)
        rho = rho.clamp(min=1)[:, None]  # t = 1 has no context to average over
        for W_PV, W_KQ in zip(self.W_PV.to(x.dtype), self.W_KQ.to(x.dtype), strict=True):
            attention = (e @ W_KQ.mT @ e.mH).tril() / rho  # [N, T-1, T-1]: e_i^* W_KQ e_t
            e = e + attention @ e @ W_PV.mT
        return e[:, 1:, :d]


def train_stack(
    stack: LinearStack,
    start: Start,
    T: int,
    *,
    steps: int,
    generator: torch.Generator,
    batch: int = 128,
    lr: float = 0.01,
    clip: float = 1.0,
) -> Tensor:
    """Train in place by Adam with a cosine schedule, on sequences that are new at each step.

    Args:
        stack: changed in place.
        start: the law of x_1.
        T: training length.
        steps: number of steps.
        generator: what the sequences are drawn from.
        batch: sequences a step.
        lr: the first learning rate.
        clip: largest norm of a gradient; heavy-tailed starts need it.

    Returns:
        `[steps]` relative mean squared errors, each on its own batch, before its step.

    Raises:
        ValueError: steps or batch is below one, lr or clip is not above zero, T < 3, the start has
            another d than the stack, or the training diverges.
    """
    at_least(1, steps=steps, batch=batch)
    positive(lr=lr, clip=clip)
    optimizer = torch.optim.Adam(stack.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for step in range(steps):
        x = sample_sequences(start, T, batch, generator, device=stack.W_PV.device)
        loss = (stack(x) - x[:, 2:]).abs().square().mean() / start.kappas.k0
        if not loss.isfinite():
            raise ValueError(f"diverged before step {step} with lr = {lr}: want a smaller lr")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(stack.parameters(), clip)
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    return torch.stack(losses)
