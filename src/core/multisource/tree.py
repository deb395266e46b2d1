r"""Total variation of two autoregressive models, over all sequences.

A model of x in {0 .. M-1}^D is a tree: at each of M^d prefixes of length d stands a distribution of
the next token. The joint probabilities of all M^D sequences follow level by level, so that D = 18
takes as many multiplications as there are sequences. No table of all leaves is needed: the tree is
cut at half its depth, and the subtrees are done in blocks.

Symbols here = there (arXiv:2502.14583, Section 4.2): `D` tokens, `M` values of each, `K` sources.
A prefix has a number, its tokens read in base M, the first one the highest.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from core.checks import at_least
from core.multisource._blocks import MEMORY, rows_at_a_time
from core.multisource._tensor_checks import probabilities
from core.multisource.certified import EPS, Certified

WORKED_ON = 6
"""Arrays of float64 that a block holds at once: both joints, their parents, a difference."""


class Conditionals(Protocol):
    """A model, as the next token's probabilities after some prefixes."""

    def __call__(self, d: int, start: int, stop: int, /) -> Tensor:
        """Return `[K, stop - start, M]` after the prefixes of length d numbered start..stop-1."""
        ...


class Tables:
    """A model all of whose conditionals are listed."""

    def __init__(self, levels: Sequence[Tensor]) -> None:
        """Keep them.

        Args:
            levels: D of them; level d is `[K, M^d, M]`, probabilities over its last axis.

        Raises:
            ValueError: a level has another shape, or holds no probabilities (with their sum).
        """
        K, _, M = levels[0].shape
        for d, level in enumerate(levels):
            if level.shape != (K, M**d, M):
                raise ValueError(f"want level {d} [{K}, {M**d}, {M}], got {list(level.shape)}")
        self.levels = [probabilities(f"of level {d}", level) for d, level in enumerate(levels)]

    def __call__(self, d: int, start: int, stop: int) -> Tensor:
        """Return `[K, stop - start, M]`, a part of level d."""
        return self.levels[d][:, start:stop]


def tree_tv(
    p: Conditionals, q: Conditionals, *, D: int, M: int = 2, memory: int = MEMORY
) -> Certified:
    """Return the total variation over all M^D sequences, of each of K pairs of models.

    Args:
        p: the first K models.
        q: the others, on the same device.
        D: tokens of a sequence.
        M: values of a token.
        memory: bytes for the joints that are held at once; what p and q hold is not counted.

    Returns:
        `[K]`, of conditionals divided by their sums. The error is what rounding can do.

    Raises:
        ValueError: conditionals that do not sum to one (with the sum), or a tree half of whose
            depth does not fit into the memory (with the size it needs).
    """
    at_least(1, D=D)
    at_least(2, M=M)
    K = len(_level(p, 0, 0, 1))
    cut = D // 2
    each = K * 8 * WORKED_ON
    rows_at_a_time(M**cut * each, memory, what=f"the upper half of a tree of D = {D}, M = {M}")
    subtree = M ** (D - cut) * each
    at_once = rows_at_a_time(subtree, memory, what=f"a lower half of a tree of D = {D}, M = {M}")
    heads = [_grow(model, None, 0, cut, 0, 1) for model in (p, q)]
    value = heads[0].new_zeros(K)
    for start in range(0, M**cut, at_once):
        stop = min(start + at_once, M**cut)
        P, Q = (
            _grow(model, head[:, start:stop], cut, D, start, stop)
            for model, head in zip((p, q), heads, strict=True)
        )
        value += (P - Q).abs().sum(1) / 2
    # a leaf is a product of D quotients of sums of M; adding all leaves rounds once an addition
    rounding = ((M + 2) * D + M**D) * EPS
    return Certified(value, torch.full_like(value, rounding))


def joint(p: Conditionals, *, D: int, M: int = 2, memory: int = MEMORY) -> Tensor:
    """Return the probabilities of all M^D sequences, `[K, M^D]`, a table.

    Args:
        p: K models.
        D: tokens of a sequence.
        M: values of a token.
        memory: bytes that may be needed to make it.

    Raises:
        ValueError: the table does not fit (with the size it needs): `tree_tv` needs none.
    """
    K = len(_level(p, 0, 0, 1))
    rows_at_a_time(K * 16 * M**D, memory, what=f"a table of {M}^{D} sequences of {K} source(s)")
    return _grow(p, None, 0, D, 0, 1)


def _grow(
    model: Conditionals, head: Tensor | None, d: int, stop_at: int, start: int, stop: int
) -> Tensor:
    """Return the joints of all descendants at level `stop_at` of prefixes start..stop-1."""
    if head is None:
        first = _level(model, 0, 0, 1)
        head = first.new_ones(len(first), 1)
    while d < stop_at:
        step = _level(model, d, start, stop)
        head = (head[:, :, None] * step).flatten(1)
        d, start, stop = d + 1, start * step.shape[-1], stop * step.shape[-1]
    return head


def _level(model: Conditionals, d: int, start: int, stop: int) -> Tensor:
    step = probabilities(f"of level {d}", model(d, start, stop))
    return step / step.sum(-1, keepdim=True)


def prefixes(d: int, start: int, stop: int, M: int = 2) -> Tensor:
    """Return the tokens of the prefixes of length d numbered start..stop-1, `[stop - start, d]`."""
    number = torch.arange(start, stop)[:, None]
    return number // M ** torch.arange(d - 1, -1, -1) % M
