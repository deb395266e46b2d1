r"""Which masks an ELBO estimate sees: the sampling budget, and how it is spent.

The estimate of a response y of L tokens is a mean over n = n_t n_y masks,

    B_hat(y) = 1/n sum_j w_j S(m_j),      S(m) = sum_{i in m} log p(y_i | y with m masked, x)

    count form  l ~ q on {1..L}, a uniform subset of l tokens, w = 1 / (l q_l), L / l where uniform
    time form   t ~ U[eps, 1], each token masked with probability t, w = 1 / t

n_t counts (or times) are drawn, and n_y masks at each. Every number comes from a stream that a key
such as (seed, epoch, example) names, so that policy and reference can share masks without meeting.

Sources: arXiv:2505.19223v2, Eqs. (5), (6), (12)-(15), Section 3.2 ("antithetic sampling" is
`shared`: the sampling literature calls it common random numbers). Systematic counts: the public
likelihood code of LLaDA rounds them, which is uniform only where b / gcd(L, b) is odd; here every
count has probability q_l for every L and n_t.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.train.seeds import generator

Form = Literal["count", "time"]
Counts = Literal["iid", "systematic"]
CHOSEN, REJECTED = 0, 1


@dataclass(frozen=True)
class Design:
    """How the budget of an ELBO estimate is spent."""

    n_t: int = 8
    """Mask counts, or times, drawn."""
    n_y: int = 1
    """Masks at each of them; 1 is never worse (Proposition 1)."""
    form: Form = "count"
    counts: Counts = "iid"
    """Systematic counts are one uniform number and n_t equal steps from it."""
    shared: bool = True
    """Whether policy and reference see the same masks."""
    across_pair: bool = False
    """Whether the chosen and the rejected response see the same random numbers: equal masks where
    they are equally long. It helps where the two differences to the reference are positively
    correlated over masks, and hurts otherwise: `core.vrpo.budget` measures that."""
    proposal: tuple[float, ...] | None = None
    """Importance over relative counts l / L: a histogram on (0, 1], all entries positive, any
    number of bins. To leave the estimate unbiased it must not depend on the draws it is for."""
    sets: int = 1
    """Independent sets that the n_t counts are made of; two independent halves need 2."""
    eps: float = 0.0
    """Smallest time of the time form, which is biased above 0 and has infinite variance at 0."""

    def __post_init__(self) -> None:
        """Refuse a budget that cannot be spent."""
        for name in ("n_t", "n_y", "sets"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"want {name} >= 1, a whole number, got {value!r}")
        if self.n_t % self.sets:
            raise ValueError(
                f"want n_t that splits into {self.sets} equal sets, got n_t = {self.n_t}: "
                f"take {self.n_t + self.sets - self.n_t % self.sets}"
            )
        if self.form not in ("count", "time") or self.counts not in ("iid", "systematic"):
            raise ValueError(
                "want form 'count' or 'time' and counts 'iid' or 'systematic', got "
                f"{self.form!r} and {self.counts!r}"
            )
        if not 0 <= self.eps < 1 or (self.eps and self.form == "count"):
            raise ValueError(f"want 0 <= eps < 1, and 0 in the count form, got {self.eps}")
        if self.proposal is not None:
            _check_proposal(self.proposal, self.form)

    @property
    def n(self) -> int:
        """Masks per response: forward passes of the policy."""
        return self.n_t * self.n_y

    @property
    def has_independent_halves(self) -> bool:
        """Tell whether the first n / 2 draws and the others are independent."""
        if self.n_t % 2:
            return False
        return self.counts == "iid" or self.sets % 2 == 0


class Draws(NamedTuple):
    """The masks for one response; the estimate is `(weights * S).mean()`."""

    masks: Tensor
    """`[n, L]` bool, True where masked; row j * n_y + k is mask k of count j."""
    weights: Tensor
    """`[n]` float64."""


class PairDraws(NamedTuple):
    """The masks for a chosen and a rejected response."""

    policy: tuple[Draws, Draws]
    reference: tuple[Draws, Draws]
    """The very objects of `policy` where the design shares them."""


def draw(design: Design, length: int, *key: int) -> Draws:
    """Draw the masks for one response.

    Args:
        design: the budget.
        length: L, tokens of the response.
        *key: names the random numbers: (seed, epoch, example), say. With iid counts the first
            masks do not depend on how many there are.

    Raises:
        ValueError: an empty response, or a bad key.
    """
    return _draw(design, length, length, key)


def draw_pair(design: Design, lengths: tuple[int, int], *key: int) -> PairDraws:
    """Draw the masks for a chosen and a rejected response, for policy and reference.

    Args:
        design: the budget, and what is shared.
        lengths: tokens of the chosen and of the rejected response.
        *key: names the random numbers of the pair: (seed, epoch, example), say.

    Raises:
        ValueError: an empty response, or a bad key.
    """
    width = max(lengths) if design.across_pair else 0

    def both(model: int) -> tuple[Draws, Draws]:
        sides = (CHOSEN, CHOSEN) if design.across_pair else (CHOSEN, REJECTED)
        w, l = (
            _draw(design, length, max(length, width), (*key, model, side))
            for length, side in zip(lengths, sides, strict=True)
        )
        return w, l

    policy = both(0)
    return PairDraws(policy, policy if design.shared else both(1))


def count_law(length: int, proposal: tuple[float, ...] | None = None) -> NDArray[np.float64]:
    """Return q_l for l = 1..L, `[L]`: uniform, or the proposal's mass on ((l - 1) / L, l / L]."""
    return np.diff(_cdf(length, proposal))


def counts_at(v: NDArray[np.float64], length: int, proposal: tuple[float, ...] | None = None):
    """Return the counts l at levels v of their distribution function, v in [0, 1), int64."""
    inner = _cdf(length, proposal)[1:-1]
    return 1 + np.searchsorted(inner, v, side="right")


def _draw(design: Design, length: int, width: int, key: tuple[int, ...]) -> Draws:
    if length < 1:
        raise ValueError("want a response of at least one token, got an empty one")
    rng = generator(*key)
    offsets = rng.random(design.sets)
    # row j is what draw j uses: its level, then a number for each token
    numbers = rng.random((design.n, 1 + width))
    levels, ranks = numbers[:: design.n_y, 0], numbers[:, 1 : 1 + length]
    if design.counts == "systematic":
        per_set = design.n_t // design.sets
        levels = ((offsets[:, None] + np.arange(per_set) / per_set) % 1.0).ravel()
    levels = np.repeat(levels, design.n_y)
    if design.form == "time":
        t = design.eps + (1 - design.eps) * (1 - levels)  # (eps, 1]: never 0
        return Draws(torch.from_numpy(ranks < t[:, None]), torch.from_numpy(1 / t))
    counts = counts_at(levels, length, design.proposal)
    masks = ranks.argsort(axis=1).argsort(axis=1) < counts[:, None]
    weights = 1 / (counts * count_law(length, design.proposal)[counts - 1])
    return Draws(torch.from_numpy(masks), torch.from_numpy(weights))


@lru_cache(maxsize=1024)
def _cdf(length: int, proposal: tuple[float, ...] | None) -> NDArray[np.float64]:
    edges = np.arange(length + 1) / length
    if proposal is None:
        return edges
    levels = np.cumsum([0.0, *proposal]) / np.sum(proposal)
    cdf = np.interp(edges, np.linspace(0, 1, len(levels)), levels)
    cdf[-1] = 1.0
    return cdf


def _check_proposal(proposal: tuple[float, ...], form: Form) -> None:
    if form == "time":
        raise ValueError("want a proposal with the count form; the time form has none")
    if not proposal or not all(np.isfinite(q) and q > 0 for q in proposal):
        raise ValueError(
            "want a proposal of positive numbers, as a count that is never drawn biases the "
            f"estimate, got {proposal}"
        )
