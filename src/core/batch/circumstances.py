"""When, how long and on what a chapter ran, in the words that the pages of the book use.

Only the standard library is imported: the pages are rendered where nothing else is installed.
"""

from datetime import datetime
from typing import Any


def date(record: dict[str, Any]) -> str:
    """Return the day on which the run started, in UTC: `24 November 2026`."""
    started = datetime.fromisoformat(record["started"])
    return f"{started.day} {started:%B %Y}"


def duration(record: dict[str, Any]) -> str:
    """Return the wall time of the whole run, rounded: `35 seconds`, `13 minutes`, `2.5 hours`."""
    seconds = record["seconds"]
    if seconds < 99.5:
        return _counted(max(1, round(seconds)), "second")
    minutes = round(seconds / 60)
    return _counted(minutes, "minute") if minutes < 100 else f"{seconds / 3600:.1f} hours"


def machine(record: dict[str, Any]) -> str:
    """Return what it ran on: `1 thread of AMD EPYC, no GPU`."""
    it = record["provenance"]
    gpu = "no GPU" if it["device"] == "cpu" else it["device"]
    return f"{_counted(it['threads'], 'thread')} of {it['cpu']}, {gpu}"


def versions(record: dict[str, Any], of: tuple[str, ...] = ()) -> str:
    """Return the versions it ran with: `Python 3.11.7, torch 2.13.0, ...; commit 1d267db`.

    Args:
        record: of a run.
        of: the packages that are named; all if none is given.
    """
    it = record["provenance"]
    kept = {name: it["packages"][name] for name in of or it["packages"]}
    named = {"Python": it["python"], **kept}
    packages = ", ".join(f"{name} {version}" for name, version in named.items())
    changed = " with changes" if it["dirty"] else ""
    commit = f"commit {it['commit'][:7]}{changed}" if it["commit"] else "outside git"
    return f"{packages}; {commit}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
