"""Run chapters side by side, each in a process of its own.

Threads would not do: papermill changes the working directory of the whole process. Every worker
computes on one thread, for sums change in the seventh digit with the number of threads.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType

from core.batch.execute import Job, execute, open_folder
from core.batch.records import Record, read_record

Show = Callable[[str, int, int], None]
"""Told, as code cells start and end: the chapter, how many cells are done, how many there are."""


def interrupt_on_signals() -> None:
    """Let SIGTERM do what Ctrl-C does, once: while a result is put away, more are not heard."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)


def side_by_side(jobs: list[Job], show: Show, *, at_once: int) -> dict[str, Record | None]:
    """Execute all jobs, at most `at_once` at a time.

    Args:
        jobs: at most one for each chapter.
        show: called in this process.
        at_once: processes; each takes one core, and the memory of one chapter.

    Returns:
        Chapter -> record; None where the process died without one, as when memory runs out.

    Raises:
        Refused: an output folder cannot be written.
        KeyboardInterrupt: as it came, after every worker has put its partial result away.
    """
    for job in jobs:
        open_folder(job.out)
    waiting = list(jobs)
    running: dict[Connection, tuple[Job, BaseProcess]] = {}
    ended: dict[str, Record | None] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                news, worker = _started(waiting[0])
                running[news] = (waiting.pop(0), worker)
            ready = wait(running)
            for news in [news for news in running if news in ready]:
                job, worker = running[news]
                try:
                    show(job.chapter.name, *news.recv())
                except EOFError:
                    worker.join()
                    ended[job.chapter.name] = _outcome(job, worker)
                    del running[news]
    finally:
        _stop([worker for _, worker in running.values()])
    return ended


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _started(job: Job) -> tuple[Connection, BaseProcess]:
    """Start a worker; its end of the connection closes when it ends, however it does."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    worker = spawn.Process(target=_work, args=(job, theirs))
    worker.start()
    theirs.close()
    return ours, worker


def _work(job: Job, news: Connection) -> None:
    """Run in the worker: exit with 0 if done, 1 if failed, 130 if interrupted."""
    interrupt_on_signals()
    threading.Thread(target=_follow_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        record = execute(job, lambda done, total: news.send((done, total)))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    raise SystemExit(record["status"] != "done")


def _follow_parent() -> None:
    """Stop this worker when the process that started it was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _outcome(job: Job, worker: BaseProcess) -> Record | None:
    return read_record(job.record if worker.exitcode == 0 else job.failed[1])


def _stop(workers: list[BaseProcess]) -> None:
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join()
