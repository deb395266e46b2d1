"""Two sets of records side by side: what came out otherwise, and what was otherwise around it.

A run is paired with the one of the same chapter, scale and values; what is then left, with the one
that is left of its chapter and scale, then of its chapter. Other claims, numbers behind figures
(within a tolerance, see `figures`), parameters, scripts, warnings and ends of a run are drift;
other versions, machines and commits are what may have caused it.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from core.batch import figures
from core.batch.records import Record
from core.batch.trace import told

ABSENT, THERE = "", "there"
CLAIM = ("verdict", "expected", "here", "paper", "statement", "source")
PLACE = ("commit", "dirty", "python", "platform", "device", "cpu", "cores", "threads")


class Change(NamedTuple):
    """One thing that differs; what is not there is an empty text."""

    what: str
    """`verdict`, `here` or another field of a claim, `claim`, `figure`, `parameter`, `script`,
    `warning`, `end`, `run`; of the environment, the name of a package or a field of provenance."""
    name: str
    """The id of the claim, the name of the parameter, the figure and what of it; else empty."""
    before: str
    after: str

    def __str__(self) -> str:
        """Return it as one line."""
        called = f"{self.what} {self.name}" if self.name else self.what
        return f"{called}: {self.before or 'none'} -> {self.after or 'none'}"


@dataclass(frozen=True)
class Run:
    """Two records of what is meant to be the same run; one of them may be missing."""

    chapter: str
    scale: str
    given: dict[str, Any]
    changes: list[Change] = field(default_factory=list)
    """What came out otherwise; empty where the two are alike."""
    environment: list[Change] = field(default_factory=list)


def compare(
    before: list[Record], after: list[Record], tolerance: float = figures.TOLERANCE
) -> list[Run]:
    """Compare two sets of valid records, run by run.

    Args:
        before: one set.
        after: the other; where a run differs from it, that is the change.
        tolerance: for numbers behind figures, in lengths of their axes.
    """
    return [_run(old, new, tolerance) for old, new in pairs(before, after)]


def asked(old: Record, new: Record) -> list[Change]:
    """Return in which way not the same was run: the script, the parameters."""
    script = Change("script", "", old["source"][:12], new["source"][:12])
    was, now = ({n: _said(v) for n, v in r["parameters"].items()} for r in (old, new))
    values = [
        Change("parameter", n, was.get(n, ABSENT), now.get(n, ABSENT)) for n in {**was, **now}
    ]
    return _differing([script, *values])


def outcomes(old: Record, new: Record, tolerance: float = figures.TOLERANCE) -> list[Change]:
    """Return what came out otherwise: how the run ended, its warnings, claims and figures."""
    ends = Change("end", "", _end(old), _end(new))
    warned = [
        Change("warning", "", *(w if w in side["warnings"] else ABSENT for side in (old, new)))
        for w in dict.fromkeys([*old["warnings"], *new["warnings"]])
    ]
    whole = ends.before == ends.after == "done"  # one that failed on its way has not got to all
    found = [ends, *warned, *_claims(old, new, whole), *_figures(old, new, whole, tolerance)]
    return _differing(found)


def environment(old: Record, new: Record) -> list[Change]:
    """Return what was otherwise around a run: versions, machine, commit, library."""
    was, now = old["provenance"], new["provenance"]
    rows = [(name, "", _said(was[name])[:40], _said(now[name])[:40]) for name in PLACE]
    for name in {**was["packages"], **now["packages"]}:
        versions = was["packages"].get(name, ABSENT), now["packages"].get(name, ABSENT)
        rows.append((name, "", *versions))
    files = {**old["library"], **new["library"]}
    other = sum(old["library"].get(name) != new["library"].get(name) for name in files)
    rows.append(("library", "", "as it was", f"{other} files differ" if other else "as it was"))
    return _differing(Change(*row) for row in rows)


def pairs(
    before: list[Record], after: list[Record]
) -> Iterator[tuple[Record | None, Record | None]]:
    """Yield each record with its peer, or with None."""
    keys: list[Callable[[Record], Any]] = [
        lambda r: (r["chapter"], r["scale"], json.dumps(r["given"], sort_keys=True)),
        lambda r: (r["chapter"], r["scale"]),
        lambda r: r["chapter"],
    ]
    peers: dict[int, Record] = {}
    left = [before, after]
    for key in keys:
        old, new = (_alone(records, key) for records in left)
        for name in old.keys() & new.keys():
            peers[id(old[name])] = new[name]
        taken = {*peers, *map(id, peers.values())}
        left = [[r for r in records if id(r) not in taken] for records in left]
    yield from ((record, peers.get(id(record))) for record in before)
    yield from ((None, record) for record in left[1])


def _alone(records: list[Record], key: Callable[[Record], Any]) -> dict[Any, Record]:
    """Return the records that are the only ones with their key."""
    keys = [key(record) for record in records]
    return {k: r for k, r in zip(keys, records, strict=True) if keys.count(k) == 1}


def _run(old: Record | None, new: Record | None, tolerance: float) -> Run:
    there = old or new or {}
    run = Run(there["chapter"], there["scale"], there["given"])
    if old is None or new is None:
        sides = (THERE, ABSENT) if old else (ABSENT, THERE)
        run.changes.append(Change("run", "", *sides))
    else:
        run.changes.extend([*asked(old, new), *outcomes(old, new, tolerance)])
        run.environment.extend(environment(old, new))
    return run


def _differing(found: Iterable[Change]) -> list[Change]:
    return [change for change in found if change.before != change.after]


def _end(record: Record) -> str:
    return "done" if record["failure"] is None else f"failed at {told(record['failure'])}"


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _claims(old: Record, new: Record, whole: bool) -> Iterator[Change]:
    was, now = ({claim["id"]: claim for claim in record["claims"]} for record in (old, new))
    for name in {**was, **now}:
        if name in was and name in now:
            yield from (Change(key, name, was[name][key], now[name][key]) for key in CLAIM)
        elif whole:
            sides = (side[name]["verdict"] if name in side else ABSENT for side in (was, now))
            yield Change("claim", name, *sides)


def _figures(old: Record, new: Record, whole: bool, tolerance: float) -> Iterator[Change]:
    if "figures" not in old or "figures" not in new:
        return  # a record from before figures had numbers
    was, now = old["figures"], new["figures"]
    for name in {**was, **now}:
        if name in was and name in now:
            moved = figures.differences(was[name], now[name], tolerance)
            yield from (Change("figure", f"{name}, {m.where}", m.before, m.after) for m in moved)
        elif whole:
            yield Change(
                "figure", name, *(THERE if name in side else ABSENT for side in (was, now))
            )
