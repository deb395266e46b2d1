"""The commands: list, run, refresh, check, book.

Exit codes: 0 done; 1 ran and failed, or a check found something; 2 refused, and nothing was
written; 130 interrupted, by Ctrl-C or by SIGTERM.
"""

import os
import sys
from pathlib import Path

import click

from core.batch.chapters import Refused, find_chapters, find_root
from core.batch.check import problems
from core.batch.execute import Job, execute
from core.batch.parameters import DEFAULT_SCALE, parameters_of, scales_of, values_of
from core.batch.progress import Show
from core.batch.records import Record
from core.batch.workers import interrupt_on_signals

CELL_TIMEOUT = 3600


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Execute, check and render the chapters of the book around the current folder."""


@cli.command("list")
def list_() -> None:
    """List the chapters, what each can be asked, and its scales."""
    for chapter in find_chapters(find_root(Path.cwd()), ()):
        click.echo(f"{chapter.name}: {chapter.title}")
        click.echo(f"  scales: {', '.join(scales_of(chapter))}")
        for p in parameters_of(chapter).values():
            comment = f"  # {p.comment}" if p.comment else ""
            click.echo(f"  {p.name}: {p.annotation or 'no type'} = {p.default!r}{comment}")


@cli.command()
@click.argument("chapter")
@click.option("--scale", default=DEFAULT_SCALE, show_default=True, help="A file of values.")
@click.option(
    "-p", "pairs", type=(str, str), multiple=True, metavar="NAME VALUE", help="One value."
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for notebook and record.")
@click.option("--timeout", type=click.IntRange(0), default=CELL_TIMEOUT, show_default=True)
def run(
    chapter: str, scale: str, pairs: tuple[tuple[str, str], ...], out: Path | None, timeout: int
) -> None:
    """Execute one CHAPTER; --timeout is in seconds for each cell, 0 for none."""
    root = find_root(Path.cwd())
    (found,) = find_chapters(root, (chapter,))
    given = values_of(found, scale, dict(pairs))
    folder = out or root / "_build" / "runs" / chapter / scale
    job = Job(found, folder, scale, given, timeout or None)
    with Show() as show:
        record = execute(job, lambda done, total: show(chapter, done, total))
    click.echo(told(job, record))
    sys.exit(record["status"] != "done")


@cli.command("check")
def check_() -> None:
    """Check all that is committed, without running it."""
    found = problems(find_root(Path.cwd()))
    for problem in found:
        click.echo(str(problem))
    click.echo(f"{len(found)} problems" if found else "the book is as it should be")
    sys.exit(bool(found))


def told(job: Job, record: Record | None) -> str:
    """Return one line on how a run ended."""
    name = job.chapter.name
    if record is None:
        return f"{name}: its process died without a word, as when memory runs out"
    failure = record["failure"]
    if failure is None:
        return f"{name}: done in {record['seconds']:.0f} s, {shown(job.notebook)}"
    where = f"book/{name}.py line {failure['line']}" if failure["line"] else f"book/{name}.py"
    what = f"{failure['error']}: {failure['message']}"
    kept = f"; kept {shown(job.failed[0])}" if job.failed[0].exists() else ""
    return f"{name}: failed at {where} ({failure['code']}): {what}{kept}"


def shown(path: Path) -> str:
    """Return the path as a person here would type it."""
    return os.path.relpath(path)


def main() -> int:
    """Run the command line and return the exit code."""
    interrupt_on_signals()
    try:
        return cli.main(standalone_mode=False) or 0
    except Refused as why:
        click.echo(f"refused: {why}", err=True)
        return 2
    except click.ClickException as wrong:
        wrong.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return 130
