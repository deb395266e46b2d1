"""Compare the numbers behind figures, as an eye would: by where they are drawn.

`core.lab.figure_numbers` puts them into the output of a cell; `record.schema.json` describes them.
Two numbers are the same if they stand in the same place of their axis, to within `TOLERANCE` of its
length: in logarithms where the axis is logarithmic, at the edge where they lie outside of it. So
what another processor rounds otherwise passes, and what would make a caption wrong does not.
"""

import math
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any, NamedTuple

TOLERANCE = 0.01
"""Of the length of the axis, as it was drawn before."""

Panel = dict[str, Any]
Series = dict[str, Any]
Axes = dict[str, dict[str, str]]
NUMBERS = ("x", "y", "colour")


class Moved(NamedTuple):
    """One difference between two figures."""

    where: str
    before: str
    after: str

    def __str__(self) -> str:
        """Return it as one line."""
        return f"{self.where}: {self.before} -> {self.after}"


def differences(
    before: list[Panel], after: list[Panel], tolerance: float = TOLERANCE
) -> Iterator[Moved]:
    """Yield in which way one figure differs from another: of each series what moved most."""
    if len(before) != len(after):
        yield Moved("panels", str(len(before)), str(len(after)))
        return
    for number, (old, new) in enumerate(zip(before, after, strict=True), start=1):
        where = f"panel {number}, " if len(before) > 1 else ""
        for found in _of_panel(old, new, tolerance):
            yield found._replace(where=where + found.where)


def _of_panel(old: Panel, new: Panel, tolerance: float) -> Iterator[Moved]:
    for name, then, now in zip(("title", *NUMBERS), _words(old), _words(new), strict=True):
        if then != now:
            yield Moved(name, then, now)
            return
    for was, now in zip_longest(old["series"], new["series"]):
        if was is None or now is None or _kind(was) != _kind(now):
            yield Moved("series", _kind(was), _kind(now))
            return
        moved = _of_series(was, now, old["axes"], tolerance)
        if moved:
            yield moved


def _words(panel: Panel) -> list[str]:
    """Return the title, and how each axis is labelled and scaled."""
    axes = [panel["axes"].get(name, {}) for name in NUMBERS]
    words = (", ".join(filter(None, [a.get("label"), a.get("scale")])) for a in axes)
    return [panel["title"], *words]


def _kind(series: Series | None) -> str:
    """Return what is drawn, how it is called, and how many points it has."""
    if series is None:
        return "none"
    label = f" {series['label']!r}" if "label" in series else ""
    return f"{series['kind']}{label} of {series['n']}"


def _of_series(old: Series, new: Series, axes: Axes, tolerance: float) -> Moved | None:
    *_, last = names = [name for name in NUMBERS if name in old]
    columns = [(name, name, axes[name]) for name in names]
    columns += [("quantiles", f"quantiles of {last}", axes[last])] if "quantiles" in old else []
    worst, moved = tolerance, None
    for key, called, axis in columns:
        for then, now in zip_longest(old[key].split(), new.get(key, "").split(), fillvalue="nan"):
            by = _distance(float(then), float(now), axis)
            if by > worst:
                where, after = f"{_kind(old)}, {called}", f"{now} ({by:.0%} of the axis)"
                worst, moved = by, Moved(where, then, after)
    return moved


def _distance(then: float, now: float, axis: dict[str, str]) -> float:
    """Return how far apart the places of two numbers are, in lengths of the axis."""
    if math.isnan(then) or math.isnan(now):
        return float(math.isnan(then) != math.isnan(now))
    low, high = (float(end) for end in axis["range"].split())
    if axis["scale"] == "log":
        low, high, then, now = (math.log10(max(v, 1e-300)) for v in (low, high, then, now))
    if low == high:
        return float(then != now)
    then, now = (min(max((v - low) / (high - low), 0.0), 1.0) for v in (then, now))
    return abs(then - now)
