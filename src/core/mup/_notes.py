"""Sentences of the doctor: names collapsed, and what a set-up cannot say of itself."""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from core.mup._settings import Base, Settings
from core.mup.plan import Plan
from core.mup.rules import Entry
from core.mup.shapes import bottlenecks

Patterns = dict[str, list[str]]

OWN_LAW = (
    "the spread of the weights is not judged: of what is known, {} comes closest, and {} of {} "
    "patterns obey it. If they are fresh, say by which recipe they were drawn, or give the base's "
    "own model"
)
# what an inner layer that ends in something finite is, by its name
INNER = (
    (
        r"(^|[._])(ff|ffn|mlp|feed_forward)",
        "the width of the feed-forward layer does not grow. Name its key in the base, so that it "
        "does, or keep it so",
    ),
    (
        r"(to_|add_)[kv](_proj)?\.|[._](k|v|kv)_proj\.",
        "keys and values have a fixed number of heads (grouped queries). Scale them with the "
        "queries' heads, or keep them",
    ),
    (r"ada|mod|norm|lora", "a modulation of fixed rank. Scale its rank, or keep it"),
    (r"", "a bottleneck of fixed width. Scale it, or keep it"),
)


def patterns(entries: Mapping[str, Entry]) -> Patterns:
    """Return the names that one pattern stands for: layers of the same shape and entry."""
    found: dict[tuple[str, Entry], list[str]] = {}
    for name, entry in entries.items():
        found.setdefault((re.sub(r"\.\d+(?=\.|$)", ".*", name), entry), []).append(name)
    made: Patterns = {}
    for (stars, _), names in found.items():
        # the last block of some models is unlike the others: it goes by its own name
        made[stars if stars not in made else names[0]] = names
    return made


def plural(count: int, kind: str = "") -> str:
    """Return a number of tensors, of a kind."""
    return " ".join(filter(None, (str(count), kind, "tensor" + "s" * (count > 1))))


def widths(plan: Plan) -> str:
    """Return what grows, from the base to here."""
    base = plan.base_config
    grown = ", ".join(f"{key} {base[key]} -> {plan.config[key]}" for key in plan.ratios)
    return f"{plan.parametrization}: {grown}"


def of_plan(plan: Plan) -> list[str]:
    """Return what the plan's widths make one look at."""
    told = []
    inner = bottlenecks(plan.entries)
    for expression, what in INNER:
        matching = [name for name in inner if re.search(expression, name)]
        inner = [name for name in inner if name not in matching]
        if matching:
            told.append(
                f"{next(iter(patterns({n: plan.entries[n] for n in matching})))} "
                f"({plural(len(matching))} such) goes from what grows to what does not: {what}; "
                "it is trained as an output, and at initialisation fades as 1 / sqrt(m)"
            )
    folded = {entry.fold for entry in plan.entries.values() if entry.fold != 1}
    queries = [n for n, e in plan.entries.items() if e.fold != 1 and e.kind != "output"]
    if queries:
        told.append(
            f"the dimension of a head grows, and {queries[0]} and its like carry the factor of "
            "attention: leave 1 / sqrt(d) in the forward pass as it is"
        )
    if folded:
        told.append(
            "if gradients are clipped, use plan.clip_grad_norm_: in torch's norm the readout's "
            f"count {1 / min(folded):.4g} times too much"
        )
    return told


def of_set_up(
    model: nn.Module,
    named: Mapping[str, nn.Parameter],
    own: Mapping[str, list[Settings]],
    given: Mapping[int, Any],
    bases: Mapping[tuple[int, str, str], Base],
) -> list[str]:
    """Return what is frozen, foreign, or cannot be told from the target alone."""
    told = []
    frozen = [name for name, p in named.items() if not p.requires_grad]
    if frozen:
        told.append(f"{plural(len(frozen))} frozen, such as {frozen[0]}: not trained, not judged")
    foreign = set(given) - {id(p) for p in model.parameters()}
    if foreign:
        told.append(
            f"the optimizer holds {plural(len(foreign))} that are none of this model's: it trains "
            "something else too, or was made before the model was copied or wrapped"
        )
    for (_, rule, setting), base in bases.items():
        if not base.sure and base.value:
            told.append(
                f"all that has {setting} in {rule} should be scaled, so that a factor missing "
                f"everywhere does not show: is the base's {setting} {base.value:.4g}? Else give it"
            )
    idle = {key[0] for key, base in bases.items() if key[2] == "lr" and base.value == 0}
    if idle:
        told.append("the learning rate is zero: give the base's, if a schedule sets it later")
    return told


def why_spread(entry: Entry, told: str) -> str:
    """Say what the spread of such a parameter does with the width."""
    law = f"it should be that of {told}, times {entry.init:.4g}"
    if entry.kind == "output":
        return f"{law}. Begin the readout at zero, or divide the base's by m = {entry.m_in:.4g}"
    if entry.fold != 1:
        return f"{law}: it carries the factor of attention, sqrt(d_base / d). Multiply it in"
    if entry.kind == "hidden":
        return f"{law}: it falls as 1 / sqrt(fan-in). Divide the base's by sqrt({entry.m_in:.4g})"
    return (
        f"{law}: it must not depend on the width, as xavier (by its fan-out), randn / sqrt(width) "
        "and torch's biases do. Draw it by the base's law"
    )
