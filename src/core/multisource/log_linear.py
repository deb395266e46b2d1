r"""Families with a convex likelihood, several sources sharing some of their parameters.

In context c, source k has the outcome o with probability

    p_k(o | c) = exp(f(c, o)' theta_k) / sum_o' exp(f(c, o')' theta_k),    theta_k = design_k theta

`design` says what is shared. An autoregressive model is a list of such blocks, one for each token,
whose contexts are prefixes; an energy-based one is a single block with a single context. The
estimate is found by Newton's method, for all replications at once: counts are all it needs.

Symbols: `R` replications, `K` sources, `C` contexts, `O` outcomes, `m` features, `P` parameters.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from core.checks import at_least
from core.multisource._tensor_checks import sources_with_data
from core.multisource.fisher import shared_design, single_design

RIDGE = 1e-4
"""Weight of |theta|^2 / 2, in samples: keeps estimates finite where a context was seen once."""


@dataclass(frozen=True)
class Block:
    """What is chosen, and what is known of it."""

    features: Tensor
    """f, `[C, O, m]` float64."""
    shared: Tensor
    """`[m]` bool: whether all sources have this natural parameter in common."""

    def __post_init__(self) -> None:
        """Refuse what does not fit."""
        if self.features.ndim != 3 or self.shared.shape != self.features.shape[2:]:
            raise ValueError(
                "want features [C, O, m] and shared [m], got "
                f"{list(self.features.shape)} and {list(self.shared.shape)}"
            )

    def design(self, K: int, *, multi: bool) -> Tensor:
        """Return what is shared by K sources, `[K, m, P]`: nothing where each is fitted alone."""
        m = self.features.shape[2]
        found = shared_design(K, self.shared.cpu()) if multi else single_design(K, m)
        return found.to(self.features)

    def log_probs(self, theta: Tensor) -> Tensor:
        """Return log p, `[..., C, O]`, for natural parameters `[..., m]`."""
        return torch.einsum("com,...m->...co", self.features, theta).log_softmax(-1)

    def scores(self, theta: Tensor) -> Tensor:
        """Return derivatives of log p by theta, `[..., C, O, m]`."""
        p = self.log_probs(theta).exp()
        return self.features - torch.einsum("...co,com->...cm", p, self.features)[..., None, :]


class Fitted(NamedTuple):
    """Estimates."""

    theta: Tensor
    """`[R, K, m]` natural parameters of each source."""
    slope: Tensor
    """`[R]` largest derivative that is left, in samples: near zero at the maximum."""


def fit(block: Block, counts: Tensor, *, multi: bool, steps: int = 50) -> Fitted:
    """Return maximum-likelihood estimates of all replications.

    Args:
        block: the family.
        counts: `[R, K, C, O]` how often each source had each outcome in each context.
        multi: share what the block shares; else each source is fitted alone.
        steps: Newton steps at most; each is halved as long as it loses.

    Raises:
        ValueError: shapes do not fit, or a source has no data in one of the replications.
    """
    at_least(1, steps=steps)
    shape = (block.features.shape[0], block.features.shape[1])
    if counts.ndim != 4 or counts.shape[2:] != shape:
        raise ValueError(f"want counts [R, K, {shape[0]}, {shape[1]}], got {list(counts.shape)}")
    counts = counts.to(block.features)
    sources_with_data(counts.sum((2, 3)))
    R, K = counts.shape[:2]
    problem = _Problem(block.features, block.design(K, multi=multi), counts)
    theta = counts.new_zeros(R, problem.design.shape[2])
    for _ in range(steps):
        slope, curvature = problem.derivatives(theta)
        step = torch.linalg.solve(curvature, slope[..., None]).squeeze(-1)
        theta = theta + problem.damping(theta, step)[:, None] * step
        if step.abs().max() < 1e-9:
            break
    slope, _ = problem.derivatives(theta)
    return Fitted(problem.natural(theta), slope.abs().amax(1))


class _Problem:
    """A concave function of theta `[R, P]`, for each replication."""

    def __init__(self, features: Tensor, design: Tensor, counts: Tensor) -> None:
        self.features, self.design = features, design
        self.in_context = counts.sum(3)  # [R, K, C]
        self.moment = torch.einsum("rkco,com->rkm", counts, features)
        # what the variance of features is made of: one product for all sources
        self.pairs = torch.einsum("coa,cob->coab", features, features)

    def natural(self, theta: Tensor) -> Tensor:
        return torch.einsum("kmp,rp->rkm", self.design, theta)

    def _logits(self, theta: Tensor) -> Tensor:
        return torch.einsum("com,rkm->rkco", self.features, self.natural(theta))

    def value(self, theta: Tensor) -> Tensor:
        linear = (self.natural(theta) * self.moment).sum((1, 2))
        log_Z = (self.in_context * self._logits(theta).logsumexp(3)).sum((1, 2))
        return linear - log_Z - RIDGE / 2 * theta.square().sum(1)

    def derivatives(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slope `[R, P]` and minus the curvature `[R, P, P]`."""
        p = self._logits(theta).softmax(3) * self.in_context[..., None]
        mean = torch.einsum("rkco,com->rkcm", p, self.features)
        # where a context was not seen, its mean is zero and so is what it adds
        seen = self.in_context.clamp(min=1e-300)[..., None]
        second = torch.einsum("rkco,coab->rkab", p, self.pairs)
        own = second - torch.einsum("rkca,rkcb->rkab", mean / seen, mean)
        slope = torch.einsum("kmp,rkm->rp", self.design, self.moment - mean.sum(2))
        H = torch.einsum("kap,rkab,kbq->rpq", self.design, own, self.design)
        eye = torch.eye(theta.shape[1]).to(theta)
        return slope - RIDGE * theta, H + RIDGE * eye

    def damping(self, theta: Tensor, step: Tensor) -> Tensor:
        """Return the longest of 1, 1/2, 1/4, .. along each step that does not lose, `[R]`."""
        size, at = theta.new_ones(len(theta)), self.value(theta)
        for _ in range(30):
            loses = self.value(theta + size[:, None] * step) < at - 1e-9 * at.abs()
            if not loses.any():
                break
            size = torch.where(loses, size / 2, size)
        return size
