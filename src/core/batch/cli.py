"""The command line of `core.batch`.

Exit codes: 0 done; 1 ran and failed, or a check found something; 2 refused, and nothing was
written; 130 interrupted, by Ctrl-C or by SIGTERM.
"""

import os
from pathlib import Path

import click

from core.batch import book as rendered
from core.batch import drift_cli, grid_cli, trace
from core.batch.chapters import find_chapters, find_root
from core.batch.check import notes, problems
from core.batch.claims_page import counted
from core.batch.execute import Job, execute
from core.batch.options import jobs_option, pairs_option, shown, timeout_option
from core.batch.parameters import DEFAULT_SCALE, parameters_of, scales_of, values_of
from core.batch.progress import Show
from core.batch.records import Record
from core.batch.refresh import install, reprint, write_pages
from core.batch.workers import side_by_side
from core.command import Refused, end_of


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Execute, check and render the chapters of the book around the current folder."""


for command in (*grid_cli.COMMANDS, drift_cli.drift):
    cli.add_command(command)


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
@pairs_option
@click.option("--out", help="Folder for notebook and record.")
@click.option("--evidence", is_flag=True, help="Put the result into book/evidence.")
@timeout_option
def run(
    chapter: str,
    scale: str,
    pairs: tuple[tuple[str, str], ...],
    out: str | None,
    evidence: bool,
    timeout: int,
) -> int:
    """Execute one CHAPTER; without --out the result is in _build/runs/CHAPTER/SCALE.

    It computes on one thread, unless OMP_NUM_THREADS says otherwise.
    """
    root = find_root(Path.cwd())
    (found,) = find_chapters(root, (chapter,))
    given = values_of(found, scale, once_each(pairs))
    if out is not None and not out.strip():
        raise Refused("--out is empty: name a folder")
    if evidence and (pairs or scale == DEFAULT_SCALE):
        raise Refused("evidence is of a scale other than cpu, and of no -p: make it a scale file")
    job = Job(
        chapter=found,
        out=Path(out) if out else root / "_build" / "runs" / chapter / scale,
        scale=scale,
        given=given,
        timeout=timeout or None,
    )
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with Show() as show:
        record = execute(job, lambda done, total: show(chapter, done, total))
    click.echo(told(job, record))
    if evidence and record["status"] == "done":
        kept = root / "book" / "evidence" / chapter / f"{scale}.ipynb"
        install(job, kept)
        write_pages(root / "book", find_chapters(root, ()))
        click.echo(f"kept as {shown(kept)}")
    return int(record["status"] != "done")


@cli.command()
@click.argument("chapters", nargs=-1)
@click.option(
    "--pages", is_flag=True, help="Execute nothing: only take over prose, and write pages."
)
@jobs_option
@timeout_option
def refresh(chapters: tuple[str, ...], pages: bool, jobs: int, timeout: int) -> int:
    """Execute CHAPTERS (all, if none is named) and put them in place of the committed ones."""
    root = find_root(Path.cwd())
    named = find_chapters(root, chapters)
    wanted = [] if pages else named
    work = [rendered.fresh_job(chapter, timeout or None) for chapter in wanted]
    done = executed(work, jobs)
    for job in done:
        replaced = install(job, job.chapter.notebook)
        click.echo(f"{shown(job.chapter.notebook)}: {'replaced' if replaced else 'unchanged'}")
    for chapter in named:
        if reprint(chapter, chapter.notebook):
            click.echo(f"{shown(chapter.notebook)}: has the prose of the script")
    for page in write_pages(root / "book", find_chapters(root, ())):
        click.echo(f"{shown(page)}: rewritten")
    return int(len(done) < len(work))


@cli.command()
def check() -> int:
    """Check all that is committed, without running it."""
    root = find_root(Path.cwd())
    for note in notes(root):
        click.echo(f"note: {note}")
    found = problems(root)
    for problem in found:
        click.echo(str(problem))
    click.echo(f"problems: {len(found)}" if found else "the book is as it should be")
    return int(bool(found))


@cli.command()
@jobs_option
@timeout_option
def book(jobs: int, timeout: int) -> int:
    """Execute what is stale into _build/run, and render the book to _build/html."""
    root = find_root(Path.cwd())
    chapters = find_chapters(root, ())
    work = [rendered.fresh_job(chapter, timeout or None) for chapter in chapters]
    stale = [(job, why) for job in work if (why := rendered.why_stale(job))]
    for job, why in stale:
        click.echo(f"{job.chapter.name}: {why}")
    if len(executed([job for job, _ in stale], jobs)) < len(stale):
        return 1
    click.echo("rendering")
    well, said = rendered.render(root, rendered.stage(chapters, root))
    if not well:
        click.echo(said)
        return 1
    for name, change in rendered.differences(chapters):
        click.echo(f"{name} differs from what is committed: {change}")
    click.echo(f"{counted(rendered.verdicts(chapters))}")
    click.echo(f"open {shown(root / '_build' / 'html' / 'index.html')}")
    return 0


def once_each(pairs: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Return the values by name.

    Raises:
        Refused: a name is given twice.
    """
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise Refused(f"parameter {name} is given twice")
    return dict(pairs)


def executed(work: list[Job], at_once: int) -> list[Job]:
    """Execute side by side, show how it goes, say how each ended; return those that are done."""
    with Show() as show:
        records = side_by_side(work, show, at_once=at_once)
    for job in work:
        click.echo(told(job, records[job.chapter.name]))
    return [job for job in work if (records[job.chapter.name] or {}).get("status") == "done"]


def told(job: Job, record: Record | None) -> str:
    """Return one line on how a run ended."""
    name = job.chapter.name
    if record is None:
        return f"{name}: its process died without a word, as when memory runs out"
    failure = record["failure"]
    if failure is None:
        return f"{name}: done in {record['seconds']:.0f} s, {shown(job.notebook)}"
    kept = f"; kept {shown(job.failed[0])}" if job.failed[0].exists() else ""
    return f"book/{name}.py: failed at {trace.told(failure)}{kept}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, that of this process if none is given; return the exit code."""
    return end_of(cli, arguments, "python -m core.batch")
