"""Put fresh executions in place of the committed ones, where their results differ."""

from collections.abc import Iterable
from pathlib import Path

from core.batch import claims_page, records
from core.batch.chapters import Chapter
from core.batch.execute import Job


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
    records.write_all({notebook: text, beside: records.text_of(fresh)})
    return True


def write_pages(book: Path, chapters: Iterable[Chapter]) -> list[Path]:
    """Write the pages made from the records in `book`; return those whose text changed."""
    due = claims_page.generated(book, chapters)
    changed = [p for p, text in due.items() if not p.is_file() or p.read_text("utf-8") != text]
    records.write_all({path: due[path] for path in changed})
    return changed
