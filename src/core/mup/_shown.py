"""How the command line of `core.mup` prints: at the terminal's width, or for a program to read."""

import json
import sys
from math import isfinite
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from core.mup._notes import widths
from core.mup.coordinates import Coordinates, Which
from core.mup.explain import COLUMNS, rows
from core.mup.plan import Plan
from core.mup.rules import OPTIMIZERS

WORST = 8
"""Failures of a check that are named."""


def as_json(what: dict[str, Any]) -> None:
    """Print a dictionary as JSON."""
    click.echo(json.dumps(what, indent=1))


def lines(text: str) -> None:
    """Print lines; a terminal's are wrapped between words."""
    _console().print(text, markup=False, soft_wrap=not sys.stdout.isatty())


def table(made: Plan, optimizer: str) -> None:
    """Print a plan: a row for all parameters that are treated alike."""
    lines(f"{widths(made)}; factors for {optimizer} ({OPTIMIZERS[optimizer]})")
    shown = Table(*COLUMNS, box=None, padding=(0, 1, 0, 0), header_style="bold")
    shown.columns[0].overflow = "fold"
    for column in shown.columns[1:]:
        column.no_wrap = True
    for row in rows(made, optimizer):
        shown.add_row(*row)
    _console().print(shown)
    for warning in made.warnings:
        lines(f"look at this: {warning}")


def verdict(seen: Coordinates, failures: list[str], parametrization: str) -> None:
    """Print the slopes of a check, the worst failures, and what follows."""
    click.echo(seen.as_text())
    for failure in failures[:WORST]:
        lines(f"not flat: {failure}")
    if len(failures) > WORST:
        lines(f"and {len(failures) - WORST} more")
    if failures:
        lines(f"{parametrization}: not flat in the width")
    else:
        count = len(seen.modules)
        lines(f"{parametrization}: flat in the width, all {count} modules within their bands")


def slopes(seen: Coordinates) -> dict[str, Any]:
    """Return the slopes of every module, one a step; None where there is none."""

    def by_module(which: Which) -> dict[str, list[float | None]]:
        columns = seen.slopes(which).T.tolist()
        told = [[x if isfinite(x) else None for x in column] for column in columns]
        return dict(zip(seen.modules, told, strict=True))

    return {"widths": seen.widths, "size": by_module("size"), "moved": by_module("moved")}


def _console() -> Console:
    """Of the terminal's width; of 120 columns where there is none."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 120)
