"""Put fresh executions in place of the committed ones, where their results differ."""

from collections.abc import Iterable
from pathlib import Path

import nbformat

from core.batch import claims_page, records
from core.batch import notebook as nb
from core.batch.chapters import Chapter
from core.batch.execute import Job
from core.files import write_all


def install(job: Job, notebook: Path) -> bool:
    """Copy the result of `job` to `notebook` and to the record beside it.

    Nothing is touched where the notebook is the same and the records differ in their circumstances
    alone: the commit, the versions, the time taken.

    Returns:
        Whether the files were replaced.
    """
    beside = notebook.with_suffix(".json")
    fresh, text = records.read_record(job.record), job.notebook.read_text(encoding="utf-8")
    committed = records.read_record(beside)
    if fresh is None:
        raise FileNotFoundError(f"no record at {job.record}")
    same = committed is not None and records.result_of(committed) == records.result_of(fresh)
    if same and notebook.is_file() and notebook.read_text(encoding="utf-8") == text:
        return False
    notebook.parent.mkdir(parents=True, exist_ok=True)
    write_all({notebook: text, beside: records.text_of(fresh)})
    return True


def reprint(chapter: Chapter, notebook: Path) -> bool:
    """Give an execution the script's prose and tags, its record the title and figures' names.

    Args:
        chapter: whose script it is.
        notebook: a whole execution at the defaults, with its record beside it.

    Returns:
        Whether the files were replaced: not where they agree with the script, and not where the
        code is another, which only an execution mends.
    """
    beside = notebook.with_suffix(".json")
    record = records.read_record(beside)
    try:
        executed = nbformat.read(notebook, as_version=4)
    except (OSError, ValueError):
        return False
    other = nb.code_hash(executed) != chapter.sha256
    if record is None or other or nb.same_source(executed, chapter.source):
        return False
    again = nb.with_prose(executed, chapter.source)
    record |= {"title": chapter.title, "figures": nb.figures_in(again)}
    write_all({notebook: nbformat.writes(again) + "\n", beside: records.text_of(record)})
    return True


def write_pages(book: Path, chapters: Iterable[Chapter]) -> list[Path]:
    """Write the pages made from the records in `book`; return those whose text changed."""
    due = claims_page.generated(book, chapters)
    changed = [p for p, text in due.items() if not p.is_file() or p.read_text("utf-8") != text]
    write_all({path: due[path] for path in changed})
    return changed
