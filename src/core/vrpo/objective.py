r"""The DPO-ELBO loss of a batch, and its gradient as one number for each masked sequence.

    s_hat = beta (mean_j [a_j - b_j]_w - mean_j [a_j - b_j]_l)      loss = -log sigma(s_hat)

with a = w S the weighted terms of the policy and b those of the reference. The gradient of every
loss here is linear in the gradients of the sequences' masked log-likelihoods S,

    grad = sum_j slope_j w_j grad S_j,

so that scoring and differentiating can be two passes: all S without gradient give the slopes, then
one sequence at a time is run forward and backward. It is the same gradient, at the memory of n = 1.

Sources: arXiv:2505.19223v2, Eqs. (7), (8); Appendix D.1 for the supervised term. The jackknife and
cross-fitting are not in the paper.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from core.vrpo.draws import Design

LossEstimate = Literal["plain", "jackknife"]
GradientEstimate = Literal["plain", "cross-fitted"]


class Terms(NamedTuple):
    """Weighted terms `weights * S` of B pairs, `[B, n]` each, float64, no gradient needed."""

    policy_w: Tensor
    policy_l: Tensor
    reference_w: Tensor
    reference_l: Tensor

    def score(self, beta: float, draws: slice = slice(None)) -> Tensor:
        """Return the score estimate s_hat of each pair from some of its draws, `[B]`."""
        margin = self.policy_w - self.reference_w, self.policy_l - self.reference_l
        w, l = (part[:, draws].mean(1) for part in margin)
        return beta * (w - l)


class Objective(NamedTuple):
    """What a batch comes to."""

    loss: Tensor
    """`[B]` estimate of the DPO-ELBO loss of each pair, nats."""
    score: Tensor
    """`[B]` s_hat."""
    slope_w: Tensor
    """`[B, n]`: gradient of the batch's mean loss in each term of the policy, chosen."""
    slope_l: Tensor
    """`[B, n]`: the same, rejected."""


def dpo(
    terms: Terms,
    design: Design,
    *,
    beta: float,
    loss: LossEstimate = "plain",
    gradient: GradientEstimate = "plain",
) -> Objective:
    """Return loss and slopes of a batch.

    The plain loss is biased by at most V[s_hat] / 8. The jackknife, 2 f(s) - (f(s_a) + f(s_b)) / 2
    over independent halves a and b, takes away the part of the bias that falls as 1 / n; it is the
    loss that is reported, not one to differentiate. The cross-fitted gradient weighs half b by
    sigma(-s_a) and half a by sigma(-s_b): for each pair its mean is a positive multiple of the
    exact gradient.

    Args:
        terms: of B pairs.
        design: how they were drawn.
        beta: strength of the reference, > 0.
        loss: the estimate of the loss.
        gradient: the estimate of the gradient.

    Raises:
        ValueError: shapes or the number of draws do not agree, a term is not finite, beta is not
            positive, or halves are wanted that are not independent.
    """
    _check(terms, design, beta)
    if loss not in ("plain", "jackknife") or gradient not in ("plain", "cross-fitted"):
        raise ValueError(
            "want loss 'plain' or 'jackknife' and gradient 'plain' or 'cross-fitted', got "
            f"{loss!r} and {gradient!r}"
        )
    score = terms.score(beta)
    value = -logsigmoid(score)
    weight = torch.sigmoid(-score)[:, None].expand_as(terms.policy_w)
    if loss == "jackknife" or gradient == "cross-fitted":
        a, b = (terms.score(beta, half) for half in _halves(design))
        if loss == "jackknife":
            value = 2 * value + (logsigmoid(a) + logsigmoid(b)) / 2
        if gradient == "cross-fitted":
            other = torch.stack([torch.sigmoid(-b), torch.sigmoid(-a)], 1)
            weight = other.repeat_interleave(design.n // 2, dim=1)
    slope_w = -beta * weight / weight.numel()
    return Objective(value, score, slope_w, -slope_w)


def supervised_slopes(terms: Terms, lengths: Tensor, *, weight: float) -> Tensor:
    """Return the slopes of `weight` times the mean negative ELBO per token of the chosen responses.

    Args:
        terms: of B pairs.
        lengths: `[B]` tokens of the chosen responses.
        weight: 0.05 in the paper.

    Returns:
        `[B, n]`, to be added to `slope_w`.
    """
    B, n = terms.policy_w.shape
    return (-weight / (B * n) / lengths.double())[:, None].expand(B, n)


def _halves(design: Design) -> tuple[slice, slice]:
    if not design.has_independent_halves:
        raise ValueError(
            "the jackknife and cross-fitting want two independent halves, got n_t = "
            f"{design.n_t} {design.counts} counts in {design.sets} set(s): take an even n_t, and "
            "sets=2 with systematic counts"
        )
    return slice(None, design.n // 2), slice(design.n // 2, None)


def _check(terms: Terms, design: Design, beta: float) -> None:
    if not beta > 0:
        raise ValueError(f"want beta > 0, got {beta}")
    shape = terms.policy_w.shape
    if any(part.shape != shape for part in terms) or len(shape) != 2 or shape[1] != design.n:
        found = ", ".join(f"{name} {tuple(x.shape)}" for name, x in terms._asdict().items())
        raise ValueError(f"want four arrays [B, {design.n}], as n = {design.n}, got {found}")
    for name, part in terms._asdict().items():
        bad = (~part.isfinite()).any(1).nonzero().flatten().tolist()
        if bad:
            raise ValueError(
                f"want finite terms, got nan or infinity in {name} of pair(s) {bad[:5]} of the "
                "batch: look at these examples and at the model's log-probabilities"
            )
