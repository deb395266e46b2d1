"""The commands for many runs: `grid`, `status`, `results`, `plot`, `study`.

Exit codes are those of `cli`. A scheduler that is lost on the way is 1: what was done is kept.
"""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import click

from core.batch import cluster, study
from core.batch.chapters import find_chapters, find_root
from core.batch.drive import Drive, SchedulerLost, Tally
from core.batch.grid import Block, Part, plan, read_grid, tasks_of, typed_grid
from core.batch.options import jobs_option, pairs_option, shown, timeout_option
from core.batch.parameters import DEFAULT_SCALE
from core.batch.progress import ShowTasks
from core.batch.refresh import write_pages
from core.batch.results import Results
from core.batch.storage import results_at
from core.batch.table import Row, as_csv, rows_of, write_table
from core.batch.task import Orders
from core.batch.trace import told
from core.command import Refused
from core.files import write_all

PLACE = Path("_build", "grid")
all_option = click.option(
    "--all", "everything", is_flag=True, help="Those of earlier grids and versions, too."
)


def _where(_context: click.Context, _parameter: click.Parameter, place: str | None) -> str:
    """Return the folder that is meant: that of the book, wherever in it one stands."""
    return place or str(find_root(Path.cwd()) / PLACE)


place_argument = click.argument("place", required=False, metavar="[FOLDER]", callback=_where)


@click.command()
@click.argument("chapters", nargs=-1)
@click.option("-f", "--file", type=Path, help="A grid file, instead of CHAPTERS.")
@click.option("--scale", "scales", multiple=True, help="A scale; may be repeated.")
@pairs_option
@click.option("--seeds", help="0..9, or 1,2,5.")
@click.option("--out", "place", callback=_where, help="Folder of the results.  [_build/grid]")
@click.option("--retries", type=click.IntRange(0), default=0, help="Of each task that fails.")
@click.option("--threads", type=click.IntRange(1), default=1, help="Of each task.")
@click.option("--gpu", is_flag=True, help="Give each task a GPU of its own.")
@click.option("--scheduler", metavar="ADDRESS", help="Take the workers of this dask scheduler.")
@click.option("--cluster", "described", type=Path, help="Make the cluster this file describes.")
@jobs_option
@timeout_option
def grid(place: str, retries: int, threads: int, gpu: bool, timeout: int, **asked: Any) -> int:
    """Execute CHAPTERS x scales x values x seeds; a -p that is repeated has several values.

    What has its result in the folder is not run again: to resume, give the same command. The
    folder may be s3://bucket/prefix, here as for the commands that read it.
    """
    if asked["scheduler"] and asked["described"]:
        raise Refused("--scheduler and --cluster: one of the two")
    root = find_root(Path.cwd())
    parts = plan(root, blocks_of(asked))
    results = results_at(place)
    results.open()
    done, total = done_before(parts, results)
    click.echo(f"{total} tasks, {len(done)} of them done before")
    left = total - len(done)
    if not left:
        results.save_plan(tasks_of(parts))
        return 0
    orders = Orders(str(root), results.place, timeout or None, threads)
    todo = (task for task in tasks_of(parts) if task.key not in done)
    with workers(asked, gpu, min(asked["jobs"], left)) as client, ShowTasks(left) as show:
        results.save_plan(tasks_of(parts))
        tell = lambda now: show(now.done, len(now.failed))  # noqa: E731
        drive = Drive(client, orders, retries, gpu, tell, click.echo)
        try:
            return ended(drive.run(todo), left)
        except SchedulerLost as why:
            click.echo(f"{why}: {drive.tally.done} of {left} tasks done; run the grid again")
            return 1


def blocks_of(asked: dict[str, Any]) -> list[Block]:
    """Return what the command line, or the file that it names, asks for.

    Raises:
        Refused: it names both, or neither.
    """
    chapters, scales, pairs, seeds = (asked[n] for n in ("chapters", "scales", "pairs", "seeds"))
    typed = bool(chapters or scales or pairs or seeds is not None)
    if typed and asked["file"]:
        raise Refused("--file stands alone: chapters, scales, values and seeds are in the file")
    if asked["file"]:
        return read_grid(asked["file"])
    if not chapters:
        raise Refused("name chapters, or a grid file with --file")
    return typed_grid(chapters, scales or (DEFAULT_SCALE,), pairs, seeds)


def done_before(parts: list[Part], results: Results) -> tuple[set[str], int]:
    """Return the keys of the tasks that have a result, each looked at, and how many tasks are.

    Raises:
        Refused: a result was changed since.
    """
    asked = [task.key for task in tasks_of(parts)]
    there = results.done()
    done = {key for key, _ in results.records(key for key in asked if key in there)}
    return done, len(asked)


def workers(asked: dict[str, Any], gpu: bool, count: int) -> AbstractContextManager[Any]:
    """Return what gives the client of the cluster that was asked for."""
    if asked["scheduler"]:
        return cluster.scheduler_at(asked["scheduler"])
    if asked["described"]:
        return cluster.cluster_of(asked["described"])
    return cluster.workers_here(count, cluster.gpus_here() if gpu else None)


def ended(tally: Tally, total: int) -> int:
    """Say how a grid ended; return the exit code."""
    for task, why in tally.failed:
        click.echo(f"{task}: {why}")
    click.echo(
        f"{tally.done} of {total} tasks done" + (", the rest failed" if tally.failed else "")
    )
    return int(bool(tally.failed))


@click.command()
@place_argument
@click.option("--verify", is_flag=True, help="Compare every file with the hash of its seal.")
def status(place: str, verify: bool) -> int:
    """Say how far the grid is that was last asked for in FOLDER.

    FOLDER is _build/grid of the book, unless it is named.
    """
    results = results_at(place)
    results.check()
    done, failures, asked = results.done(), results.failures(), results.plan()
    in_work = results.in_work() - done
    if verify:
        for key in sorted(done):
            results.verify(key)
    count = {
        "done": sum(task.key in done for task in asked),
        "running": sum(task.key in in_work for task in asked),
        "failed": sum(task.key in failures and task.key not in in_work for task in asked),
    }
    waiting = len(asked) - sum(count.values())
    numbers = ", ".join(f"{number} {what}" for what, number in count.items())
    click.echo(f"{len(asked)} tasks: {numbers}, {waiting} waiting")
    others = len(done - {task.key for task in asked})
    if others:
        click.echo(f"{others} results of other grids, or of other versions of the book")
    for task in asked:
        if task.key in failures:
            click.echo(f"{task}: failed at {told(failures[task.key]['failure'])}")
    return 0


@click.command("results")
@place_argument
@click.option("--out", type=Path, help="File that ends in .csv or .parquet, instead of the screen.")
@all_option
def results_(place: str, out: Path | None, everything: bool) -> int:
    """Give one table of the results in FOLDER: a row for each claim of each run.

    A run whose verdict was not the expected one has failed, and is there with its claims.
    FOLDER is _build/grid of the book, unless it is named.
    """
    rows = rows_in(place, everything)
    if out is None:
        click.echo(as_csv(rows), nl=False)
        return 0
    write_table(rows, out)
    click.echo(f"{len(rows)} rows in {out}")
    return 0


@click.command()
@place_argument
@click.option("--claim", help="Show the values of this one, instead of all verdicts.")
@click.option("--number", type=int, help="Which number of the claim's text, where it has several.")
@click.option("--out", type=Path, default="claims.png", show_default=True, help="Picture.")
@all_option
def plot(place: str, claim: str | None, number: int | None, out: Path, everything: bool) -> int:
    """Draw the claims of the results in FOLDER over seeds, with intervals.

    FOLDER is _build/grid of the book, unless it is named.
    """
    from core.batch import plot as plots  # scipy takes a second

    rows = [row for row in rows_in(place, everything) if row["claim"]]
    if not rows:
        raise Refused(f"{place}: no result with a claim to draw")
    figure = plots.plot_values(rows, claim, number) if claim else plots.plot_shares(rows)
    try:
        figure.savefig(out, dpi=150)
    except (OSError, ValueError) as error:
        raise Refused(f"cannot draw {out}: {error}") from error
    click.echo(f"drawn in {out}")
    return 0


@click.command("study")
@place_argument
def study_(place: str) -> int:
    """Keep as evidence what became of each claim over the seeds of the grid in FOLDER.

    It takes the runs at the default scale, whose parameters are the script's but for the seed.
    FOLDER is _build/grid of the book, unless it is named.
    """
    root = find_root(Path.cwd())
    results = results_at(place)
    results.check()
    found = study.runs_of(results)
    texts = {}
    for chapter in find_chapters(root, tuple(found)):
        made = study.study_of(found[chapter.name])
        study.check_default(made, chapter)
        texts[study.path_of(chapter)] = study.text_of(made)
    for path in texts:
        path.parent.mkdir(parents=True, exist_ok=True)
    write_all(texts)
    write_pages(root / "book", find_chapters(root, ()))
    for path in texts:
        click.echo(f"kept as {shown(path)}")
    return 0


def rows_in(place: str, everything: bool) -> list[Row]:
    """Return the table of the tasks last asked for, or of all that are there.

    Raises:
        Refused: that is no folder of results, or one of them was changed.
    """
    results = results_at(place)
    results.check()
    done, failed = results.done(), results.failures()
    there = done | set(failed)
    asked = [task.key for task in results.plan()]
    keys = sorted(there) if everything else [key for key in asked if key in there]
    records = ((key, results.record(key) if key in done else failed[key]) for key in keys)
    return list(rows_of(records))


COMMANDS = (grid, status, results_, plot, study_)
