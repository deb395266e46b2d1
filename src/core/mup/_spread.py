"""Whether weights have the spread that a recipe's law has at the base, times their factor.

One model at one width cannot say how its law depends on the width. But most tensors of a set-up
obey some known recipe (`core.mup.initial.RECIPES`); those that do not are named. The layers of all
blocks are judged together, by their mean square: of n numbers, and of n' from which the law was
read, its logarithm has a variance of at most 2 / n + 2 / n', that of normal numbers.
"""

from collections.abc import Mapping
from contextlib import suppress
from math import isclose, log, sqrt
from typing import NamedTuple

import torch
from torch import Tensor, nn

from core.mup.initial import RECIPES, Law, laws, read_law
from core.mup.rules import Entry
from core.mup.shapes import owned

Groups = Mapping[str, list[str]]
SIGMAS = 6
LEAST = 0.02
"""Relative difference of spreads below which nothing is said."""
TORCH = "the recipe 'torch' at the base"
ENOUGH = 1 / 3
"""Share of what can be judged that obeys a recipe, if it is the recipe."""


class Spread(NamedTuple):
    """The root mean square of the tensors of one pattern."""

    pattern: str
    here: float
    wanted: float
    right: bool


class Laws(NamedTuple):
    """A law for each parameter at the base, and how many numbers it was read from."""

    told: str
    laws: dict[str, Law]
    sizes: dict[str, int]


def measured(
    tensors: Mapping[str, Tensor],
    entries: Mapping[str, Entry],
    groups: Groups,
    candidates: list[Laws],
) -> tuple[Laws, list[Spread]]:
    """Return the laws that most patterns obey, and each pattern's spread beside its own.

    Args:
        tensors: the model's parameters.
        entries: of the plan.
        groups: pattern -> names.
        candidates: one of them where it is known; the last stands in where another says "zero".
    """
    stats = {name: _statistics(tensor) for name, tensor in tensors.items()}
    found = []
    for one in candidates:
        spreads = [
            spread
            for pattern, names in groups.items()
            for spread in _spread(pattern, names, stats, entries, (one, candidates[-1]))
        ]
        found.append((one, spreads))
    return max(found, key=lambda pair: sum(spread.right for spread in pair[1]))


def obeys(spreads: list[Spread]) -> bool:
    """Return whether enough of the spreads are right for the laws to be those of the set-up."""
    return sum(spread.right for spread in spreads) >= ENOUGH * len(spreads)


def recipes(pattern: nn.Module, recipe: str | None) -> list[Laws]:
    """Return the laws of a recipe, or of every one that fits the model; torch's own last.

    Args:
        pattern: a fresh model of the base.
        recipe: its name, None for all.

    Raises:
        ValueError: there is no such recipe, or it is for another model.
    """
    if recipe:
        return [_by(pattern, recipe)]
    fitting = []
    for name in RECIPES:
        # most recipes are for one family
        with suppress(ValueError):
            fitting.append(_by(pattern, name))
    return sorted(fitting, key=lambda one: one.told == TORCH)


def _by(pattern: nn.Module, recipe: str) -> Laws:
    sizes = {name: one[0].tensor.numel() for name, one in owned(pattern).items()}
    return Laws(f"the recipe {recipe!r} at the base", laws(pattern, recipe), sizes)


def as_tuned(model: nn.Module, names: Mapping[str, nn.Parameter]) -> Laws:
    """Return the laws of a fresh model of the base, as its owner draws it."""
    by_id = {id(one[0].tensor): one[0] for one in owned(model).values()}
    read = {name: read_law(by_id[id(parameter)]) for name, parameter in names.items()}
    return Laws("the base's own model", read, {name: p.numel() for name, p in names.items()})


class _Statistics(NamedTuple):
    size: int
    square: float
    """Mean square."""
    constant: bool


@torch.no_grad()
def _statistics(tensor: Tensor) -> _Statistics | None:
    """None of what holds no numbers here: on the meta device, or in a part of the processes."""
    if tensor.is_meta or not tensor.numel() or hasattr(tensor, "full_tensor"):
        return None
    low, high = (x.item() for x in tensor.detach().aminmax())
    square = torch.linalg.vector_norm(tensor.detach().float()).square().item() / tensor.numel()
    return _Statistics(tensor.numel(), square, low == high)


def _spread(
    pattern: str,
    names: list[str],
    stats: Mapping[str, _Statistics | None],
    entries: Mapping[str, Entry],
    choice: tuple[Laws, Laws],
) -> list[Spread]:
    """Judge the tensors of a pattern; nothing, if there is nothing to judge."""
    entry = entries[names[0]]
    known = [s for name in names if (s := stats[name]) is not None]
    constant = all(s.constant for s in known)
    # a constant is right at any width, and what does not grow has no width to depend on
    if len(known) < len(names) or (entry.fold == 1 and (constant or entry.kind == "finite")):
        return []
    size = sum(s.size for s in known)
    here = sum(s.size * s.square for s in known) / size
    for candidate in choice:
        of_names = [candidate.laws[name] for name in names]
        if any(law.family == "kept" for law in of_names):
            return []
        if all((law.family == "constant") == constant for law in of_names):
            factor = entry.fold if constant else entry.init
            wanted = sum((law.std * factor) ** 2 for law in of_names) / len(of_names)
            read = sum(candidate.sizes[name] for name in names)
            noise = 0.0 if constant else SIGMAS * sqrt(2 / size + 2 / read)
            right = _near(here, wanted, noise)
            return [Spread(pattern, sqrt(here), sqrt(wanted), right)] if wanted else []
    return []


def _near(here: float, wanted: float, noise: float) -> bool:
    if wanted == 0:
        return False
    return isclose(here, wanted, rel_tol=2 * LEAST) or abs(log(here / wanted)) < noise
