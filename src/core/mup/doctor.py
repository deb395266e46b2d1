"""An audit of somebody's model and optimizer: what a plan would have it be, and what it is.

    found = examine(plan, model, optimizer)
    print(found.as_text())
    found.assert_right()

Each parameter's learning rate, decay and epsilon are held against the plan's; whether each is in
one group; and, before the first step, the spread of its weights against the law of its recipe at
that width. What is wrong is a finding, that names the parameters and the remedy; what cannot be
seen from here, or is a choice, is a note.

The plan's own groups need no audit. This is for the set-up of others: a muP in which the hidden
weights learn at the base's rate trains, and looks right.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isclose, sqrt
from typing import Any

import torch
from torch import nn

from core.mup import _notes, _spread
from core.mup._notes import Patterns, patterns, plural
from core.mup._settings import (
    CLOSE,
    SETTINGS,
    Base,
    Settings,
    as_list,
    base_of,
    factor,
    has_begun,
    settings_of,
)
from core.mup.plan import Plan
from core.mup.rules import Kind

Tuned = tuple[nn.Module, Any]
SHOWN = 3
"""Patterns that are named of a finding on all tensors of a kind."""
SPOKEN = {"lr": "learning rate", "weight_decay": "weight decay", "eps": "epsilon"}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with the tensors of one pattern."""

    what: str
    """`"learning rate"`, `"weight decay"`, `"epsilon"`, `"spread"`, `"group"` or `"tied"`."""
    where: str
    """Names of the tensors; a number that differs between layers is a star."""
    count: int
    """Tensors that it is wrong of."""
    kind: Kind
    why: str
    """What is wrong, and what to do."""
    here: float | None = None
    wanted: float | None = None

    @property
    def text(self) -> str:
        """The finding as one sentence."""
        return f"{self.where} ({plural(self.count, self.kind)}){self.values} {self.why}"

    @property
    def values(self) -> str:
        """What is, and what should be."""
        if self.here is None or self.wanted is None:
            return ""
        return f": {self.what} {self.here:.4g}, should be {self.wanted:.4g};"


@dataclass(frozen=True)
class Examination:
    """What an audit found."""

    findings: tuple[Finding, ...]
    """What is wrong; none of a right set-up."""
    notes: tuple[str, ...]
    """What to look at, or cannot be seen from here: a sentence each."""
    read: tuple[str, ...]
    """What the set-up was held against: widths, settings of the base, recipe."""
    tensors: Mapping[str, int]
    """How many of each kind the model has."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        findings = [{**vars(one), "text": one.text} for one in self.findings]
        return {"right": not findings, "findings": findings, "notes": self.notes, "read": self.read}

    def as_text(self) -> str:
        """Return it as lines: what was read, findings that say the same together, and notes."""
        alike: dict[tuple[str, str, str], list[Finding]] = {}
        for one in self.findings:
            alike.setdefault((one.what, one.kind, one.why), []).append(one)
        lines = list(self.read)
        for several in alike.values():
            lines += self._together(several)
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, f"{len(alike)} wrong" if alike else "nothing wrong"])

    def _together(self, several: list[Finding]) -> list[str]:
        """Say once what is wrong of several patterns; name all, or say that it is all of a kind."""
        first, count = several[0], sum(one.count for one in several)
        every = count == self.tensors[first.kind]
        same = len({one.values for one in several}) == 1
        subject = "all " * (every and count > 1) + plural(count, first.kind)
        values = first.values if same else f": {first.what};"
        lines = [f"wrong: {subject}{values} {first.why}"]
        shown = several[:SHOWN] if every and same else several
        lines += [f"    {o.where} ({o.count}){'' if same else o.values[:-1]}" for o in shown]
        return [*lines, f"    and {len(several) - len(shown)} more"][
            : len(lines) + (shown != several)
        ]

    def assert_right(self) -> None:
        """Fail if there is a finding.

        Raises:
            AssertionError: there is; the message is all of `as_text`.
        """
        if self.findings:
            raise AssertionError("not as the plan has it\n" + self.as_text())


def examine(
    plan: Plan,
    model: nn.Module,
    optimizer: Any,
    *,
    lr: float | None = None,
    weight_decay: float | None = None,
    eps: float | None = None,
    rule: str | None = None,
    recipe: str | None = None,
    tuned: Tuned | None = None,
) -> Examination:
    """Hold a model and its optimizer against a plan; nothing is changed.

    Args:
        plan: of the model, at its width.
        model: as it is about to be trained, in whatever wraps it.
        optimizer: AdamW, Adam, SGD or Muon of torch, or a list, such as of Muon and AdamW. Where a
            schedule is attached, the learning rate that it begins with counts, not its warm-up.
        lr: that was tuned at the base; else it is read off what keeps the base's value.
        weight_decay: likewise. A decay of zero is never a finding.
        eps: likewise.
        rule: of an optimizer that is not torch's own, a name in `core.mup.rules.OPTIMIZERS`.
        recipe: of the weights, a name in `core.mup.initial.RECIPES`; else the one that most obey.
        tuned: model and optimizer of the base, made by the code that made these: then settings and
            spread are held against them, tensor by tensor, and nothing has to be guessed.

    Raises:
        ValueError: the model is not the plan's, an optimizer has no rule, or a name is unknown.
    """
    optimizers = as_list(optimizer)
    named, tied = _named(plan, model)
    given = settings_of(optimizers, rule)
    own = {name: given.get(id(p), []) for name, p in named.items()}
    groups = patterns({name: plan.entries[name] for name in named})
    base = _of_tuned(plan, tuned, rule) if tuned else None
    asked = {"lr": lr, "weight_decay": weight_decay, "eps": eps}
    bases = _bases(plan, own, asked)
    findings = [*_tied(plan, tied), *_membership(plan, named, own, groups)]
    told = _told(bases, optimizers) if base is None else ["base: as its own model and optimizer"]
    for setting in SETTINGS:
        wanted = _wanted(plan, own, setting, bases, base)
        findings += _wrong(plan, groups, own, setting, wanted)
    notes = _notes.of_plan(plan)
    notes += _notes.of_set_up(model, named, own, given, {} if base else bases)
    wrong, read, unseen = _weights(plan, named, groups, recipe, tuned, has_begun(optimizers))
    kinds = Counter(plan.entries[name].kind for name in named)
    held = (_notes.widths(plan), *told, *read)
    return Examination((*findings, *wrong), (*notes, *unseen), held, kinds)


Own = Mapping[str, list[Settings]]
Bases = dict[tuple[int, str, str], Base]
"""Optimizer, rule and setting -> the base's value."""


def _named(plan: Plan, model: nn.Module) -> tuple[dict[str, nn.Parameter], list[tuple[str, str]]]:
    """Return the parameters by the plan's names, and pairs of names that are one tensor here."""
    every = {plan._plain(n): p for n, p in model.named_parameters(remove_duplicate=False)}
    first: dict[int, str] = {}
    tied = []
    for name in plan.entries:
        if name in every:
            before = first.setdefault(id(every[name]), name)
            tied += [(before, name)] if before != name else []
    if not tied:
        return plan.named(model), []
    return {name: every[name] for name in first.values()}, tied


def _tied(plan: Plan, pairs: list[tuple[str, str]]) -> Iterator[Finding]:
    for a, b in pairs:
        kinds = plan.entries[a].kind, plan.entries[b].kind
        why = f"is also {b} ({kinds[1]}), and the plan has two. "
        if kinds[0] == kinds[1]:
            why += "Plan the model with the tensor tied, or untie it"
        else:
            why += "The two have different scales, and one tensor has one: untie it"
        yield Finding("tied", a, 1, kinds[0], why)


def _membership(
    plan: Plan, named: Mapping[str, nn.Parameter], own: Own, groups: Patterns
) -> Iterator[Finding]:
    """Give what is in no group, in several, or in an optimizer that does not take it."""

    def muon(name: str) -> bool:
        return any(s.rule.startswith("muon") for s in own[name]) and not plan.entries[name].muon

    checks: list[tuple[Callable[[str], bool], str]] = [
        (
            lambda n: not own[n] and named[n].requires_grad,
            "is in no group of the optimizer, and never changes: put it in one, or freeze it",
        ),
        (
            lambda n: len(own[n]) > 1,
            "is in several groups, and updated by each: leave it in one",
        ),
        (
            muon,
            "is in Muon, whose rule is for hidden matrices: give it to AdamW "
            "(plan.groups(..., beside='muon'))",
        ),
    ]
    for wrong, why in checks:
        for pattern, names in groups.items():
            count = sum(map(wrong, names))
            if count:
                yield Finding("group", pattern, count, plan.entries[names[0]].kind, why)


def _of_tuned(plan: Plan, tuned: Tuned, rule: str | None) -> dict[str, Settings]:
    """Return each parameter's settings at the base."""
    model, optimizer = tuned
    given = settings_of(as_list(optimizer), rule)
    named = _base_plan(plan).named(model)
    return {name: given[id(p)][0] for name, p in named.items() if given.get(id(p))}


def _base_plan(plan: Plan) -> Plan:
    return plan.at(**{key: plan.base_config[key] for key in plan.given})


def _bases(plan: Plan, own: Own, asked: Mapping[str, float | None]) -> Bases:
    seen: dict[tuple[int, str, str], list[tuple[float, float]]] = {}
    for name, several in own.items():
        for one in several:
            for setting in SETTINGS:
                scale = factor(plan.entries[name], one.rule, setting)
                value = getattr(one, setting)
                if scale is not None and value is not None:
                    seen.setdefault((one.optimizer, one.rule, setting), []).append((value, scale))
    bases = {key: base_of(key[2], pairs) for key, pairs in seen.items()}
    for key in bases:
        value = asked[key[2]]
        if value is not None:
            bases[key] = Base(value, "as given")
    return bases


def _told(bases: Bases, optimizers: list[torch.optim.Optimizer]) -> Iterator[str]:
    for i, rule in dict.fromkeys(key[:2] for key in bases):
        parts = [
            f"{SPOKEN[s]} {bases[i, rule, s].value:.4g} ({bases[i, rule, s].told})"
            for s in SETTINGS
            if (i, rule, s) in bases
        ]
        yield f"base, read off {type(optimizers[i]).__name__}: " + ", ".join(parts)


def _wanted(
    plan: Plan, own: Own, setting: str, bases: Bases, tuned: Mapping[str, Settings] | None
) -> dict[str, tuple[float, float]]:
    """Return the base's value and the factor of a setting, of all that one optimizer updates."""
    found = {}
    for name, several in own.items():
        scale = factor(plan.entries[name], several[0].rule, setting) if several else None
        if scale is None or getattr(several[0], setting) is None:
            continue
        if tuned is None:
            found[name] = bases[several[0].optimizer, several[0].rule, setting].value, scale
        elif name in tuned and getattr(tuned[name], setting) is not None:
            found[name] = getattr(tuned[name], setting), scale
    return found


def _wrong(
    plan: Plan,
    groups: Patterns,
    own: Own,
    setting: str,
    wanted: Mapping[str, tuple[float, float]],
) -> Iterator[Finding]:
    """Give each pattern and value that differs from what it should be."""
    for pattern, names in groups.items():
        counts: dict[tuple[float, float, float], int] = {}
        for name in names:
            if name in wanted:
                base, scale = wanted[name]
                key = (getattr(own[name][0], setting), base, scale)
                counts[key] = counts.get(key, 0) + 1
        for (here, base, scale), count in counts.items():
            if isclose(here, base * scale, rel_tol=CLOSE) or (
                setting == "weight_decay" and here == 0
            ):
                continue
            kind = plan.entries[names[0]].kind
            why = _why(setting, here, base, scale)
            yield Finding(SPOKEN[setting], pattern, count, kind, why, here, base * scale)


def _why(setting: str, here: float, base: float, scale: float) -> str:
    """Say how a setting is wrong, as far as its value tells."""
    said = f"the base's {base:.4g} times {scale:.4g}"
    remedy = f"Give its group {setting}={base * scale:.4g}"
    if isclose(scale, 1, rel_tol=CLOSE):
        return f"it takes the base's at every width. {remedy}"
    if isclose(here, base, rel_tol=CLOSE):
        return f"it is not scaled with the width, and takes {said}. {remedy}"
    if isclose(here, base * sqrt(scale), rel_tol=CLOSE):
        return f"it is scaled by a square root, and takes {said}. {remedy}"
    return f"it takes {said}. {remedy}"


def _weights(
    plan: Plan,
    named: Mapping[str, nn.Parameter],
    groups: Patterns,
    recipe: str | None,
    tuned: Tuned | None,
    begun: bool,
) -> tuple[list[Finding], list[str], list[str]]:
    """Return findings on the spread of the weights, what they were held against, and notes."""
    if begun:
        return [], [], ["the optimizer has taken a step: the spread of the weights is not judged"]
    if tuned:
        candidates = [_spread.as_tuned(tuned[0], _base_plan(plan).named(tuned[0]))]
    elif plan.model_class is None:
        return [], [], ["the model's class cannot be imported: the spread is not judged"]
    else:
        at = plan.config if plan.parametrization == "standard" else plan.base_config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            candidates = _spread.recipes(plan.model_class(**at), recipe)
    laws, spreads = _spread.measured(named, plan.entries, groups, candidates)
    if not spreads:
        return [], [], ["no weight has numbers here to judge: all are zero, or on the meta device"]
    right = sum(one.right for one in spreads)
    if not (tuned or recipe or _spread.obeys(spreads)):
        return [], [], [_notes.OWN_LAW.format(laws.told, right, len(spreads))]
    wrong = [
        Finding(
            "spread",
            one.pattern,
            len(groups[one.pattern]),
            plan.entries[groups[one.pattern][0]].kind,
            _notes.why_spread(plan.entries[groups[one.pattern][0]], laws.told),
            one.here,
            one.wanted,
        )
        for one in spreads
        if not one.right
    ]
    return wrong, [f"weights: {right} of {len(spreads)} patterns as {laws.told} has them"], []
