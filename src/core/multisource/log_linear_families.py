r"""Two small families whose true errors can be computed: autoregressive and energy-based.

    autoregressive   x in {0, 1}^D,    logit p(x_j = 1 | x_<j, k) = b_kj + sum_{i<j} W_kji x_i
    energy-based     x in [0, 1]^2,    p(x | k) ~ exp(theta_k' F(x)),  F products of cosines

Both are `log_linear`: the first has a block for each token; the second has one, on a grid of cells
whose probabilities stand for densities. They are no networks, but have what the paper's theory
speaks of: some parameters that sources share, and some of their own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.checks import at_least
from core.multisource.fisher import FisherLaw, fisher_law
from core.multisource.log_linear import Block, fit
from core.multisource.tree import prefixes


@dataclass(frozen=True)
class LogLinear:
    """A family: blocks, and how their contexts make up an outcome."""

    blocks: Sequence[Block]
    """D of them, block d on the 2^d prefixes of d tokens; or one, with one context."""

    @property
    def shared(self) -> Tensor:
        """Return which natural parameters are shared, `[m]`, of all blocks one after the other."""
        return torch.cat([block.shared for block in self.blocks])

    @property
    def beta_sim(self) -> float:
        """Share of one source's parameters that it has in common with the others."""
        return float(self.shared.double().mean())

    def probabilities(self, theta: Tensor) -> Tensor:
        """Return `[..., N]` for natural parameters `[..., m]` of sources."""
        flat = theta.reshape(-1, theta.shape[-1])
        found = flat.new_ones(len(flat), 1)  # of prefixes of no token
        for block, own in zip(self.blocks, self._parts(flat), strict=True):
            found = (found[..., None] * block.log_probs(own).exp()).flatten(1)
        return found.view(*theta.shape[:-1], -1)

    def scores(self, theta: Tensor) -> Tensor:
        """Return derivatives of log p by the natural parameters, `[K, N, m]` for `[K, m]`."""
        D, parts = len(self.blocks), []
        for d, (block, own) in enumerate(zip(self.blocks, self._parts(theta), strict=True)):
            s = block.scores(own).flatten(1, 2)  # [K, prefixes of d + 1 tokens, m]
            parts.append(s.repeat_interleave(2 ** (D - 1 - d), dim=1) if D > 1 else s)
        return torch.cat(parts, dim=2)

    def fit(self, counts: Tensor, *, multi: bool) -> Tensor:
        """Return the estimated probabilities of all replications, `[R, K, N]`.

        Args:
            counts: `[R, K, N]` how often each source had each outcome.
            multi: share what is shared; else each source is fitted alone.

        Raises:
            ValueError: shapes do not fit, or a source has no data.
        """
        R, K = counts.shape[:2]
        found = []
        for block in self.blocks:
            C, O = block.features.shape[:2]
            of_prefix = counts.reshape(R, K, C, O, -1).sum(-1)
            found.append(fit(block, of_prefix, multi=multi).theta)
        return self.probabilities(torch.cat(found, dim=2))

    def law(self, theta: Tensor, *, multi: bool) -> FisherLaw:
        """Return the Fisher law of the estimate at a truth, from sources alike.

        Args:
            theta: `[K, m]` natural parameters of the truth.
            multi: share what is shared; else each source is fitted alone.
        """
        K, m = theta.shape
        whole = Block(theta.new_zeros(1, 1, m), self.shared)
        design = whole.design(K, multi=multi)
        return fisher_law(self.probabilities(theta), self.scores(theta), design)

    def _parts(self, theta: Tensor) -> tuple[Tensor, ...]:
        return theta.split([block.features.shape[2] for block in self.blocks], dim=-1)


def autoregressive(D: int, shared: float, rng: np.random.Generator) -> LogLinear:
    """Return the family on {0, 1}^D in which some of the weights W are shared, and no b.

    Args:
        D: tokens, at most 16.
        shared: part of the D (D - 1) / 2 weights, in [0, 1].
        rng: which of them.
    """
    at_least(1, D=D)
    if D > 16 or not 0 <= shared <= 1:
        raise ValueError(f"want D <= 16 and shared in [0, 1], got D = {D}, shared = {shared}")
    pairs = D * (D - 1) // 2
    chosen = torch.zeros(pairs, dtype=torch.bool)
    chosen[torch.from_numpy(rng.permutation(pairs)[: round(shared * pairs)])] = True
    blocks, used = [], 0
    for d in range(D):
        of_one = torch.cat([torch.ones(2**d, 1), prefixes(d, 0, 2**d)], dim=1).double()
        features = torch.stack([torch.zeros_like(of_one), of_one], dim=1)  # of 0, and of 1
        own = torch.cat([torch.zeros(1, dtype=torch.bool), chosen[used : used + d]])
        blocks.append(Block(features, own))
        used += d
    return LogLinear(blocks)


def energy_based(cells: int, highest: int, shared: int) -> LogLinear:
    """Return the family on a grid of [0, 1]^2 whose energies are sums of cosines.

    Args:
        cells: along each coordinate.
        highest: half waves along a coordinate; (highest + 1)^2 - 1 features in all.
        shared: how many of them, the first ones, sources have in common.
    """
    at_least(2, cells=cells)
    at_least(1, highest=highest)
    x = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    half_waves = torch.arange(highest + 1, dtype=torch.float64)[:, None]
    waves = torch.cos(math.pi * half_waves * x)  # [highest + 1, cells]
    features = torch.einsum("ax,by->xyab", waves, waves).reshape(cells**2, -1)[:, 1:]
    m = features.shape[1]
    if not 0 <= shared <= m:
        raise ValueError(f"want 0 <= shared <= {m}, got {shared}")
    return LogLinear([Block(features[None], torch.arange(m) < shared)])


def draw_truth(
    family: LogLinear, K: int, rng: np.random.Generator, *, scale: float = 0.8
) -> Tensor:
    """Return natural parameters of K sources, `[K, m]`: normal, those that are shared alike."""
    at_least(1, K=K)
    shared = family.shared
    theta = torch.from_numpy(rng.standard_normal((K, len(shared)))) * scale
    theta[:, shared] = theta[0, shared]
    return theta


def draw_counts(p: Tensor, n: int, reps: int, rng: np.random.Generator) -> Tensor:
    """Return how often n samples of sources alike have each outcome, `[R, K, N]`.

    Args:
        p: `[K, N]` probabilities, on any device; so is the result.
        n: samples of all sources together.
        reps: R, independent replications.
        rng: what is drawn from, on the CPU.
    """
    at_least(1, n=n, reps=reps)
    K = len(p)
    exact = p.double().cpu().numpy()
    exact = exact / exact.sum(1, keepdims=True)
    n_k = rng.multinomial(n, np.full(K, 1 / K), size=reps)
    found = [rng.multinomial(n_k[:, k], exact[k]) for k in range(K)]
    return torch.from_numpy(np.stack(found, axis=1)).to(p.device)
