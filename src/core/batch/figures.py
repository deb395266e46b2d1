"""Compare the numbers behind figures, as an eye would: by where they are drawn.

`core.lab.figure_numbers` puts them into the output of a cell; `record.schema.json` describes them.
Two numbers are the same if they stand in the same place of their axis, to within `TOLERANCE` of its
length: in logarithms where the axis is logarithmic, at the edge where they lie outside of it. So
what another processor rounds otherwise passes, and what would make a caption wrong does not.
"""

import math
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

TOLERANCE = 0.01
"""Of the length of the axis, as it was drawn before."""

Panel = dict[str, Any]
Series = dict[str, Any]
NUMBERS = ("x", "y", "colour")


def differences(
    before: list[Panel], after: list[Panel], tolerance: float = TOLERANCE
) -> Iterator[str]:
    """Yield in which way one figure differs from another, a line for each series that does."""
    if len(before) != len(after):
        yield f"{len(before)} panels -> {len(after)}"
        return
    for number, (old, new) in enumerate(zip(before, after, strict=True), start=1):
        where = f"panel {number}: " if len(before) > 1 else ""
        yield from (where + what for what in _of_panel(old, new, tolerance))


def _of_panel(old: Panel, new: Panel, tolerance: float) -> Iterator[str]:
    for name, then, now in zip(("title", *NUMBERS), _words(old), _words(new), strict=True):
        if then != now:
            yield f"{name}: {then!r} -> {now!r}"
            return
    for was, now in zip_longest(old["series"], new["series"]):
        if was is None or now is None or _kind(was) != _kind(now):
            yield f"{_kind(was)} -> {_kind(now)}"
            return
        yield from _of_series(was, now, old["axes"], tolerance)


def _words(panel: Panel) -> list[str]:
    """Return the title, and how each axis is labelled and scaled."""
    axes = [panel["axes"].get(name, {}) for name in NUMBERS]
    return [panel["title"], *(f"{a.get('label')}, {a.get('scale')}" if a else "" for a in axes)]


def _kind(series: Series | None) -> str:
    """Return what is drawn, how it is called, and how many points it has."""
    if series is None:
        return "nothing"
    label = f" {series['label']!r}" if "label" in series else ""
    return f"{series['kind']}{label} of {series['n']}"


def _of_series(
    old: Series, new: Series, axes: dict[str, dict[str, str]], tolerance: float
) -> Iterator[str]:
    """Yield one line, on the number that moved most, if that is too far."""
    *_, last = names = [name for name in NUMBERS if name in old]
    columns = [(name, name, axes[name]) for name in names]
    columns += [("quantiles", f"quantiles of {last}", axes[last])] if "quantiles" in old else []
    worst, said = tolerance, None
    for key, called, axis in columns:
        for then, now in zip(old[key].split(), new.get(key, "").split(), strict=True):
            by = _moved(float(then), float(now), axis)
            if by > worst:
                worst, said = by, f"{called} {then} -> {now}, {by:.0%} of the axis"
    if said:
        yield f"{_kind(old)}: {said}"


def _moved(then: float, now: float, axis: dict[str, str]) -> float:
    """Return the distance between the places of two numbers, in lengths of the axis."""
    if math.isnan(then) or math.isnan(now):
        return float(math.isnan(then) != math.isnan(now))
    low, high = (float(end) for end in axis["range"].split())
    if axis["scale"] == "log":
        low, high, then, now = (math.log10(max(v, 1e-300)) for v in (low, high, then, now))
    if low == high:
        return float(then != now)
    then, now = (min(max((v - low) / (high - low), 0.0), 1.0) for v in (then, now))
    return abs(then - now)
