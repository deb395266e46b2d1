"""The command `drift`. Exit codes: 0 alike, 1 drifted, 2 refused."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

from core.batch.chapters import find_root
from core.batch.drift import Change, Run, compare
from core.batch.figures import TOLERANCE
from core.batch.sets import records_at
from core.batch.table import Row, write_table

COLUMNS = ["chapter", "scale", "given", "drift", "what", "name", "before", "after"]


@click.command()
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1),
    default=TOLERANCE,
    show_default=True,
    help="For the numbers behind figures, in lengths of their axes.",
)
@click.option("--json", "as_json", is_flag=True, help="Give JSON, not text.")
@click.option("--out", type=Path, help="File that ends in .csv or .parquet, besides.")
def drift(before: str, after: str, tolerance: float, as_json: bool, out: Path | None) -> int:
    """Lay two sets of records side by side, and say what differs, claim by claim.

    A and B: a record, a folder of records such as book/ or _build/runs, a folder of results of
    `grid`, or a revision of git such as HEAD~3.
    """
    root = find_root(Path.cwd())
    runs = compare(records_at(before, root), records_at(after, root), tolerance)
    if out is not None:
        write_table(list(_rows(runs)), out, COLUMNS)
    if as_json:
        found = {"before": before, "after": after, "runs": [_tree(run) for run in runs]}
        click.echo(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        click.echo("\n".join(_lines(runs)))
    return int(any(run.changes for run in runs))


def _lines(runs: list[Run]) -> Iterator[str]:
    """Yield what a person reads: each run, what surrounded all of them, and a sum."""
    several = Counter((run.chapter, run.scale) for run in runs)
    for run in runs:
        values = [f"{name}={value!r}" for name, value in run.given.items()]
        alone = several[run.chapter, run.scale] == 1
        called = " ".join([run.chapter, run.scale, *([] if alone else values)])
        yield f"{called}: {'drifted' if run.changes else 'alike'}"
        yield from (f"  {change}" for change in run.changes)
    seen = Counter(change for run in runs for change in run.environment)
    if seen:
        yield "environment"
    for change, times in seen.items():
        where = "" if times == len(runs) else f" ({times} of {len(runs)} runs)"
        yield f"  {change}{where}"
    counts = Counter(change.what for run in runs for change in run.changes)
    told = ", ".join(f"{what} {number}" for what, number in counts.items())
    drifted = sum(bool(run.changes) for run in runs)
    total = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    yield f"{drifted} of {total} drifted: {told}" if told else f"{total}, all alike"


def _rows(runs: list[Run]) -> Iterator[Row]:
    for run in runs:
        of = {"chapter": run.chapter, "scale": run.scale, "given": run.given}
        for drifted, changes in ((True, run.changes), (False, run.environment)):
            yield from (of | {"drift": drifted, **change._asdict()} for change in changes)


def _tree(run: Run) -> Row:
    of = {"chapter": run.chapter, "scale": run.scale, "given": run.given}
    return of | {"changes": _dicts(run.changes), "environment": _dicts(run.environment)}


def _dicts(changes: list[Change]) -> list[Row]:
    return [change._asdict() for change in changes]
