"""The command line of `core.multisource`.

    python -m core.multisource advise data.csv --by source

Exit codes: 0 done; 1 failed; 2 refused, with one line that says why, or asked wrongly; 130
interrupted.
"""

import json
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from core.command import FILE, end_of, refusing
from core.multisource._csv import read_samples
from core.multisource.pooling import THRESHOLD, Advice
from core.multisource.pooling import advise as advise_on


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Several data sources: what they share, and whether to pool them."""


def names(_: click.Context, __: click.Parameter, value: str | None) -> list[str] | None:
    """Return names that commas separate, or None."""
    return None if value is None else [name.strip() for name in value.split(",")]


@cli.command()
@click.argument("data", type=FILE)
@click.option("--by", required=True, help="Column that says which source a line is from.")
@click.option("--columns", callback=names, help="Columns of numbers, and commas; else all others.")
@click.option("--sources", callback=names, help="Sources to compare, and commas; else all.")
@click.option("--delimiter", default=",", show_default=True, help="Between two values of a line.")
@click.option("--json", "as_json", is_flag=True, help="Print everything, estimates too, as JSON.")
def advise(
    data: Path,
    by: str,
    columns: list[str] | None,
    sources: list[str] | None,
    delimiter: str,
    as_json: bool,
) -> None:
    """Should the means of several sources be pooled? Column by column.

    DATA is a file of comma-separated values, its first line the columns' names.
    """
    if len(delimiter) != 1:
        raise click.BadParameter(f"want one character, got {delimiter!r}", param_hint="--delimiter")
    with refusing(ValueError):
        samples = read_samples(data, by=by, columns=columns, delimiter=delimiter)
        advice = advise_on(samples.x, samples.source, columns=samples.columns, sources=sources)
    if as_json:
        click.echo(json.dumps(advice.as_dict(), indent=1, ensure_ascii=False))
    else:
        show(advice, Console())


def show(advice: Advice, console: Console) -> None:
    """Print a table, a line a column, and what follows from it."""
    table = Table(box=None, pad_edge=False)
    for head in ("column", "spread / chance", "advice", "safe: keep of differences"):
        table.add_column(head, justify="left" if head in ("column", "advice") else "right")
    ratios = advice.spread / advice.chance
    for j, name in enumerate(advice.columns):
        said = "pool" if advice.share[j] else "keep apart"
        table.add_row(name, f"{ratios[j]:.2f}", said, f"{advice.kept[j]:.0%}")
    console.print(table)
    few, many = advice.n_k.min(), advice.n_k.max()
    size = f"{few:,}" if few == many else f"{few:,} to {many:,}"
    verdict = f"{advice.K} sources of {size} samples. Verdict: {advice.verdict}."
    console.print(f"\n{verdict}", style="bold")
    console.print(
        f"Spread / chance is 1 on average where means are equal; below {THRESHOLD:g} averaging is "
        "estimated to err less. Near it both do alike: take the safe estimate (--json), that moves "
        "each mean part of the way to the average."
    )
    errors = advice.errors
    console.print(
        f"Total variation to expect, about: {errors['single']:.3g} alone, {errors['pooled']:.3g} "
        f"all pooled, {errors['chosen']:.3g} as advised; effective similarity "
        f"{advice.effective_similarity:.2f}."
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, that of this process if none is given; return the exit code."""
    return end_of(cli, arguments, "python -m core.multisource")
