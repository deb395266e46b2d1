"""What several commands have in common: options, and how a path is shown."""

import os
from pathlib import Path

import click

CELL_TIMEOUT = 3600
AT_ONCE = min(2, os.cpu_count() or 1)

timeout_option = click.option(
    "--timeout",
    type=click.IntRange(0),
    default=CELL_TIMEOUT,
    show_default=True,
    help="Seconds that one cell may take, 0 for any number.",
)
jobs_option = click.option(
    "-j",
    "--jobs",
    type=click.IntRange(1),
    default=AT_ONCE,
    show_default=True,
    help="Chapters side by side, each on one core.",
)
pairs_option = click.option(
    "-p", "pairs", type=(str, str), multiple=True, metavar="NAME VALUE", help="One value."
)


def shown(path: Path) -> str:
    """Return the path as a person here would type it."""
    return os.path.relpath(path)
