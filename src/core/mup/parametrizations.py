"""muP, the standard parametrization, and parametrizations that leave out or break one rule.

Each changes the entry of a parameter. The wrong ones are what people ship by mistake: a check of
coordinates is worth what it says of them, and the chapter asks which rule matters.
"""

from collections.abc import Callable
from dataclasses import replace
from math import sqrt

from core.mup.rules import Entry

Change = Callable[[Entry], Entry]


def _mup(entry: Entry) -> Entry:
    return entry


def _standard(entry: Entry) -> Entry:
    return replace(entry, m_in=1.0, m_out=1.0, fold=1.0, rate=1.0, spread=1.0)


def _faster(entry: Entry, kinds: tuple[str, ...], factor: Callable[[float], float]) -> Entry:
    """Multiply the learning rate of some kinds by a function of their width ratio."""
    if entry.kind not in kinds:
        return entry
    m = entry.m_in if entry.kind in ("hidden", "output") else entry.m_out
    return replace(entry, rate=entry.rate * factor(m))


def _wider(entry: Entry, kind: str) -> Entry:
    """Draw one kind with a spread that is larger by the root of the width ratio."""
    return replace(entry, spread=sqrt(entry.m_in)) if entry.kind == kind else entry


PARAMETRIZATIONS: dict[str, Change] = {
    "mup": _mup,
    "standard": _standard,
    "hidden lr not scaled": lambda e: _faster(e, ("hidden",), lambda m: m),
    "hidden lr / sqrt(m)": lambda e: _faster(e, ("hidden",), sqrt),
    "output lr not scaled": lambda e: _faster(e, ("output",), lambda m: m),
    "every lr / m": lambda e: _faster(e, ("input", "vector"), lambda m: 1 / m),
    "lr / m^1.5": lambda e: _faster(e, ("hidden", "output"), lambda m: m**-0.5),
    "hidden init not scaled": lambda e: _wider(e, "hidden"),
    "output init by fan-in": lambda e: _wider(e, "output"),
    "forward factor": lambda e: replace(e, fold=1.0),
    "attention / sqrt(d)": lambda e: e if e.kind == "output" else replace(e, fold=1.0),
}
"""Name -> what it makes of the entry under muP. The learning rates are Adam's.

`every lr / m`: inputs, biases and tables too; `lr / m^1.5`: of hidden and output; both train ever
less as the width grows. The three before them train too much. Two change an initial law alone: of
hidden layers, as if they were inputs; of the readout, n^-1/2 as torch has it. `forward factor` is
the reference's own form, right where the forward pass multiplies what a tensor here carries. The
last differs from muP only where the dimension of a head grows.
"""

WRONG = tuple(name for name in PARAMETRIZATIONS if "lr" in name)
