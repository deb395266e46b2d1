r"""The bracketing number of a finite class, exactly: how many brackets it takes, and not a bound.

A bracket of Definition 3.1 is a function p'(x, y) that stands over some members of the class: above
each of them everywhere, and in L1 within eps of each, for every y. The lowest function over a set
of members is their maximum, so a set has a bracket if and only if its maximum is one, and N(eps) is
the least number of such sets that cover the class: a set cover, which an integer program solves.

Source: arXiv:2502.14583, Definition 3.1; Proposition 3.3 says that the class which shares what
sources have in common needs no more than the class which does not.
"""

from itertools import product

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import LinearConstraint, milp

from core.multisource.bounds import Array

MEMBERS = 16
"""At most: all 2^members sets are looked at."""


def members(phi: Array, psi: Array, K: int, *, multi: bool) -> Array:
    """Return a class of two independent bits, the first with the source's own law: `[m, K, 4]`.

    Args:
        phi: possible probabilities that the first bit is 1, of each source its own.
        psi: possible probabilities that the second is 1.
        K: sources.
        multi: one psi for all sources; else each source has its own.
    """
    one = [(f, s) for f in phi for s in psi]
    chosen = product(one, repeat=K)
    kept = [c for c in chosen if not multi or len({s for _, s in c}) == 1]
    bits = np.array(kept)[..., None] * [-1, 1] + [1, 0]  # [m, K, 2, 2]: of 0, and of 1
    return np.einsum("mki,mkj->mkij", bits[:, :, 0], bits[:, :, 1]).reshape(len(kept), K, 4)


def least_brackets(p: ArrayLike, eps: float) -> int:
    """Return N(eps) in L1 of a finite class of conditional distributions.

    Args:
        p: `[m, K, N]` probabilities of N outcomes given each of K sources; m of at most 16 members.
        eps: what a bracket's gap may be, above zero.

    Raises:
        ValueError: p is not such an array, has too many members, or eps is not positive.
    """
    p = np.asarray(p, dtype=float)
    if p.ndim != 3 or not 1 <= len(p) <= MEMBERS:
        raise ValueError(f"want p [m, K, N] of 1 to {MEMBERS} members, got shape {p.shape}")
    if not eps > 0:
        raise ValueError(f"want eps > 0, got {eps}")
    m = len(p)
    every, bit = np.arange(2**m), 1 << np.arange(m)
    belongs = every[:, None] & bit > 0
    tops = np.zeros((len(every), *p.shape[1:]))
    for i in range(m):
        np.maximum(tops, np.where(belongs[:, i, None, None], p[i], 0), out=tops)
    # the gap to a member is the maximum's mass less one, for each source
    fits = (tops.sum(2) - 1 <= eps + 1e-12).all(1)
    larger = (fits[every[:, None] | bit] & ~belongs).any(1)
    sets = belongs[fits & ~larger]  # the others are no better
    covers = LinearConstraint(sets.T, lb=1)
    found = milp(np.ones(len(sets)), integrality=1, bounds=(0, 1), constraints=covers)
    return round(found.fun)
