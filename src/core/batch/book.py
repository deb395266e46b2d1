"""Execute what is stale, and render the book from fresh executions alone.

The executions stand in `_build/run`. They, with a copy of the pages, are staged in `_build/book`,
from which Jupyter Book renders `_build/html`; the committed notebooks are not touched.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat

from core.batch.chapters import Chapter
from core.batch.drift import Change, outcomes
from core.batch.execute import Job
from core.batch.notebook import what_is_missing
from core.batch.parameters import defaults_of
from core.batch.reach import library_hashes
from core.batch.records import read_record
from core.batch.refresh import reprint, write_pages
from core.provenance import package_versions


def fresh_job(chapter: Chapter, timeout: int | None = None) -> Job:
    """Return the execution at the default scale that the rendered book shows."""
    folder = (chapter.root / "_build" / "run" / chapter.name).parent
    return Job(chapter, folder, timeout=timeout)


def why_stale(job: Job) -> str | None:
    """Return what has changed since the job's result was made, None if nothing has."""
    record = read_record(job.record)
    if record is None or not _is_whole(job.notebook):
        return "never executed"
    now = {
        "source": job.chapter.sha256,
        "parameters": defaults_of(job.chapter),
        "library": library_hashes(job.chapter),
        "packages": package_versions(),
    }
    then = {**record, "packages": record["provenance"]["packages"]}
    changed = [what for what, value in now.items() if then[what] != value]
    return f"changed: {', '.join(changed)}" if changed else None


def stage(chapters: list[Chapter], root: Path) -> Path:
    """Lay out `_build/book`: the pages as they are, the notebooks and records fresh.

    Returns:
        The folder.
    """
    staged = root / "_build" / "book"
    shutil.rmtree(staged, ignore_errors=True)
    ignored = shutil.ignore_patterns(".*", "_build", "*.part.*", "*.failed.*")
    shutil.copytree(root / "book", staged, ignore=ignored)
    for job in map(fresh_job, chapters):
        for path in (job.notebook, job.record):
            place = staged / path.relative_to(root / "_build" / "run")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, place)
        reprint(job.chapter, staged / job.notebook.name)
    write_pages(staged, chapters)
    return staged


def render(root: Path, staged: Path) -> tuple[bool, str]:
    """Render `staged` to `_build/html`, a warning being an error.

    All pages are read anew: a page that Sphinx remembers would keep its warnings to itself.

    Returns:
        Whether it went well, and what Jupyter Book said.
    """
    where = ["--config", str(root / "_config.yml"), "--path-output", str(root)]
    strict = ["-W", "--keep-going", "--all"]
    jupyter_book = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", jupyter_book, "build", str(staged), *where, *strict]
    said, both = subprocess.PIPE, subprocess.STDOUT
    done = subprocess.run(command, cwd=root, text=True, stdout=said, stderr=both, check=False)
    return done.returncode == 0, done.stdout


def differences(chapters: list[Chapter]) -> Iterator[tuple[str, Change]]:
    """Yield what came out otherwise than is committed, each with the name of its chapter."""
    for chapter in chapters:
        committed, fresh = map(read_record, (chapter.record, fresh_job(chapter).record))
        if committed and fresh:
            yield from ((chapter.name, change) for change in outcomes(committed, fresh))


def verdicts(chapters: list[Chapter]) -> list[str]:
    """Return the verdict of every claim, as it came out fresh."""
    found = (read_record(fresh_job(chapter).record) or {} for chapter in chapters)
    return [claim["verdict"] for record in found for claim in record.get("claims", [])]


def _is_whole(notebook: Path) -> bool:
    try:
        return what_is_missing(nbformat.read(notebook, as_version=4)) is None
    except (OSError, ValueError):
        return False
