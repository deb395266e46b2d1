"""Follow the cells of a running notebook, and say in which one it stopped, and why."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nbformat import NotebookNode

from core.batch import notebook as nb
from core.batch.chapters import Chapter

Tell = Callable[[int, int], None]
"""Told, as code cells start and end: how many are done, and how many there are."""


@dataclass
class Trace:
    """Follows the cells of a running notebook."""

    total: int
    tell: Tell
    current: NotebookNode | None = None
    index: int | None = None
    cells: list[dict[str, Any]] = field(default_factory=list)
    started: float = 0.0

    def start(self, cell: NotebookNode, cell_index: int) -> None:
        """Note the cell that starts."""
        self.current, self.index, self.started = cell, cell_index, time.monotonic()
        if cell.cell_type == "code":
            self.tell(len(self.cells), self.total)

    def end(self, cell_index: int, **_: Any) -> None:
        """Note how long the cell took."""
        seconds = round(time.monotonic() - self.started, 3)
        self.cells.append({"index": cell_index, "seconds": seconds})
        self.tell(len(self.cells), self.total)


def stopped(chapter: Chapter, trace: Trace, error: BaseException) -> dict[str, Any]:
    """Return where the run stopped and why, as the field `failure` of a record."""
    from papermill.exceptions import PapermillExecutionError

    kind, message, offset = type(error).__name__, str(error).strip(), 1
    if isinstance(error, PapermillExecutionError):
        kind, message, offset = error.ename, error.evalue.strip(), _line_in_cell(error.traceback)
    line, code = _place(chapter, trace.current, offset)
    first = next(iter(message.splitlines()), "")
    return {"cell": trace.index, "line": line, "code": code, "error": kind, "message": first}


def told(failure: dict[str, Any]) -> str:
    """Return the field `failure` of a record as part of a line."""
    at = f"line {failure['line']} ({failure['code']})" if failure["line"] else "its start"
    return f"{at}: {failure['error']}: {failure['message']}"


def _line_in_cell(traceback: list[str]) -> int:
    """Return the line of the cell at which an IPython traceback begins."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(traceback))
    found = re.search(r"Cell In\[\d+\], line (\d+)", plain)
    return int(found[1]) if found else 1


def _place(chapter: Chapter, cell: NotebookNode | None, offset: int) -> tuple[int | None, str]:
    """Return the line of the script, from 1, that is line `offset` of the cell, and its text."""
    position = 0
    for source in (source for _, source in nb.code_cells(chapter.source)):
        start = re.compile(rf"^# %%.*\n(?={re.escape(source.source)})", re.M)
        found = start.search(chapter.text, position)
        position = found.end() if found else position
        if found and cell is not None and source.id == cell.id:
            line = chapter.text.count("\n", 0, position) + offset
            return line, chapter.text.splitlines()[line - 1].strip()
    return None, ""
