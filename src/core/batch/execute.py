"""Execute one chapter, so that only a whole result is ever called a result.

Papermill runs the cells into a file with a temporary name. When every cell ran and none raised,
the notebook and its record take their names, `<stem>.ipynb` and `<stem>.json`. Whatever else
happens (a cell raises, the kernel is killed, time or disk run out, Ctrl-C), those stay as they
were, and what there is stands beside them as `<stem>.failed.ipynb` and `<stem>.failed.json`.
"""

import contextlib
import copy
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbformat import NotebookNode

from core.batch import notebook as nb
from core.batch import records
from core.batch.chapters import Chapter
from core.batch.parameters import DEFAULT_SCALE, defaults_of
from core.batch.reach import library_hashes
from core.batch.records import Record
from core.batch.trace import Tell, Trace, stopped
from core.command import Refused
from core.files import part_of, sweep, write_all
from core.provenance import provenance

STOPPED = "KeyboardInterrupt caught in kernel"  # a kernel is interrupted when it is no more needed


@dataclass(frozen=True)
class Job:
    """One execution to be done; all values are already checked."""

    chapter: Chapter
    out: Path
    scale: str = DEFAULT_SCALE
    given: dict[str, Any] = field(default_factory=dict)
    timeout: int | None = None
    """Seconds that a single cell may take, None for any number."""

    @property
    def notebook(self) -> Path:
        """Where the executed notebook comes to stand."""
        return self.out / f"{Path(self.chapter.name).name}.ipynb"

    @property
    def record(self) -> Path:
        """Where its record comes to stand."""
        return self.notebook.with_suffix(".json")

    @property
    def failed(self) -> tuple[Path, Path]:
        """Where the partial notebook and its record are kept if the run fails."""
        return self.notebook.with_suffix(".failed.ipynb"), self.notebook.with_suffix(".failed.json")

    @property
    def draft(self) -> Path:
        """What papermill saves after each cell; it warns of another suffix."""
        return self.out / f"{part_of(self.notebook).name}.ipynb"


class Incomplete(Exception):
    """The notebook ended without an error, and yet is no result."""


class Kernels(AsyncKernelManager):
    """Starts a kernel whose own standard error is a file, `said`, beside its connection file.

    What cells print travels by messages. Only what the kernel says of itself ends there.
    """

    async def start_kernel(self, **options: Any) -> None:
        """Start the kernel."""
        with Path(self.connection_file).with_name("said").open("ab") as said:
            await super().start_kernel(**options, stderr=said)


def open_folder(out: Path) -> None:
    """Make sure that results can be written there, and remove what dead processes left.

    Raises:
        Refused: they cannot.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise Refused(f"cannot write to {out}: {error.strerror}") from error
    sweep(out, r".+\.(ipynb|json)")


def execute(job: Job, tell: Tell = lambda done, total: None) -> Record:
    """Run the chapter and leave its notebook and record in `job.out`.

    Args:
        job: what to run, and where to.
        tell: called as each cell starts.

    Returns:
        The record; its `failure` says where and why where the run did not end well.

    Raises:
        Refused: the output folder cannot be written, or a source file is no Python.
        KeyboardInterrupt: as it came, after the partial result was kept.
    """
    open_folder(job.out)
    record = _opened(job)
    for path in job.failed:
        path.unlink(missing_ok=True)
    trace = Trace(len(nb.code_cells(job.chapter.source)) + bool(job.given), tell)
    began = time.monotonic()
    try:
        executed = _papermill(job, trace)
        record |= _findings(executed, trace, began)
        _keep(job, executed, record)
    except BaseException as error:
        partial = _partial(job)
        failure = stopped(job.chapter, trace, error)
        record |= {**_findings(partial, trace, began), "status": "failed", "failure": failure}
        _keep_failed(job, partial, record)
        if not isinstance(error, Exception):
            raise
    finally:
        job.draft.unlink(missing_ok=True)
    return record


def _opened(job: Job) -> Record:
    """Return the fields that are known before the run."""
    defaults = defaults_of(job.chapter)
    parameters = defaults | job.given
    return {
        "chapter": job.chapter.name,
        "title": job.chapter.title,
        "status": "done",
        "scale": job.scale,
        "parameters": parameters,
        "given": job.given,
        "seed": parameters.get("seed"),
        "source": job.chapter.sha256,
        "library": library_hashes(job.chapter),
        "provenance": provenance(job.chapter.root),
        "started": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "failure": None,
    }


def _papermill(job: Job, trace: Trace) -> NotebookNode:
    """Run all cells in a fresh kernel.

    Raises:
        Exception: of papermill, nbclient or the system, as it comes.
        Incomplete: none was raised, and yet some cell did not run, or raised.
    """
    import papermill  # a second to import, and most commands do not run anything
    from traitlets.config import Config

    logging.getLogger("papermill").addFilter(_is_news)
    os.environ.pop("MPLBACKEND", None)  # an exported Agg would make every figure vanish
    with tempfile.TemporaryDirectory(prefix="kernel-") as sockets, _passed_on(Path(sockets)):
        # no ports to race for; a folder each, or kernels side by side take each other's sockets
        private = {"transport": "ipc", "connection_file": f"{sockets}/kernel.json"}
        executed = papermill.execute_notebook(
            copy.deepcopy(job.chapter.source),  # it is changed in place
            # papermill formats the path with the parameters: braces in it are to be kept
            re.sub(r"[{}]", r"\g<0>\g<0>", str(job.draft.resolve())),
            job.given,
            cwd=job.chapter.script.parent,
            progress_bar=False,
            start_timeout=120,
            execution_timeout=job.timeout,
            on_cell_start=trace.start,
            on_cell_executed=trace.end,
            coalesce_streams=True,
            kernel_manager_class=Kernels,
            config=Config(KernelManager=private),
        )
    missing = nb.what_is_missing(executed)
    if missing:
        raise Incomplete(missing)
    return executed


@contextlib.contextmanager
def _passed_on(folder: Path) -> Iterator[None]:
    """Pass on what the kernel said of itself, unless we stopped it: that it lost us is no news."""
    from nbclient.exceptions import CellTimeoutError

    try:
        yield
    except (CellTimeoutError, KeyboardInterrupt):
        (folder / "said").unlink(missing_ok=True)
        raise
    finally:
        with contextlib.suppress(OSError):
            said = (folder / "said").read_text(encoding="utf-8", errors="replace")
            sys.stderr.writelines(line for line in said.splitlines(True) if STOPPED not in line)


def _is_news(line: logging.LogRecord) -> bool:
    """Return whether it says more than the error that follows it."""
    return not line.getMessage().startswith("Timeout waiting for execute reply")


def _findings(notebook: NotebookNode | None, trace: Trace, began: float) -> Record:
    return {
        "seconds": round(time.monotonic() - began, 3),
        "cells": trace.cells,
        "warnings": nb.warnings_in(notebook) if notebook else [],
        "claims": nb.claims_in(notebook) if notebook else [],
        "figures": nb.figures_in(notebook) if notebook else {},
    }


def _keep(job: Job, executed: NotebookNode, record: Record) -> None:
    """Give the result its name, notebook and record together."""
    notebook = nbformat.writes(nb.normalise(executed)) + "\n"
    write_all({job.notebook: notebook, job.record: records.text_of(record)})


def _keep_failed(job: Job, partial: NotebookNode | None, record: Record) -> None:
    """Keep what there is, each file for itself: on a full disk the record may still fit."""
    notebook, beside = job.failed
    texts = {beside: records.dumped(record)}
    if partial is not None:
        texts[notebook] = nbformat.writes(nb.without_banners(partial)) + "\n"
    for path, text in texts.items():
        with contextlib.suppress(OSError):
            write_all({path: text})


def _partial(job: Job) -> NotebookNode | None:
    """Return what papermill had saved, None if it is torn, as on a full disk."""
    try:
        return nbformat.read(job.draft, as_version=4)
    except (OSError, ValueError):
        return None
