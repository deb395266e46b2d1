r"""The covering lemmas behind Theorems 4.3 and 4.4, tried on networks.

    C.4      parameters that differ by delta give outputs that differ by at most
             L (B v 1)^(L-1) (W + 1)^L delta, for inputs in [0, 1]
    C.5      a network changes by at most (B W)^L for a change of its input by one
    C.7, D.2 logits (energies) within eps_H: exp(2 D eps_H) times one law is a bracket for the
             other, which has a gap of exp(2 D eps_H) - 1, D = 1 for energies

All norms are largest absolute values. A statement about all networks cannot be shown by trying
some; a network that breaks it would refute it, and `share` says how much of the bound is used. The
extreme networks, with every entry at B, use all of C.5.

Source: arXiv:2502.14583, Appendices C and D; class F(L, W, S, B) of Definition 4.2.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from core.checks import at_least
from core.multisource.ensemble import Parameters, relu_layers, relu_network, size

DELTA = 1e-3
"""By which parameters and inputs are changed."""


class Shares(NamedTuple):
    """The largest part of each bound that a network used; above one refutes it."""

    parameters: float
    """Of Lemma C.4."""
    inputs: float
    """Of Lemma C.5."""


def try_lemmas(sizes: list[int], rng: np.random.Generator, *, draws: int = 100) -> Shares:
    """Return how much of Lemmas C.4 and C.5 random networks use, and the extreme one.

    Args:
        sizes: of the layers, input first; L = len(sizes) - 1, W the largest.
        rng: what networks, inputs and changes are drawn from.
        draws: networks; one more has every entry at its largest.
    """
    at_least(1, draws=draws, layers=len(sizes) - 1)
    L, W = len(sizes) - 1, max(sizes)
    used = []
    for draw in range(draws + 1):
        network = {name: p[None] for name, p in relu_layers(sizes, rng).items()}
        if draw == draws:
            network = {name: torch.ones_like(p) for name, p in network.items()}
        moved = {name: p + DELTA * _signs(rng, p, draw == draws) for name, p in network.items()}
        B, B_moved = size(network)[1], size(moved)[1]
        x = torch.from_numpy(rng.uniform(size=(1, 64, sizes[0])))
        if draw == draws:
            x = torch.ones_like(x)
        step = DELTA * _signs(rng, x, draw == draws)
        most = L * max(B, B_moved, 1) ** (L - 1) * (W + 1) ** L * DELTA
        used.append(
            (
                _apart(network, x, moved, x) / most,
                _apart(network, x, network, x + step) / ((B * W) ** L * DELTA),
            )
        )
    return Shares(*np.max(used, axis=0).tolist())


def bracket_gap(logits: Tensor, other: Tensor) -> tuple[float, float]:
    """Return the gap of the bracket of Lemmas C.7 and D.2, and its least margin over the other law.

    Args:
        logits: `[N, M]` of D steps, or `[1, M]` of minus an energy, whose law the bracket raises.
        other: `[N, M]`, of the law that it is to stand over.

    Returns:
        exp(2 D eps_H) - 1, with eps_H the largest difference and D = N; and the least of
        log p' - log p over all D steps' outcomes, to be at least zero.
    """
    D = len(logits)
    eps_H = float((logits - other).abs().max())
    margin = 2 * eps_H + (logits.log_softmax(1) - other.log_softmax(1)).min(1).values
    return float(np.expm1(2 * D * eps_H)), float(margin.sum())


def _apart(a: Parameters, x: Tensor, b: Parameters, z: Tensor) -> float:
    return float((relu_network(a, x) - relu_network(b, z)).abs().max())


def _signs(rng: np.random.Generator, like: Tensor, extreme: bool) -> Tensor:
    if extreme:
        return torch.ones_like(like)
    return torch.from_numpy(rng.choice([-1.0, 1.0], size=like.shape))
