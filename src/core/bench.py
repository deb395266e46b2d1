"""Benchmarks, as ratios: `python -m core.bench [NAME]...` runs those of the rooms named, or all.

The bench of a room is `core/<room>/bench.py` with a function

    main() -> {comparison: {quantity: number or text}}

for example `{"one step, T = 100": {"loop (s)": 1.2, "vectorised (s)": 0.05, "ratio": 24.0}}`.
A quantity whose name begins with `ratio` is a multiple and is set off. The results are printed,
and written with their provenance to `_build/bench/<room>.json` below the current folder.

Exit codes: 0 done; 1 failed; 2 asked wrongly; 130 interrupted.
"""

import sys
import time
from collections.abc import Mapping
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from core.command import end_of
from core.files import write_json
from core.provenance import provenance

HERE = Path(__file__).parent
Results = Mapping[str, Mapping[str, float | str]]


def found() -> list[str]:
    """Return the rooms that have a bench."""
    return sorted(path.parent.name for path in HERE.glob("*/bench.py"))


def run(name: str) -> dict[str, Any]:
    """Run the bench of a room.

    Returns:
        `bench`, `results`, `seconds` of wall time, `provenance`: all that its file holds.

    Raises:
        ValueError: its `main` returned something else than comparisons of finite quantities.
    """
    bench = import_module(f"core.{name}.bench")
    start = time.perf_counter()
    results = bench.main()
    seconds = time.perf_counter() - start
    _check(name, results)
    return {
        "bench": name,
        "results": results,
        "seconds": round(seconds, 1),
        "provenance": provenance(HERE),
    }


def as_table(comparison: str, quantities: Mapping[str, float | str]) -> Table:
    """Return one comparison as a table for the terminal."""
    table = Table(title=comparison, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for quantity, value in quantities.items():
        ratio = quantity.startswith("ratio")
        table.add_row(quantity, _shown(value, ratio), style="bold" if ratio else "")
    return table


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, type=click.Choice(found()))
def cli(names: tuple[str, ...]) -> None:
    """Run the benches of the rooms NAMES, or all, and print what is how much faster."""
    console = Console()
    folder = Path("_build", "bench")
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or found():
        console.print(f"core.{name}.bench runs")
        outcome = run(name)
        for comparison, quantities in outcome["results"].items():
            console.print(as_table(comparison, quantities))
        path = folder / f"{name}.json"
        write_json(path, outcome)
        console.print(f"{outcome['seconds']} s, {path}")


def _check(name: str, results: Results) -> None:
    want = "want {comparison: {quantity: number or text}}"
    if not (isinstance(results, Mapping) and results):
        raise ValueError(f"core.{name}.bench.main: {want}, got {results!r}")
    for comparison, quantities in results.items():
        if not (isinstance(quantities, Mapping) and quantities):
            raise ValueError(f"core.{name}.bench.main: {want}, {comparison!r} has {quantities!r}")
        for quantity, value in quantities.items():
            if not (isinstance(value, str) or (isinstance(value, int | float) and isfinite(value))):
                raise ValueError(f"core.{name}.bench.main: {quantity!r} is {value!r}: {want}")


def _shown(value: float | str, ratio: bool) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.3g}×" if ratio else f"{value:,.4g}"  # noqa: RUF001


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, that of this process if none is given; return the exit code."""
    return end_of(cli, arguments, "python -m core.bench")


if __name__ == "__main__":
    sys.exit(main())
