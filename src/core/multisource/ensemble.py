r"""Many small networks at the price of one: stacked parameters, one product for all of them.

A member is a network with its own parameters and its own data. K single-source networks are K
members with one source each; the multi-source one is a member with K sources; replications are more
members of either kind. Their parameters are stacked, so that a layer is one batched product, and
Adam, which looks at each number alone, trains them side by side without one seeing another.

Full batches: the loss needs counts only, whatever the number of samples.

Symbols: `E` members, `K` sources of a member, `C` contexts, `O` outcomes.
"""

import math
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from core.checks import at_least
from core.multisource._tensor_checks import sources_with_data
from core.train.seeds import generator

Parameters = dict[str, Tensor]
"""Name -> tensor whose first axis is E."""


class Network(Protocol):
    """A family of conditional distributions."""

    def draw(self, K: int, rng: np.random.Generator) -> Parameters:
        """Return the parameters of one member of K sources, without the first axis."""
        ...

    def log_probs(self, parameters: Parameters) -> Tensor:
        """Return `[E, K, C, O]`."""
        ...

    def project(self, parameters: Parameters) -> None:
        """Move parameters that left the class back into it, in place."""
        ...


class Trained(NamedTuple):
    """What training gave."""

    log_probs: Tensor
    """`[R, K, C, O]` of each replication and source."""
    losses: Tensor
    """`[steps, E]` negative log-likelihood a sample, before each step; nats."""
    parameters: Parameters
    """Of all members: R of them, or R K where sources are fitted one by one."""


def start(
    network: Network,
    members: int,
    K: int,
    seed: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Parameters:
    """Return parameters of E members; those of member e have the name (seed, e).

    Args:
        network: the family.
        members: E.
        K: sources of each.
        seed: from 0.
        dtype: of the parameters.
        device: where they are; the draws do not depend on it.
    """
    at_least(1, members=members, K=K)
    drawn = [network.draw(K, generator(seed, e)) for e in range(members)]
    return {name: torch.stack([d[name] for d in drawn]).to(device, dtype) for name in drawn[0]}


def loss(network: Network, parameters: Parameters, counts: Tensor) -> Tensor:
    """Return the negative log-likelihood a sample of each member, `[E]`, in nats.

    Args:
        network: the family.
        parameters: of E members.
        counts: `[E, K, C, O]` how often each source had each outcome in each context. A sample may
            pass several contexts, as prefixes; all pass the first.
    """
    log_probs = network.log_probs(parameters)
    n = counts[:, :, 0].sum((1, 2))
    # what never occurs may be as unlikely as can be
    seen = torch.where(counts > 0, counts * log_probs, 0.0)
    return -seen.sum((1, 2, 3)) / n


def train(
    network: Network, parameters: Parameters, counts: Tensor, *, steps: int, lr: float
) -> Tensor:
    """Train all members in place by Adam, the learning rate falling to zero as a cosine.

    Args:
        network: the family.
        parameters: of E members; changed in place.
        counts: `[E, K, C, O]`, as in `loss`, on their device.
        steps: updates.
        lr: the first learning rate.

    Returns:
        `[steps, E]` losses, before each update.
    """
    at_least(1, steps=steps)
    leaves = [p.requires_grad_() for p in parameters.values()]
    optimizer = torch.optim.Adam(leaves, lr=lr)
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.zero_grad()
        each = loss(network, parameters, counts)
        each.sum().backward()
        optimizer.step()
        with torch.no_grad():
            network.project(parameters)
        losses.append(each.detach())
    for p in leaves:
        p.requires_grad_(False)
    return torch.stack(losses)


def fit(
    network: Network,
    counts: Tensor,
    *,
    multi: bool,
    steps: int = 600,
    lr: float = 5e-3,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Trained:
    """Fit all replications at once, their sources together or one by one.

    Args:
        network: the family.
        counts: `[R, K, C, O]`, as in `loss`; the networks are on their device.
        multi: one network for all sources of a replication; else one for each.
        steps: updates.
        lr: the first learning rate.
        seed: of the starts.
        dtype: to train in.

    Raises:
        ValueError: a source has no data in one of the replications.
    """
    R, K, C, O = counts.shape
    sources_with_data(counts[:, :, 0].sum(2))
    mine = counts.to(dtype) if multi else counts.to(dtype).view(R * K, 1, C, O)
    parameters = start(network, len(mine), mine.shape[1], seed, dtype=dtype, device=counts.device)
    losses = train(network, parameters, mine, steps=steps, lr=lr)
    with torch.no_grad():
        log_probs = network.log_probs(parameters).view(R, K, C, O)
    return Trained(log_probs, losses, parameters)


def relu_layers(sizes: list[int], rng: np.random.Generator) -> Parameters:
    """Return weights `A0, b0, ..` of one ReLU network, uniform as Kaiming He et al. have them."""
    drawn = {}
    for l, (n_in, n_out) in enumerate(pairwise(sizes)):
        drawn[f"A{l}"] = _uniform(rng, math.sqrt(6 / n_in), n_in, n_out)
        drawn[f"b{l}"] = _uniform(rng, math.sqrt(1 / n_in), 1, n_out)
    return drawn


def relu_network(parameters: Parameters, x: Tensor) -> Tensor:
    """Return the output of E ReLU networks, `[E, N, out]`, for inputs `[E, N, in]`."""
    depth = sum(name.startswith("A") for name in parameters)
    for l in range(depth):
        x = torch.baddbmm(parameters[f"b{l}"], x, parameters[f"A{l}"])
        if l < depth - 1:
            x = x.relu()
    return x


def size(parameters: Parameters) -> tuple[int, float]:
    """Return S, non-zero entries of one member's ReLU network, and B, the largest (Def. 4.2)."""
    entries = [p for name, p in parameters.items() if name[0] in "Ab"]
    S = max(sum(int((p[e] != 0).sum()) for p in entries) for e in range(len(entries[0])))
    return S, max(float(p.abs().max()) for p in entries)


def _uniform(rng: np.random.Generator, bound: float, *shape: int) -> Tensor:
    return torch.from_numpy(rng.uniform(-bound, bound, shape))
