"""Execute one task of a grid, in whatever process a worker is: claim, execute, seal.

Papermill changes the working directory of its process, so that a process executes one chapter at
a time, however many threads a worker has.
"""

import errno
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from core.batch.chapters import find_chapters
from core.batch.execute import Job, execute
from core.batch.grid import Task, key_of_now
from core.batch.records import Record
from core.batch.results import FAILED, Results
from core.batch.storage import results_at
from core.batch.trace import told
from core.command import Refused

ONE = threading.Lock()
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True)
class Orders:
    """What is the same for all tasks of a grid."""

    root: str
    """The folder that holds `book/`; the same path on every worker."""
    results: str
    timeout: int | None = None
    """Seconds that a single cell may take, None for any number."""
    threads: int = 1
    """On how many a task computes: sums change in the seventh digit with their number."""


class Outcome(NamedTuple):
    """What came of a task."""

    state: Literal["done", "failed", "busy"]
    said: str = ""
    """Where and why it failed."""


def perform(task: Task, orders: Orders) -> Outcome:
    """Execute the task unless it is done, or another process is at it.

    Returns:
        The outcome; `busy` if another process is at it.

    Raises:
        Refused: the chapter or the library are no longer what was asked for, the results cannot
            be written, or the disk is full.
    """
    try:
        return _claimed(task, orders, results_at(orders.results))
    except OSError as error:
        if error.errno in FORBIDDEN:
            why = error.strerror or str(error)
            raise Refused(f"cannot write to {error.filename or orders.results}: {why}") from error
        if error.errno not in FULL:
            raise
        raise _full(str(error)) from error


def _claimed(task: Task, orders: Orders, results: Results) -> Outcome:
    with ONE, results.claim(task.key) as scratch:
        if scratch is None:
            return Outcome("busy")
        if results.is_done(task.key):
            return Outcome("done")
        os.environ.update(dict.fromkeys(THREADS, str(orders.threads)))
        record = _executed(task, orders, scratch)
        if record["failure"] is None:
            results.publish(scratch, task.key)
            return Outcome("done")
        return _failed(task, record["failure"], results, scratch)


def _executed(task: Task, orders: Orders, scratch: Path) -> Record:
    root = Path(orders.root)
    (chapter,) = find_chapters(root, (task.chapter,))
    job = Job(chapter, scratch, task.scale, task.given, orders.timeout)
    if key_of_now(task, chapter) == task.key:
        record = execute(job)
        if key_of_now(task, chapter) == task.key:
            return record
    name = f"book/{task.chapter}.py or the library it reaches"
    raise Refused(f"{name} is not what was asked for, or changed meanwhile: run the grid again")


def _full(told: str) -> Refused:
    return Refused(f"the disk is full ({told}): make room, run the grid again")


def _failed(task: Task, failure: dict[str, Any], results: Results, scratch: Path) -> Outcome:
    if failure["message"].startswith(tuple(f"[Errno {number}]" for number in FULL)):
        raise _full(failure["message"])
    results.keep_failure(scratch, task.key)
    kept = f"{results.place}/{FAILED}/{task.key}"
    return Outcome("failed", f"failed at {told(failure)}; kept in {kept}")
