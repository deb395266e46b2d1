r"""How large the error of a conditional maximum-likelihood estimate is, once n is large.

The estimate is off by Delta ~ N(0, I^-1 / n), and TV by half the mean of |s' Delta|, s the score:

    sqrt(n) E R_TV -> (2 pi)^(-1/2) E_{x,y} sqrt(s' I^-1 s) <= sqrt(dim / (2 pi)),   I = E[s s']

by Jensen, dim the rank of I. It holds for a fixed number of sources, of a regular family that
contains the truth in its interior, and is asymptotically exact where the paper has an upper bound.

The ratio of two such numbers is what pooling gains, and `bounds.effective_similarity` the
similarity that it implies, where the paper's beta_sim counts parameters.

Symbols (arXiv:2502.14583): `p` $p^*(x|y)$ on N outcomes, `weights` $p_Y$. The law is not in the
paper; it is the delta method. Source k has natural parameters theta_k = `design`_k theta of which
`design` says what is shared.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from core.multisource._tensor_checks import probabilities

RANK = 1e-10
"""Eigenvalues of I below this part of the largest count as zero."""


class FisherLaw(NamedTuple):
    """R_TV = constant / sqrt(n), nearly."""

    constant: float
    """(2 pi)^(-1/2) E sqrt(s' I^-1 s)."""
    dim: int
    """Rank of the information: parameters that can be told apart."""

    def error(self, n: int) -> float:
        """Return R_TV for n samples of all sources together."""
        return self.constant / math.sqrt(n)

    @property
    def most(self) -> float:
        """The constant where all outcomes are alike: sqrt(dim / (2 pi))."""
        return math.sqrt(self.dim / (2 * math.pi))


def fisher_law(
    p: Tensor, scores: Tensor, design: Tensor | None = None, weights: Tensor | None = None
) -> FisherLaw:
    """Return the law of a family at a truth.

    Args:
        p: `[K, N]` probabilities of the outcomes, or of cells.
        scores: `[K, N, m]` derivatives of log p of source k by its m natural parameters.
        design: `[K, m, P]` derivatives of these by all P parameters; None for those of each source
            being its own, as if they were estimated one by one.
        weights: `[K]` share of each source; None for sources alike.

    Raises:
        ValueError: shapes do not fit, or p does not sum to one (with the sum).
    """
    p = probabilities("p", p)
    K, N = p.shape
    m = scores.shape[-1]
    design = single_design(K, m).to(p) if design is None else design.to(p)
    if scores.shape != (K, N, m) or design.shape[:2] != (K, m):
        raise ValueError(
            f"want scores [{K}, {N}, m] and design [{K}, m, P], got {list(scores.shape)} and "
            f"{list(design.shape)}"
        )
    weights = p.new_full((K,), 1 / K) if weights is None else probabilities("weights", weights)
    s = scores.to(p)
    own = torch.einsum("kx,kxa,kxb->kab", p * weights[:, None], s, s)
    information = torch.einsum("kap,kab,kbq->pq", design, own, design)
    values, vectors = torch.linalg.eigh(information)
    kept = values > RANK * values[-1]
    root = vectors[:, kept] / values[kept].sqrt()  # [P, dim], root root' = I^-1
    length = (s @ (design @ root)).norm(dim=-1)  # [K, N]
    mean = float((p * weights[:, None] * length).sum())
    return FisherLaw(mean / math.sqrt(2 * math.pi), int(kept.sum()))


def histogram_law(p: Tensor, weights: Tensor | None = None) -> FisherLaw:
    """Return the law of relative frequencies, each source's its own: no model at all.

        R_TV = sum_k w_k sum_x sqrt(p_k(x) (1 - p_k(x)) / (2 pi n w_k))

    Args:
        p: `[K, N]` probabilities.
        weights: `[K]` share of each source; None for sources alike.
    """
    p = probabilities("p", p)
    weights = p.new_full((len(p),), 1 / len(p)) if weights is None else weights.to(p)
    total = (weights.sqrt() * (p * (1 - p)).sqrt().sum(1)).sum()
    dim = int((p > 0).sum()) - len(p)
    return FisherLaw(float(total) / math.sqrt(2 * math.pi), dim)


def single_design(K: int, m: int) -> Tensor:
    """Return the design of sources that share nothing, `[K, m, K m]`."""
    return torch.eye(K * m, dtype=torch.float64).view(K, m, K * m)


def shared_design(K: int, shared: Tensor) -> Tensor:
    """Return the design of sources that share some natural parameters.

    Args:
        K: sources.
        shared: `[m]` bool.

    Returns:
        `[K, m, P]`: of P, first those that are shared, then each source's own.
    """
    m, S = len(shared), int(shared.sum())
    q = m - S
    design = torch.zeros(K, m, S + K * q, dtype=torch.float64)
    design[:, shared, :S] = torch.eye(S, dtype=torch.float64)
    for k in range(K):
        design[k, ~shared, S + k * q : S + (k + 1) * q] = torch.eye(q, dtype=torch.float64)
    return design
