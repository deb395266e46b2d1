"""What somebody's optimizers do with each parameter, and the base's settings that they speak of.

A set-up does not say what its base is. What a rule leaves as it is at the base (Adam: inputs,
biases, tables) is read as the base's: the value that most such tensors have. One tensor set wrong
is then seen as wrong, and does not shift what is expected of the others.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import isclose
from typing import Any, NamedTuple

import torch
from torch import Tensor

from core.mup.rules import OPTIMIZERS, Entry, check_optimizer

SETTINGS = ("lr", "weight_decay", "eps")
CLOSE = 0.01
"""Relative difference up to which two settings are the same: people round."""


class Settings(NamedTuple):
    """What one optimizer's group gives a parameter."""

    optimizer: int
    """Which of the optimizers."""
    rule: str
    """Its name in `core.mup.rules.OPTIMIZERS`."""
    lr: float
    """Where a schedule begins, if there is one: its highest."""
    weight_decay: float
    eps: float | None
    """None where the optimizer has none with a rule."""


class Base(NamedTuple):
    """A setting at the base, and how it is known."""

    value: float
    told: str
    sure: bool = True
    """False where all that has it is scaled: a factor that is missing everywhere would not show."""


def settings_of(
    optimizers: Sequence[torch.optim.Optimizer], rule: str | None = None
) -> dict[int, list[Settings]]:
    """Return what each tensor is given, by its `id`: once for each group that it is in.

    Args:
        optimizers: of torch, or of another package with groups like torch's.
        rule: the name in `OPTIMIZERS` of those that are not torch's own.

    Raises:
        ValueError: an optimizer has no rule, and none is given.
    """
    found: dict[int, list[Settings]] = {}
    for i, optimizer in enumerate(optimizers):
        for group in optimizer.param_groups:
            name = rule_of(optimizer, group, rule)
            has_eps = name in ("adamw", "decoupled", "adam") and "eps" in group
            eps = float(group["eps"]) if has_eps else None
            lr = float(group.get("initial_lr", group["lr"]))
            given = Settings(i, name, lr, float(group.get("weight_decay", 0.0)), eps)
            for parameter in group["params"]:
                found.setdefault(id(parameter), []).append(given)
    return found


def rule_of(optimizer: Any, group: Mapping[str, Any], rule: str | None) -> str:
    """Return the rule of an optimizer's group, a name in `OPTIMIZERS`.

    Raises:
        ValueError: there is none.
    """
    if isinstance(optimizer, torch.optim.AdamW):
        return "adamw"
    if isinstance(optimizer, torch.optim.Adam):
        return "adamw" if group.get("decoupled_weight_decay") else "adam"
    if isinstance(optimizer, torch.optim.SGD):
        return "sgd"
    if isinstance(optimizer, torch.optim.Muon):
        return "muon-rms" if group.get("adjust_lr_fn") == "match_rms_adamw" else "muon"
    if rule is None:
        raise ValueError(
            f"no muP rule is known for {type(optimizer).__name__}: if its update is like one of "
            f"{', '.join(OPTIMIZERS)}, say which"
        )
    check_optimizer(rule)
    return rule


def factor(entry: Entry, rule: str, setting: str) -> float | None:
    """Return what the base's setting is multiplied by, None where the optimizer takes no such."""
    if rule.startswith("muon") and not entry.muon:
        return None
    return getattr(entry.multipliers(rule), setting)


def base_of(setting: str, seen: Iterable[tuple[float, float]]) -> Base:
    """Return the base's value of a setting that an optimizer was given.

    Args:
        setting: one of `SETTINGS`.
        seen: of each tensor, what it was given, and the factor that it should have.
    """
    # a decay of zero is a choice that is right at all widths, and says nothing of the others
    pairs = [(a, f) for a, f in seen if a or setting != "weight_decay"]
    if not pairs:
        return Base(0.0, "no tensor has it")
    plain = [a for a, f in pairs if isclose(f, 1, rel_tol=CLOSE)]
    votes = plain or [a / f for a, f in pairs]
    counts = {v: sum(isclose(v, other, rel_tol=CLOSE) for other in votes) for v in votes}
    value = max(counts, key=lambda v: counts[v])
    what = "keep the base's" if plain else "are all scaled, their factor undone"
    told = f"{counts[value]} of {len(votes)} tensors that {what}"
    return Base(value, told, sure=bool(plain))


def as_list(optimizers: Any) -> list[torch.optim.Optimizer]:
    """Return one or several optimizers as a list, without what accelerate wraps around them.

    Raises:
        ValueError: one is no optimizer.
    """
    several = list(optimizers) if isinstance(optimizers, list | tuple) else [optimizers]
    bare = [getattr(one, "optimizer", one) for one in several]
    for one in bare:
        if not isinstance(getattr(one, "param_groups", None), list):
            raise ValueError(f"want an optimizer of torch, or several, got {type(one).__name__}")
    return bare


def has_begun(optimizers: Sequence[torch.optim.Optimizer]) -> bool:
    """Return whether a step was taken: whether a state holds a tensor."""
    states = [state for one in optimizers for state in one.state.values()]
    return any(isinstance(value, Tensor) for state in states for value in state.values())
